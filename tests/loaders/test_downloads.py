"""One file from a server or an archive that lies: the bytes of the digest, or one line why not."""

from __future__ import annotations

import gzip
import hashlib
import socket
import struct
import threading
import zipfile

import pytest

from gcnrec.loaders.cards import Source
from gcnrec.loaders.downloads import SourceFailed, fetch

TABLE = b"user_id\titem_id\n1\t7\n2\t7\n"
DIGEST = hashlib.sha256(TABLE).hexdigest()


@pytest.fixture
def work(tmp_path):
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def failed(work):
    """Why a source cannot be fetched."""

    def call(**source):
        with pytest.raises(SourceFailed) as caught:
            fetch(Source(**{"sha256": DIGEST, **source}), work)
        message = str(caught.value)
        assert message.isprintable() and len(message) < 400 and {path.name for path in work.iterdir()} <= {"fetched", "member"}
        return message

    return call


@pytest.fixture
def answering(monkeypatch):
    """Starts a server that sends the given pieces to every connection, after its request; returns the server's address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def answer(server, pieces):
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(2**16)
                try:
                    for piece in pieces(connection) if callable(pieces) else pieces:
                        connection.sendall(piece)
                except OSError:  # the client has had enough
                    pass

    def call(*pieces):
        servers.append(socket.create_server(("127.0.0.1", 0)))
        sent = pieces[0] if callable(pieces[0]) else pieces
        threading.Thread(target=answer, args=(servers[-1], sent), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].getsockname()[1]}/x"

    yield call
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"", TABLE),
        (b"Content-Length: 24\r\n", TABLE),
        (b"Content-Length: 24\r\n", TABLE + b"more than it says"),
        (b"Content-Length: -3\r\n", TABLE),
        (b"Content-Length: many\r\n", TABLE),
        (b"Transfer-Encoding: chunked\r\n", b"5;x=y\r\nuser_\r\n13\r\nid\titem_id\n1\t7\n2\t7\n\r\n0\r\n\r\n"),
        (b"X-\xff\xfe: \xff\x00\xe9\r\n", TABLE),
    ],
)
def test_a_body_that_can_be_read_is(answering, work, head, body):
    assert len(TABLE) == 24
    assert fetch(Source(url=answering(OK + head + b"\r\n" + body), sha256=DIGEST), work).read_bytes() == TABLE


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (OK + b"Content-Length: 30\r\n\r\n" + TABLE, "the connection was closed 6 bytes before the end"),
        (OK + b"Content-Length: 23\r\n\r\n" + TABLE, "sha256 must be"),
        (OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(TABLE, mtime=0), "sha256 must be"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nno number\r\n", ""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nuser_\r\n0\r\n\r\n", ""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\nuser_\r\n", ""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n18\r\n" + TABLE, ""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 70_000, ""),
        (OK[:9], ""),
        (b"", ""),
        (b"\0" * 100, ""),
        (b"HTTP/9.9 200 \xff\xfe\r\n\r\n", ""),
        (b"HTTP/1.1 abc OK\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000, ""),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n", "headers"),
        (b"HTTP/1.1 204 None\r\n\r\n", "sha256 must be"),
        (b"HTTP/1.1 302 Found\r\n\r\n", "302"),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", "infinite loop"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://\xff\xfe..x/\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\nLocation: http://u:p@127.0.0.1:x/\r\n\r\n", "port"),
        (b"HTTP/1.1 302 Found\r\nLocation: jar:file:///etc/passwd!/x\r\n\r\n", "302"),
        (b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\n\r\n", "401"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_ends_in_one_line(answering, failed, answer, sentence):
    assert sentence in failed(url=answering(answer))


def test_a_chain_of_redirects_has_an_end(answering, failed):
    numbers = iter(range(1000))
    address = answering(lambda _: [b"HTTP/1.1 302 Found\r\nLocation: /%d\r\n\r\n" % next(numbers)])
    assert "infinite loop" in failed(url=address) and next(numbers) < 20


@pytest.mark.parametrize(
    "begin", [b"", OK, OK + b"\r\n", OK + b"Transfer-Encoding: chunked\r\n\r\n1", OK + b"Content-Length: 99\r\n\r\n"]
)
def test_an_answer_of_a_byte_at_a_time_is_left_at_the_deadline(answering, failed, monkeypatch, begin):
    """Of the status, of headers, of a body: each byte comes in time, and there is no end of them."""
    monkeypatch.setattr("gcnrec.loaders.downloads._DOWNLOAD_SECONDS", 0.1)
    enough = threading.Event()

    def drip(_):
        yield begin
        while not enough.wait(0.005):
            yield b"1"

    address = answering(drip)
    assert "it took longer than" in failed(url=address) or begin == b""
    enough.set()


def test_a_server_that_says_nothing_is_left(answering, failed, monkeypatch):
    monkeypatch.setattr("gcnrec.loaders.downloads._SILENT_SECONDS", 0.05)
    silent = threading.Event()
    address = answering(lambda _: iter([OK, silent.wait(10) and b""]))
    assert "nothing came for 0.05 s" in failed(url=address)
    silent.set()


@pytest.mark.parametrize("status", [OK + b"\r\n", b""])
def test_a_connection_that_is_reset_ends_in_one_line(answering, failed, status):
    def reset(connection):
        yield status + TABLE[:5]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert failed(url=answering(reset))


def test_files_that_say_they_are_empty_are_not_read(failed):
    assert failed(url="file:///proc/self/environ") == "the file is empty"


def archive(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as made:
        for name, content in members:
            made.writestr(name, content)
    return path


def test_of_two_members_of_one_name_the_digest_decides(tmp_path, failed):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = archive(tmp_path / "a.zip", [("t", TABLE), ("t", b"other")])
    assert "sha256 must be" in failed(url=path.as_uri(), member="t")


def patched(path, at, layout, value):
    """Overwrite a number of the list of members, `at` bytes behind its start."""
    whole = bytearray(path.read_bytes())
    struct.pack_into(layout, whole, whole.index(b"PK\x01\x02") + at, value)
    path.write_bytes(whole)


CRC, STORED, SIZE, NAME_LENGTH, EXTRA_LENGTH, FLAGS = (16, "<I"), (20, "<I"), (24, "<I"), (28, "<H"), (30, "<H"), (8, "<H")


LIES = [(CRC, 0), (STORED, 3), (STORED, 2**31), (SIZE, 3), (SIZE, 2**32 - 1), (NAME_LENGTH, 60_000), (EXTRA_LENGTH, 9)]
LIES += [(FLAGS, 0x20), (FLAGS, 0x40), (FLAGS, 0x41), ((10, "<H"), 99), ((10, "<H"), 9), ((42, "<I"), 7), ((42, "<I"), 2**31)]


@pytest.mark.parametrize(("where", "value"), LIES)
def test_a_list_of_members_that_lies_ends_in_the_right_file_or_one_line(tmp_path, work, where, value):
    path = archive(tmp_path / "a.zip", [("t", TABLE)])
    patched(path, *where, value)
    try:
        assert fetch(Source(url=path.as_uri(), member="t", sha256=DIGEST), work).read_bytes() == TABLE
    except SourceFailed as problem:
        assert str(problem).isprintable()


def test_a_member_that_unpacks_to_more_than_it_says_is_cut_and_refused(tmp_path, failed):
    path = archive(tmp_path / "a.zip", [("t", bytes(10**7))])
    patched(path, *SIZE, 100)
    assert "cannot be read as a zip (Bad CRC-32" in failed(url=path.as_uri(), member="t")


def test_members_that_overlap_bring_what_the_digest_says_or_nothing(tmp_path, failed):
    """Two entries of the list lead to one member."""
    path = archive(tmp_path / "a.zip", [("t", TABLE), ("u", b"other")])
    whole = bytearray(path.read_bytes())
    second = whole.index(b"PK\x01\x02", whole.index(b"PK\x01\x02") + 1)
    struct.pack_into("<I", whole, second + 42, 0)
    path.write_bytes(whole)
    assert "cannot be read as a zip" in failed(url=path.as_uri(), member="u")


@pytest.mark.parametrize("size", [0, 2**63, 2**64 - 1])
def test_a_size_of_64_bits_that_lies_ends_in_one_line(tmp_path, failed, size):
    path = archive(tmp_path / "a.zip", [("t", TABLE)])
    whole = bytearray(path.read_bytes())
    central, end = whole.index(b"PK\x01\x02"), whole.index(b"PK\x05\x06")
    struct.pack_into("<I", whole, central + 24, 2**32 - 1)
    struct.pack_into("<H", whole, central + 30, 12)
    whole[end:end] = struct.pack("<HHQ", 1, 8, size)
    struct.pack_into("<I", whole, end + 12 + 12, end + 12 - central)
    path.write_bytes(whole)
    assert failed(url=path.as_uri(), member="t")


def test_a_list_of_members_that_would_fill_the_memory_is_not_read(tmp_path, failed):
    comment = bytes(2**16 - 1)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as made:
        for number in range(130):
            info = zipfile.ZipInfo(f"{number}")
            info.comment = comment
            made.writestr(info, b"")
    assert "its list of members is longer than 8,388,608 bytes" in failed(url=path.as_uri(), member="1")


def test_any_flipped_byte_of_an_archive_ends_in_the_right_file_or_one_line(tmp_path, work):
    path = archive(tmp_path / "a.zip", [("t", TABLE), ("u", b"other" * 9)])
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            assert fetch(Source(url=path.as_uri(), member="t", sha256=DIGEST), work).read_bytes() == TABLE
        except SourceFailed as problem:
            assert str(problem).isprintable()
        for left in work.iterdir():
            left.unlink()
