"""Files of cards: from the first source that works, checked before they are read and at each use; nothing of them is run."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Data
from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.cards import load_card
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.sources import find_card, materialise, resolve_card

TABLE = "user_id:token\titem_id:token\trating:float\n1\t7\t4.5\n2\t7\t3\n1\t8\t5\n"
COLUMNS = 'columns = { user_id = "int64", item_id = "int64", rating = "float32" }'
ROWS = {"user_id": [1, 2, 1], "item_id": [7, 7, 8], "rating": [4.5, 3.0, 5.0]}
WORLD = "[synthetic]\nusers = 300\nitems = 100\nedges = 500\nblocks = 5"


def sha256(content):
    return hashlib.sha256(content if isinstance(content, bytes) else content.encode()).hexdigest()


@pytest.fixture
def card(tmp_path):
    """Write a card with the given sources for one file; returns the loaded card."""

    def call(*ways, columns=COLUMNS, path="tiny/ratings.parquet", extra=""):
        text = '[card]\nname = "tiny"\ntitle = "three ratings"\nlicence = "none"\norigin = "this test"\n'
        text += f'[data]\ntrain = "{path}"\nuser = "user_id"\nitem = "item_id"\nsplit = "random"\n'
        text += f'[[file]]\npath = "{path}"\n{columns}\n' if ways else ""
        (tmp_path / "card.toml").write_text(text + "".join(f"[[file.source]]\n{way}\n" for way in ways) + extra)
        return load_card(tmp_path / "card.toml")

    return call


@pytest.fixture
def fetched(tmp_path, card):
    """The path that a card with such sources leads to; `said` of the call has what was told."""

    def call(*ways, **of_card):
        call.said = []
        return Path(materialise(card(*ways, **of_card), None, tmp_path / "cache", call.said.append).train)

    return call


@pytest.fixture
def refused(fetched, tmp_path):
    """The sentence that ends a card with such sources; nothing of them stays in the cache."""

    def call(*ways, **of_card):
        with pytest.raises(DataError) as caught:
            fetched(*ways, **of_card)
        assert str(caught.value).isprintable() and not [*(tmp_path / "cache").glob("*/*")]
        return str(caught.value)

    return call


def at(path, content=TABLE, member=None):
    """A source: the file at `path`, which must be of that content."""
    inside = f'\nmember = "{member}"' if member else ""
    return f'url = "{path.as_uri()}"{inside}\nsha256 = "{sha256(content)}"'


def wheel(version="1.0", content=TABLE):
    return f'wheel = "tiny=={version}"\nmember = "tiny/table.tsv"\nsha256 = "{sha256(content)}"'


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of packages that pip takes instead of any index; the working directory is an empty one."""
    (tmp_path / "index").mkdir()
    (tmp_path / "here").mkdir()
    for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": tmp_path / "index"}.items():
        monkeypatch.setenv(f"PIP_{name}", str(value))
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "index"


