"""A disk that takes its time: while one file call is held, nobody who does not need it waits.

tests/faults/slowio.c stands between the server and its disk. Everything asked beside the held call
is answered before it is let go: nothing here depends on time.
"""

import os
import pathlib
import select

import pytest

import harness

WORKERS = 3
# So many that every worker has some: each goes to one of them at random.
CONNECTIONS = 48

SMALL, LARGE, BIG = b"s" * 100, b"l" * 50_000, b"b" * 1_500_000


def _library():
    path = pathlib.Path(harness.TTSERVER).parent / "tests" / "faults" / "slowio.so"
    if not path.exists():
        pytest.skip(f"{path} is not built")
    return path


class Hold:
    """Holds the next call of that kind on a file whose path contains `part`."""

    def __init__(self, directory, call, part):
        self.directory = directory
        (directory / "wanted").write_text(f"{call} {part}\n")
        (directory / "wanted").rename(directory / "hold")

    def is_held(self):
        return (self.directory / "held").exists()

    def wait(self):
        harness.eventually(self.is_held, "the call is made")

    def release(self):
        (self.directory / "held").unlink()
        os.close(os.open(self.directory / "release", os.O_WRONLY))


@pytest.fixture
def slow(new_server, tmp_path):
    """slow(*options) -> a running server with records of every size; server.hold(call, part)."""
    control = tmp_path / "slowio"

    def make(*options):
        server = new_server("-thnum", str(WORKERS), *options)
        server.more_environment = {"LD_PRELOAD": str(_library()), "SLOWIO_DIR": str(control)}
        server.hold = lambda call, part: Hold(control, call, part)
        server.start()
        with server.connect() as c:
            for key, value in (("small", SMALL), ("large", LARGE), ("big", BIG)):
                c.ask(harness.set_command(key, value), b"STORED\r\n")
        return server

    control.mkdir()
    os.mkfifo(control / "release")
    return make


def _connections(server):
    return [server.connect() for _ in range(CONNECTIONS)]


def _close(connections):
    for c in connections:
        c.close()


def _read_everywhere(server):
    """Reads of all kinds on new connections, on every worker."""
    readers = _connections(server)
    for c in readers:
        c.send(b"get small\r\nget missing\r\nget large\r\nversion\r\n")
    for c in readers:
        c.expect(harness.value_reply("small", SMALL) + b"END\r\nEND\r\n" +
                 harness.value_reply("large", LARGE) + b"END\r\n")
        assert c.line().startswith(b"VERSION")
    for c in readers[:3 * WORKERS]:
        c.ask(b"get big\r\n", harness.value_reply("big", BIG) + b"END\r\n")
    _close(readers)
    with server.connect() as c:
        for path in (b"/small", b"/-/live", b"/-/ready", b"/-/metrics", b"/-/keys"):
            c.send(b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % path)
            assert harness.read_response(c).status == 200, path


def _write_everywhere(server):
    writers = _connections(server)
    for n, c in enumerate(writers):
        c.send(harness.set_command(f"written-{n}", b"value"))
    for c in writers:
        c.expect(b"STORED\r\n")
    _close(writers)


def _is_silent(connections):
    sockets = [c.socket for c in connections]
    return not any(c.pending for c in connections) and select.select(sockets, [], [], 0)[0] == []


@pytest.mark.parametrize("call, options", [
    ("write", ["--sync", "always"]),
    ("fdatasync", ["--sync", "always"]),
    ("write", ["--sync", "interval"]),
], ids=["write", "fdatasync", "write under interval"])
def test_reads_go_on_while_the_log_is_held(slow, call, options):
    server = slow(*options)
    hold = server.hold(call, "/log/")
    writers = _connections(server)
    for n, c in enumerate(writers):
        c.send(harness.set_command(f"written-{n}", b"value"))
    hold.wait()
    _read_everywhere(server)
    # What is not on the disk is not shown either.
    with server.connect() as c:
        for n in range(CONNECTIONS):
            c.ask(b"get written-%d\r\n" % n, b"END\r\n")
    assert _is_silent(writers)
    hold.release()
    for c in writers:
        c.expect(b"STORED\r\n")
    _close(writers)


def test_a_write_behind_a_held_one_stops_only_its_own_connection(slow):
    server = slow("--sync", "always")
    hold = server.hold("fdatasync", "/log/")
    writers = _connections(server)
    for n, c in enumerate(writers):
        c.send(harness.set_command(f"written-{n}", b"value") + b"get written-%d\r\n" % n)
    hold.wait()
    assert _is_silent(writers)
    _read_everywhere(server)
    hold.release()
    for n, c in enumerate(writers):
        c.expect(b"STORED\r\n" + harness.value_reply(f"written-{n}", b"value") + b"END\r\n")
    _close(writers)


@pytest.mark.parametrize("call, part", [
    ("write", "/tmp/spool-"), ("fdatasync", "/tmp/spool-"), ("rename", "/big/"), ("fsync", "/big"),
])
def test_everybody_else_goes_on_while_an_upload_is_held(slow, call, part):
    server = slow("--sync", "always")
    hold = server.hold(call, part)
    with server.connect() as uploader:
        uploader.send(harness.set_command("upload", BIG))
        hold.wait()
        _read_everywhere(server)
        _write_everywhere(server)
        assert _is_silent([uploader])
        hold.release()
        uploader.expect(b"STORED\r\n")
        uploader.ask(b"get upload\r\n", harness.value_reply("upload", BIG) + b"END\r\n")


@pytest.mark.parametrize("call, part", [
    ("write", "/log/00000002"), ("fdatasync", "/log/00000002"), ("fsync", "/log"),
    ("rename", "/STORE"), ("truncate", "/log/00000001"),
])
def test_reads_go_on_while_a_new_segment_is_held(slow, call, part):
    server = slow("--sync", "always", "--segment-size", "4m")
    hold = server.hold(call, part)
    filler = b"f" * 900_000
    with server.connect() as writer:
        for n in range(6):
            writer.send(harness.set_command(f"filler-{n}", filler))
        hold.wait()
        _read_everywhere(server)
        hold.release()
        for _ in range(6):
            writer.expect(b"STORED\r\n")


@pytest.mark.parametrize("call, part", [
    ("write", "/index/"), ("fdatasync", "/index/"), ("write", "/tmp/compact-"),
    ("fdatasync", "/tmp/compact-"), ("rename", "/log/"), ("unlink", "/log/"),
])
def test_everybody_goes_on_while_a_checkpoint_or_a_compaction_is_held(slow, call, part):
    server = slow("--sync", "always", "--segment-size", "4m")
    server.restart()
    hold = server.hold(call, part)
    with server.connect() as writer:
        def overwrite():
            writer.ask(harness.set_command("filler", b"f" * 900_000), b"STORED\r\n")
            return hold.is_held()

        harness.eventually(overwrite, "compaction begins")
    _read_everywhere(server)
    _write_everywhere(server)
    hold.release()
