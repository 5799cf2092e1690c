"""Text of results, by example."""

from __future__ import annotations

from gcnrec.reports.text import bench_line, columns, comparison_lines, dataset_lines, figure_lines, metric_lines, search_lines
from gcnrec.results.compare import Comparison, Difference


def test_columns_align():
    assert columns([("a", "1"), ("long", "22")]) == ["a     1", "long  22"]
    assert columns([]) == []


def test_metrics_by_length_then_intervals_and_segments():
    metrics = {"split": "test", "recall@20": 0.18651, "recall@5": 0.1, "ndcg@20": 0.1561}
    metrics |= {"intervals": {"recall@20": [0.18, 0.19], "recall@5": [0.0, 1.0]}, "deciles": [1]}
    metrics |= {"segments": {"new": {"users": 3000, "recall@20": 0.1}}}
    assert metric_lines(metrics) == [
        "test split  @5      @20",
        "recall      0.1000  0.1865",
        "ndcg                0.1561",
        "recall@20  0.1865, 95% interval 0.1800 to 0.1900",
        "",
        "segment new: 3,000 users",
        "        @20",
        "recall  0.1000",
    ]
    assert metric_lines({}) == []


def test_dataset_shows_what_was_dropped():
    info = {"format": 1, "name": "tiny", "num_users": 29858, "report": {"duplicates": 12, "cold": 0, "lines": ["x"]}, "files": {}}
    assert dataset_lines(info) == ["name       tiny", "num_users  29,858", "", "report", "duplicates  12"]


def test_figures_nest():
    facts = {"devices": [], "a": None, "threads": {"torch": 2, "on": True}, "gpus": [{"name": "x"}, {"name": "y"}]}
    assert figure_lines(facts) == [
        "devices  none",
        "a        -",
        "",
        "threads",
        "  torch  2",
        "  on     yes",
        "",
        "gpus",
        "  name",
        "  x",
        "  y",
    ]
    assert figure_lines({"threads": {"torch": 1}}) == ["threads", "  torch  1"]
    assert figure_lines({"rows": 3, "dropped": {}}) == ["rows  3"]
    assert figure_lines({"dropped": {}}) == []


def test_records_are_a_table_and_sentences_have_lines():
    facts = {
        "a": [{"n": 1, "x": 0.5}, {"n": 2, "y": True}],
        "new": {"users": 942.0, "share": 1.0},
        "b": [{"x": {}}, {"x": {"y": 1}}],
    }
    assert figure_lines(facts) == [
        "a", "  n  x       y", "  1  0.5000  -", "  2  -       yes", "", "new", "  users  942", "  share  1.0000",
        "", "b", "", "b", "  x", "    y  1",
    ]  # fmt: skip
    said = ["three rows were dropped", "no user is cold " * 6, "\x1b[31m"]
    assert figure_lines({"lines": said, "k": [1, 2]}) == ["k  1, 2", "", "lines", f"  {said[0]}", f"  {said[1]}", "  '\\x1b[31m'"]
    wide = {f"column_{n}": n for n in range(20)}
    assert figure_lines({"a": [wide, wide]}).count("a") == 2


def test_comparison():
    rows = [Difference("b", name, 0.1, 0.2, 0.1, -0.05, 0.15, 0.01, 0.02) for name in ("recall@20", "ndcg@20")]
    rows.append(Difference("c", "recall@20", 0.1, 0.0, -0.1, -0.2, -0.05, 0.0, 0.001))
    assert comparison_lines(Comparison("a", "test", 1000, "a test", tuple(rows))) == [
        "base a, test split, 1,000 users; a test",
        "",
        "b",
        "metric     base    value   difference  95% interval        p (Holm)",
        "recall@20  0.1000  0.2000  +0.1000     -0.0500 to +0.1500  0.0200",
        "ndcg@20    0.1000  0.2000  +0.1000     -0.0500 to +0.1500  0.0200",
        "",
        "c",
        "metric     base    value   difference  95% interval        p (Holm)",
        "recall@20  0.1000  0.0000  -0.1000     -0.2000 to -0.0500  0.0010",
    ]


def test_settings_of_a_search_can_be_typed():
    params = {"loss.l2": 8.965041e-06, "train.batch_size": 1024, "table.budget": 0.25, "loss.score": "inner"}
    found = {"trials": 9, "pruned": 3, "failed": 1, "best": 4, "epoch": 7, "recall@20": 0.34384, "params": params}
    assert search_lines(found, "recall@20") == [
        "9 trials, 3 ended early, 1 failed", "best: trial 4, validation recall@20 0.3438 after epoch 7",
        "  loss.l2 = 8.965e-06", "  train.batch_size = 1024", "  table.budget = 0.25", '  loss.score = "inner"',
    ]  # fmt: skip


def test_bench_rows():
    row = {"bench": "demo", "variant": "gcnrec", "seconds": 0.5, "rate": 2e6, "peak_bytes": 3 * 2**20}
    assert bench_line(row).split() == ["demo", "gcnrec", "500.00", "ms", "2,000,000", "/s", "3.0", "MiB"]
    last = {"bench": "demo", "summary": True, "ours": "gcnrec", "best_peer": "scipy", "speedup": 1.5, "absent": []}
    assert bench_line(last) == "demo  gcnrec against scipy: 1.50x"
    assert bench_line({**last, "speedup": None, "absent": ["dgl"]}) == "demo  gcnrec against scipy: unknown; absent: dgl"


def test_values_of_a_shop_s_data_keep_to_their_line():
    rows = [{"value": value, "values": 1, "items": 1, "pairs": 1, "recall@5": 0.5} for value in ("a\nb", "\x1b[31mred", "wine")]
    found = metric_lines({"per": {"ki\tnd": rows}, "segments": {"x\r\ny": {"users": 1, "recall@5": 0.5}}})
    assert all(line.isprintable() for line in found)
    assert found[1] == r"segment 'x\r\ny': 1 users"
    assert [line.split()[0] for line in found[-4:]] == [r"'ki\tnd'", r"'a\nb'", r"'\x1b[31mred'", "wine"]