def put_wheel(index, version="1.0", table=TABLE):
    with zipfile.ZipFile(index / f"tiny-{version}-py3-none-any.whl", "w") as file:
        file.writestr("tiny/table.tsv", table)
        file.writestr(f"tiny-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n")
        file.writestr(f"tiny-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"tiny-{version}.dist-info/RECORD", "")


@pytest.fixture
def server(monkeypatch):
    """A server on this machine; returns its address and a dict from paths to (status, headers, body)."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    answers = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = answers[self.path]
            self.send_response(status, headers.pop("reason", None))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}", answers
        serving.shutdown()


def test_a_file_under_data_root(tmp_path, card):
    (tmp_path / "root").mkdir()
    pq.write_table(pa.table({"user_id": [1], "item_id": [2]}), tmp_path / "elsewhere.parquet")
    (tmp_path / "root" / "r.parquet").symlink_to(tmp_path / "elsewhere.parquet")  # a link of the person who has the folder
    digest = sha256((tmp_path / "elsewhere.parquet").read_bytes())
    data = materialise(card(f'root = "r.parquet"\nsha256 = "{digest}"'), tmp_path / "root", tmp_path / "cache")
    assert data.train == str((tmp_path / "elsewhere.parquet").resolve()) and not (tmp_path / "cache").exists()
    with pytest.raises(DataError, match=f"sha256 must be {'0' * 64}, is {digest}"):
        materialise(card(f'root = "r.parquet"\nsha256 = "{"0" * 64}"'), tmp_path / "root", tmp_path / "cache")


def test_sources_are_tried_in_order_and_text_becomes_parquet(tmp_path, card):
    (tmp_path / "table.tsv").write_text(TABLE)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("inside/table.tsv", TABLE)
    ways = (
        f'root = "absent.parquet"\nsha256 = "{sha256(TABLE)}"',
        at(tmp_path / "absent"),
        at(tmp_path / "archive.zip", member="inside/other.tsv"),
        at(tmp_path / "table.tsv", "other"),
        at(tmp_path / "archive.zip", member="inside/table.tsv"),
    )
    said = []
    data = materialise(card(*ways), tmp_path, tmp_path / "cache", said.append)
    assert pq.read_table(data.train).to_pydict() == ROWS
    assert [path.name for path in (tmp_path / "cache" / "tiny").iterdir()] == [Path(data.train).name] and len(said) == 4
    (tmp_path / "archive.zip").unlink()
    assert materialise(card(*ways), None, tmp_path / "cache").train == data.train, "the second time it comes from the cache"


def test_failure_lists_what_was_tried(tmp_path, refused):
    (tmp_path / "table.tsv").write_text(TABLE + "damage")
    ways = (f'root = "absent.parquet"\nsha256 = "{sha256(TABLE)}"', at(tmp_path / "absent"), at(tmp_path / "table.tsv"))
    message = refused(*ways)
    for part in ("no --data-root was given", "no such file", f"sha256 must be {sha256(TABLE)}", "DIR/tiny/ratings.parquet"):
        assert part in message


def test_a_file_inside_a_wheel_is_brought_by_the_true_pip(index, fetched, monkeypatch):
    """There is another version of the wheel, and a module `pip` in the working directory and on PYTHONPATH."""
    put_wheel(index, "1.0", TABLE)
    put_wheel(index, "1.1", "other")
    Path("pip.py").write_text("raise SystemExit('the wrong pip')")
    monkeypatch.setenv("PYTHONPATH", str(Path().resolve()))
    assert pq.read_table(fetched(wheel("1.0"))).to_pydict() == ROWS


def test_a_source_distribution_is_not_built(tmp_path, index, refused):
    """Nor a folder or archive of that name where the command is run."""
    code = f"open({str(tmp_path / 'proof')!r}, 'w')\nfrom setuptools import setup\nsetup(name='tiny', version='1.0')\n"
    for folder in ("tiny-1.0", "tiny==1.0"):
        Path(folder).mkdir()
        (Path(folder) / "setup.py").write_text(code)
    subprocess.run(["tar", "czf", index / "tiny-1.0.tar.gz", "tiny-1.0"], check=True)
    assert "No matching distribution found for tiny==1.0" in refused(wheel())
    assert not (tmp_path / "proof").exists()


def test_a_wheel_of_another_version_is_refused(index, refused):
    put_wheel(index, "1.0.0")
    assert "must bring one file, a wheel of that version, brought tiny-1.0.0-py3-none-any.whl" in refused(wheel("1.0"))


def test_a_pip_that_takes_too_long_is_ended(index, refused, monkeypatch):
    monkeypatch.setattr("gcnrec.loaders.downloads._PIP_SECONDS", 0.01)
    assert "pip took longer than 0.01 s" in refused(wheel())


def test_no_card_runs_code_or_reads_files_through_pip(tmp_path, gcnrec):
    """The case of a card whose wheel is a path, and of one whose wheel is an option of pip."""
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "setup.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')")
    (tmp_path / "secret").write_text("a secret line\n")
    for text in (tmp_path / "pkg", f"--requirement={tmp_path / 'secret'}", f"tiny @ file://{tmp_path / 'pkg'}"):
        way = f'wheel = "{text}"\nmember = "a"\nsha256 = "{"0" * 64}"\n'
        about = '[card]\nname = "c"\ntitle = "t"\nlicence = "l"\norigin = "o"\n'
        (tmp_path / "card.toml").write_text(f'{about}[data]\ntrain = "a"\n[[file]]\npath = "a"\n[[file.source]]\n{way}')
        code, _, err = gcnrec("ingest", "card.toml", "--out", "out")
        assert code == 2 and "expects NAME==VERSION" in err and err.count("\n") == 1
        assert "secret line" not in err and not (tmp_path / "proof").exists() and not (tmp_path / "out").exists()


def test_a_file_from_the_web(server, fetched):
    address, answers = server
    answers["/moved"] = (302, {"Location": f"{address}/table.tsv"}, b"")
    answers["/table.tsv"] = (200, {}, TABLE.encode())
    assert pq.read_table(fetched(f'url = "{address}/moved"\nsha256 = "{sha256(TABLE)}"')).to_pydict() == ROWS


ELSEWHERE = ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "FILE:///etc/passwd", "//[::1", "http://h:x/"]


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_a_redirect_to_anything_but_the_web_is_refused(server, refused, elsewhere):
    address, answers = server
    answers["/moved"] = (302, {"Location": elsewhere}, b"")
    assert "/moved: " in refused(f'url = "{address}/moved"\nsha256 = "{sha256(TABLE)}"')


def test_text_of_a_server_is_cut_to_one_short_line(server, refused):
    address, answers = server
    answers["/"] = (404, {"reason": "\x1b[2J" + "long " * 1000}, b"body\n")
    message = refused(f'url = "{address}/"\nsha256 = "{sha256(TABLE)}"')
    assert "404" in message and "body" not in message and len(message) < 500


@pytest.fixture
def small_disk(monkeypatch):
    """A disk with 6,000 free bytes."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=6000))


def test_a_download_that_would_fill_the_disk_is_left(server, refused, small_disk):
    address, answers = server
    answers["/"] = (200, {}, b"x" * 5000)
    assert "more than 3,000 bytes" in refused(f'url = "{address}/"\nsha256 = "{sha256("x" * 5000)}"')


def zipped(path, content=TABLE, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("table.tsv", content)
    return path


def test_a_member_that_would_fill_the_disk_is_refused(tmp_path, refused, small_disk):
    path = zipped(tmp_path / "bomb.zip", "\0" * 5000)
    assert path.stat().st_size < 3000 and "more than 3,000 bytes" in refused(at(path, "\0" * 5000, member="table.tsv"))


def test_a_member_that_says_it_is_huge_is_refused(tmp_path, refused):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w") as archive:
        archive.writestr("table.tsv", TABLE)
        archive.infolist()[0].file_size = 2**40
    assert "the limit is 17,179,869,184 bytes" in refused(at(tmp_path / "bomb.zip", member="table.tsv"))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_grows_without_bound_is_refused(tmp_path, refused, method):
    path = zipped(tmp_path / "a.zip", "\0" * 10**6, method)
    assert "must be stored or deflated" in refused(at(path, "\0" * 10**6, member="table.tsv"))


def damaged(whole, kind):
    central = whole.index(b"PK\x01\x02")
    match kind:
        case "data":
            whole[60:70] = bytes(10)
        case "password":
            whole[6] |= 1
            whole[central + 8] |= 1
        case "cut":
            del whole[central + 10 :]
        case "no zip":
            whole[:] = b"text"
        case "another name":
            whole[30:39] = b"other.tsv"
        case "far away":
            whole[central + 42 : central + 46] = b"\xff\xff\xff\x7f"
    return whole


@pytest.mark.parametrize("kind", ["data", "password", "cut", "no zip", "another name", "far away"])
def test_a_damaged_archive_ends_in_a_sentence(tmp_path, refused, kind):
    path = zipped(tmp_path / "a.zip")
    path.write_bytes(damaged(bytearray(path.read_bytes()), kind))
    assert "a.zip: it cannot be read as a zip" in refused(at(path, member="table.tsv")) or kind == "password"


def test_a_member_is_not_unpacked_by_its_name(tmp_path, fetched):
    """Not even beside one of an honest name: a link and a path that leads out."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../out.txt", "x")
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("table.tsv", TABLE)
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    path = fetched(at(tmp_path / "a.zip", member="table.tsv"))
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} - before == {tmp_path / "card.toml"}
    assert pq.read_table(path).to_pydict() == ROWS
    assert not fetched(at(tmp_path / "a.zip", "/etc/passwd", member="link"), columns="").is_symlink()


@pytest.mark.parametrize("url", ["file://{}", "file://{}/pipe", "file:///dev/zero", "file:///a%00", "file:///" + "x" * 1000])
def test_a_file_url_names_a_file(tmp_path, refused, url):
    os.mkfifo(tmp_path / "pipe")
    message = refused(f'url = "{url.format(tmp_path)}"\nsha256 = "{sha256(TABLE)}"')
    assert "no such file" in message or "File name too long" in message


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (b"us\xffer_id\titem_id\n1\t2\n", "in UTF-8"),
        (b"", "the file is empty"),
        (b"\n", "it has no column 'user_id'"),
        (b"\t" * 10_000, "its first line must name at most 10,000 columns, names 10,001"),
        (b"user_id\trating\n1\t2\n", "it has no column 'item_id' among user_id, rating"),
        (b"user_id\titem_id\tuser_id\trating\n1\t2\t3\t4\n", "it has more than one column 'user_id'"),
        (b"user_id\titem_id\trating\n1\t2\n", "it cannot be read as a table"),
        (b"user_id\titem_id\trating\n1\tx\t2\n", "it cannot be read as a table"),
        (b"user_id\titem_id\trating\n" + b"9" * 99 + b"\t1\t2\n", "it cannot be read as a table"),
        (b"user_id\titem_id\trating", "it cannot be read as a table"),
        (b"\x1b[2J\t" * 9_000, "it has no column 'user_id' among ?[2J"),
        (b"x" * 3_000_000, "it has no column 'user_id'"),
    ],
)
def test_a_table_that_is_not_what_the_card_says_ends_in_a_sentence(tmp_path, refused, table, sentence):
    (tmp_path / "table.tsv").write_bytes(table)
    message = refused(at(tmp_path / "table.tsv", table))
    assert sentence in message and len(message) < 800


def test_no_byte_is_read_as_a_table_before_its_digest_is_checked(tmp_path, refused):
    (tmp_path / "table.tsv").write_bytes(b"no \xff table")
    assert f"sha256 must be {sha256(TABLE)}" in refused(at(tmp_path / "table.tsv"))


def test_a_cached_file_that_was_changed_is_fetched_again(tmp_path, fetched):
    (tmp_path / "table.tsv").write_text(TABLE)
    path = fetched(at(tmp_path / "table.tsv"))
    whole = path.read_bytes()
    assert fetched(at(tmp_path / "table.tsv")) == path and fetched.said == []
    for content in (b"", whole[:-1], whole.replace(whole[50:60], bytes(10))):
        path.write_bytes(content)
        assert fetched(at(tmp_path / "table.tsv")).read_bytes() == whole
        assert len(fetched.said) == 2 and "is not what was kept there" in fetched.said[0] and "fetching" in fetched.said[1]


def test_another_file_under_a_name_of_the_cache_is_not_taken_for_the_cards(tmp_path, fetched):
    """Its name holds its own digest; the card's is another."""
    pq.write_table(pa.table({"user_id": [1], "item_id": [2]}), tmp_path / "true.parquet")
    pq.write_table(pa.table({"user_id": [8], "item_id": [9]}), tmp_path / "planted.parquet")
    planted, whole = ((tmp_path / f"{name}.parquet").read_bytes() for name in ("planted", "true"))
    path = fetched(at(tmp_path / "true.parquet", whole), columns="")
    path.with_name(path.name.replace(sha256(whole), sha256(planted))).write_bytes(planted)
    path.unlink()
    assert fetched(at(tmp_path / "true.parquet", whole), columns="").read_bytes() == whole


def test_a_cached_file_that_was_changed_is_not_used_when_its_source_is_gone(tmp_path, fetched, refused):
    (tmp_path / "table.tsv").write_text(TABLE)
    fetched(at(tmp_path / "table.tsv")).write_bytes(b"x")
    (tmp_path / "table.tsv").unlink()
    assert "no such file" in refused(at(tmp_path / "table.tsv"))


def test_a_cached_file_of_an_earlier_version_is_not_trusted(tmp_path, fetched):
    (tmp_path / "table.tsv").write_text(TABLE)
    (tmp_path / "cache" / "tiny").mkdir(parents=True)
    (tmp_path / "cache" / "tiny" / f"ratings-{sha256(TABLE)[:16]}.parquet").write_bytes(b"anything")
    assert pq.read_table(fetched(at(tmp_path / "table.tsv"))).to_pydict() == ROWS and len(fetched.said) == 1


def test_other_columns_are_another_cached_file(tmp_path, fetched):
    (tmp_path / "table.tsv").write_text(TABLE)
    shapes = [COLUMNS, 'columns = { user_id = "string", item_id = "int64" }']
    shapes += ['columns = { item_id = "int64", user_id = "string" }', ""]
    paths = [fetched(at(tmp_path / "table.tsv"), columns=shape) for shape in shapes]
    assert len({*paths}) == 4 and paths[3].read_text() == TABLE
    assert [pq.read_schema(path).names for path in paths[:3]] == [[*ROWS], ["user_id", "item_id"], ["item_id", "user_id"]]
    assert [fetched(at(tmp_path / "table.tsv"), columns=shape) for shape in shapes] == paths


@pytest.mark.parametrize("path", ["a/*[x]?.parquet", "~.parquet", "-r.parquet", ".parquet", "é.parquet", "x" * 300])
def test_an_odd_name_of_a_file_is_a_plain_one_in_the_cache(tmp_path, fetched, path):
    (tmp_path / "table.tsv").write_text(TABLE)
    cached = fetched(at(tmp_path / "table.tsv"), path=path)
    assert cached.parent == (tmp_path / "cache" / "tiny").resolve() and fetched(at(tmp_path / "table.tsv"), path=path) == cached


def as_link(path, target):
    path.rename(target)
    path.symlink_to(target)


def as_folder(path, target):
    path.unlink()
    path.mkdir()


def as_pipe(path, target):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("change", [as_link, as_folder, as_pipe])
def test_only_a_file_in_the_cache_is_taken_for_one(tmp_path, fetched, change):
    (tmp_path / "table.tsv").write_text(TABLE)
    path = fetched(at(tmp_path / "table.tsv"))
    change(path, tmp_path / "target")
    try:
        assert pq.read_table(fetched(at(tmp_path / "table.tsv"))).to_pydict() == ROWS
    except DataError as problem:
        assert "remove it" in str(problem) and str(problem).isprintable()


def test_a_folder_of_the_cache_that_leads_elsewhere_is_refused(tmp_path, fetched):
    (tmp_path / "table.tsv").write_text(TABLE)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tiny").symlink_to(tmp_path / "elsewhere")
    for ways, extra in (((at(tmp_path / "table.tsv"),), ""), ((), WORLD)):
        with pytest.raises(DataError, match="is a link or a file; remove it"):
            fetched(*ways, extra=extra)
    assert not [*(tmp_path / "elsewhere").iterdir()]


def test_a_synthetic_world_that_was_changed_is_made_again(tmp_path, fetched):
    path = fetched(extra=WORLD)
    assert path.is_relative_to((tmp_path / "cache" / "tiny").resolve())
    [part] = path.iterdir()
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    assert fetched(extra=WORLD) == path and part.read_bytes() == whole and "is not what was kept there" in fetched.said[0]
    (path / "more.parquet").write_bytes(whole)
    assert [*fetched(extra=WORLD).iterdir()] == [part]
    assert fetched(extra=WORLD) == path and fetched.said == []


def test_a_world_larger_than_the_disk_is_refused_at_once(fetched):
    with pytest.raises(DataError, match="1,099,511,627,775 edges takes about"):
        fetched(extra=f"[synthetic]\nedges = {2**40 - 1}")


def test_two_that_fetch_at_once_both_get_it(tmp_path, card):
    (tmp_path / "table.tsv").write_text(TABLE)
    loaded = card(at(tmp_path / "table.tsv"))
    with ThreadPoolExecutor(4) as pool:
        for number in range(10):
            cache, meet = tmp_path / f"cache-{number}", threading.Barrier(4)
            paths = pool.map(lambda _, to=cache, begin=meet.wait: begin() >= 0 and materialise(loaded, None, to).train, range(4))
            [path] = {*paths}
            assert pq.read_table(path).to_pydict() == ROWS and [*(cache / "tiny").iterdir()] == [Path(path)]


def test_what_the_job_sets_wins_over_the_card(tmp_path, card):
    (tmp_path / "table.tsv").write_text(TABLE)
    card(at(tmp_path / "table.tsv"))
    job = Data(card="card.toml", min_rating=4.0, rating="rating", test_size=0.0, valid_size=0.0, seed=3)
    data, name = resolve_card(job, tmp_path, None, tmp_path / "cache")
    assert (name, data.split, data.seed, data.min_rating, data.card) == ("tiny", "random", 3, 4.0, None)
    dataset = ingest(data, tmp_path / "out", data_root=None, name=name)
    assert (dataset.info["num_users"], dataset.info["num_items"], dataset.info["num_train"]) == (1, 2, 2)
    with pytest.raises(UsageError, match=r"\[data\] over .*needs time"):
        resolve_card(Data(card="card.toml", split="temporal"), tmp_path, None, tmp_path / "cache")


@pytest.mark.parametrize("name", ["absent.toml", "a\0b", "x" * 5000, "..", ""])
def test_a_card_that_is_not_there(tmp_path, name):
    with pytest.raises(UsageError, match=r"no card .*cards lie in datasets/") as caught:
        find_card(name, tmp_path)
    assert str(caught.value).isprintable()
