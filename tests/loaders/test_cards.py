"""Cards as strangers write them: what reaches pip, a URL or a path is refused in one sentence unless it is plain."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcnrec.errors import UsageError
from gcnrec.loaders.cards import load_card

CARDS = sorted((Path(__file__).parents[2] / "datasets").glob("*.toml"))
DIGEST = "0123456789abcdef" * 4


def quoted(text):
    """A TOML string, of characters that need no escape or are escaped by number."""
    return '"' + "".join(letter if letter.isalnum() else f"\\U{ord(letter):08x}" for letter in text) + '"'


@pytest.fixture
def loaded(tmp_path):
    """Loads a card whose texts are all good but for those given; returns it, or the sentence that refuses it."""

    def call(*, name="tiny", path="a.parquet", way=f'root = "a.parquet"\nsha256 = "{DIGEST}"', data="", extra=""):
        text = f'[card]\nname = {quoted(name)}\ntitle = "t"\nlicence = "l"\norigin = "o"\n'
        text += f'[data]\ntrain = "a.parquet"\nuser = "u"\nitem = "i"\n{data}\n'
        text += f"[[file]]\npath = {quoted(path)}\n[[file.source]]\n{way}\n{extra}\n"
        (tmp_path / "card.toml").write_text(text, encoding="utf-8")
        try:
            return load_card(tmp_path / "card.toml")
        except UsageError as problem:
            assert str(problem).isprintable(), "one line, nothing that moves the cursor"
            return str(problem)

    return call


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_committed_cards(path):
    card = load_card(path)
    assert card.card.name == path.stem and card.data.user and card.data.item and card.card.licence
    assert (card.synthetic is None and card.shop is None) == bool(card.file)
    named = {getattr(card.data, key) for key in ("train", "valid", "test", "item_features")} - {None}
    assert not card.file or {file.path for file in card.file} == named


def test_committed_cards_are_the_promised_ones():
    promised = "amazon-hin amazon-hin-brands citeulike-t citeulike-t-words gowalla large-synthetic ml-100k papers-size "
    promised += "shop synthetic tmall"
    assert sorted(path.stem for path in CARDS) == promised.split()


@pytest.mark.parametrize("wheel", ["recbole==1.2.1", "a==1", "A.b_c-d==2024.1.1", "x1==1.0rc1", "x==1.0.post2", "x==1.0a1.dev3"])
def test_a_wheel_is_one_package_and_its_version(loaded, wheel):
    assert loaded(way=f'wheel = "{wheel}"\nmember = "m"\nsha256 = "{DIGEST}"').file[0].source[0].wheel == wheel


NOT_A_WHEEL = {
    "a place": "/tmp/x ./x ../x . ~ x/ ./x==1 x==1/.. file:///tmp/x https://h/x.whl git+https://h/x x-1.0-py3-none-any.whl",
    "an option": "--requirement=/etc/passwd -r/etc/passwd --index-url=http://h==1 -e. --==1 -x==1",
    "no name": "==1 _x==1 x-==1 x.==1",
    "no version": "x x== x==* x==1.* x==1. x==.1 x==v1 x==1!2 x==1+local x==1-1 x==1.0-rc1 x==1.0.RC1",
    "another relation": "x=1 x===1 x>=1 x~=1.0 x!=1 x<2 x==1,<2 x==1,==1",
    "more": "x[extra]==1 x==1;python_version>'3' x==1#egg x==1@y x==$(id) x==`id` x==1&y x==1|y x==1%20",
    "look-alikes": "х==1 x==１ x==١ x＝＝1 x==1… x̲==1 x‐y==1",  # noqa: RUF001
}
SPACES = ["", " ", "x ==1", " x==1", "x==1 ", "x==1\n", "\nx==1", "x==1\0", "x==1\r", "x==1\u2028", "x\u200b==1", "x @ file:///x"]
SPACES += ["x==1 -r y", "x==1\n-r y", "x==1 --hash=sha256:0"]
LONG = ["x" * 101 + "==1", "x==" + "1" * 10, "x==1" + ".1" * 10]


@pytest.mark.parametrize("wheel", [*(text for line in NOT_A_WHEEL.values() for text in line.split()), *SPACES, *LONG])
def test_whatever_else_pip_would_take_is_no_wheel(loaded, wheel):
    refused = loaded(way=f'wheel = {quoted(wheel)}\nmember = "m"\nsha256 = "{DIGEST}"')
    assert "card.toml: file.0.source.0.wheel: expects NAME==VERSION" in refused and len(refused) < 400


@pytest.mark.parametrize("name", ["ml-100k", "A", "_x", "9", "a.b", "x" * 64])
def test_a_name_is_one_folder(loaded, name):
    assert loaded(name=name).card.name == name


NAMES_OUT = ["", ".", "..", ".x", "-x", "a/b", "/a", "../a", "a\\b", "a b", "a\n", "a\0", "~", "x" * 65, "ä", "*", "a\u202eb"]


@pytest.mark.parametrize("name", NAMES_OUT)
def test_a_name_that_leads_elsewhere_is_refused(loaded, name):
    assert "card.toml: card.name: expects the name of a folder" in loaded(name=name)


PATHS_OUT = ["", "/etc/passwd", "..", "../a", "a/..", "a/../b", "a//b", "a/", "a\\b", "a\0", "a\nb", "a\x1b[2J", "a/" * 300 + "b"]


@pytest.mark.parametrize("path", PATHS_OUT)
@pytest.mark.parametrize("key", ["path", "root", "member"])
def test_a_path_that_leads_outside_is_refused(loaded, key, path):
    ways = {
        "path": {"path": path},
        "root": {"way": f'root = {quoted(path)}\nsha256 = "{DIGEST}"'},
        "member": {"way": f'wheel = "x==1"\nmember = {quoted(path)}\nsha256 = "{DIGEST}"'},
    }
    assert f"{key}: expects a relative path" in loaded(**ways[key])


@pytest.mark.parametrize("path", ["a.parquet", "a/b/c d.parquet", "./a", "..a/b..", "Ünï/日本.parquet", "~"])
def test_a_path_that_stays_inside(loaded, path):
    assert loaded(path=path).file[0].path == path


URLS = ["http://h/x.zip", "https://h:8443/a%20b?c=d#e", "HTTPS://h/x", "http://[::1]:80/", "file:///a/b.zip"]
NO_URLS = ["", "x", "h/x", "//h/x", "/etc/passwd", "ftp://h/x", "data:,x", "jar:file:///x", "file://h/x", "file:x", "file://"]
NO_URLS += ["http://", "http:///x", "http://[::1", "http://h:x/", "http://h:99999/", "http://a b/", "http://h/\n", "http://h/\0"]
NO_URLS += ["http://h/é", "\x01http://h", "http://h\t", "http://h/" + "x" * 2000]


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_of_the_web_or_of_this_disk(loaded, url):
    assert loaded(way=f'url = "{url}"\nsha256 = "{DIGEST}"').file[0].source[0].url == url


@pytest.mark.parametrize("url", NO_URLS)
def test_any_other_url_is_refused(loaded, url):
    assert "file.0.source.0.url: expects an http://" in loaded(way=f'url = {quoted(url)}\nsha256 = "{DIGEST}"')


def test_a_digest_has_64_digits_of_either_case(loaded):
    assert loaded(way=f'root = "a"\nsha256 = "{DIGEST.upper()}"').file[0].source[0].sha256 == DIGEST
    for digest in ("", "00", DIGEST[1:], DIGEST + "0", DIGEST[1:] + "g", DIGEST + "\n", DIGEST[1:] + "\u0660"):
        assert "sha256: expects the 64 hexadecimal digits" in loaded(way=f'root = "a"\nsha256 = {quoted(digest)}')


@pytest.mark.parametrize(
    ("way", "sentence"),
    [
        (f'sha256 = "{DIGEST}"', "exactly one of root, wheel, url"),
        (f'root = "a"\nurl = "http://h/b"\nsha256 = "{DIGEST}"', "exactly one of root, wheel, url"),
        (f'wheel = "a==1"\nsha256 = "{DIGEST}"', "a wheel needs member"),
        (f'root = "a"\nmember = "b"\nsha256 = "{DIGEST}"', "member is a file inside a wheel or a url"),
        ('root = "a"', "sha256: field required"),
        (f'wheel = ["a==1"]\nmember = "m"\nsha256 = "{DIGEST}"', "wheel: input should be a valid string"),
    ],
)
def test_a_source_is_one_way_with_a_digest(loaded, way, sentence):
    refused = loaded(way=way)
    assert "card.toml: file.0.source.0" in refused and sentence in refused


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"data": 'card = "other.toml"'}, "data.card belongs into a job"),
        ({"data": 'folder = "/home/x"'}, "data.folder belongs into a job"),
        ({"data": f'digest = "{DIGEST}"'}, "data.digest belongs into a job"),
        ({"data": 'test = "s3://bucket/a.parquet?endpoint_override=127.0.0.1:1"'}, "data.test must be a URI without a query"),
        ({"extra": f'[[file]]\npath = "a.parquet"\nsource = [{{root = "b", sha256 = "{DIGEST}"}}]'}, "two [[file]] entries"),
        ({"extra": '[[file]]\npath = "b"\nsource = []'}, "file.1.source"),
        ({"extra": '[[file]]\npath = "b"\ncolumns = {}'}, "file.1"),
        ({"extra": '[[file]]\npath = "b"\ncolumns = {u = "int65"}'}, "file.1"),
        ({"extra": f"[synthetic]\nusers = {2**31}"}, "synthetic.users"),
        ({"extra": f"[synthetic]\nedges = {2**40}"}, "synthetic.edges"),
        ({"extra": f"[synthetic]\nseed = {2**64}"}, "synthetic.seed"),
        ({"extra": "[synthetic]\nusers = " + "9" * 5000}, "card.toml cannot be read as TOML: an integer has thousands of digits"),
        ({"extra": "[synthetic]\nusers = 0x" + "9" * 5000}, "card.toml cannot be read as TOML: 'synthetic.users' is an integer"),
        ({"extra": "x = " + "[" * 20_000 + "]" * 20_000}, "card.toml cannot be read as TOML: its lists or tables are nested"),
        ({"extra": '"\\u001b[2J" = 1'}, "unknown key"),
    ],
)
def test_other_mistakes_end_in_a_sentence(loaded, parts, sentence):
    assert sentence in loaded(**parts)


@pytest.mark.parametrize("content", [b"\xff", b"[card", b"", b"card = 1", b"\0", b"[card]\nname = 1\n"])
def test_a_file_that_is_no_card(tmp_path, content):
    (tmp_path / "card.toml").write_bytes(content)
    with pytest.raises(UsageError, match=r"card\.toml"):
        load_card(tmp_path / "card.toml")
