"""A disk that is full for real: a small file system of the test's own, in a mount namespace that
ends with it."""

import json
import os

import pytest

import harness

DISK_BYTES = 64 << 20
VALUE_BYTES = 100_000
FULL = b"SERVER_ERROR no space left on device\r\n"


class SmallDisk(harness.Process):
    """Keeps a mount namespace in which `directory`/disk is a file system of its own."""

    def __init__(self, directory):
        super().__init__("disk", directory)
        self.path = self.directory / "disk"
        self.path.mkdir()

    def start(self):
        private = ["-m"] if os.geteuid() == 0 else ["-U", "-r", "-m"]
        self.spawn(["unshare", *private, "--propagation", "private", "sh", "-c",
                    f"mount -t tmpfs -o size={DISK_BYTES} small '{self.path}' && echo mounted && "
                    "exec sleep 100000"])
        harness.eventually(lambda: "mounted\n" in self.output() or not self.is_running(),
                           "the small disk is mounted")
        if not self.is_running():
            self.child = None
            pytest.skip(f"this machine lets us mount no file system: {self.output().strip()}")
        return self

    def inside(self, *command):
        """The command as it runs where the disk is."""
        user = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
        return ["nsenter", *user, "-m", "-t", self.pid, *command]

    def file(self, name):
        """A path of the disk, for us who are outside."""
        return f"/proc/{self.pid}/root{self.path}/{name}"


@pytest.fixture
def disk(tmp_path):
    small = SmallDisk(tmp_path)
    try:
        yield small.start()
    finally:
        small.kill()


@pytest.fixture
def on_disk(disk, new_server):
    """on_disk(*options) -> a server whose data lies on the small disk, not yet started."""
    def make(*options):
        server = new_server(*options)
        server.data = disk.path / "data"
        plain = server.command
        server.command = lambda *more: disk.inside(*plain(*more))
        return server

    return make


def _value(i):
    return (b"%d," % i) * (VALUE_BYTES // len(b"%d," % i))


def _fill(server, first=0):
    """Sets keys from `first` on until one is refused; returns how many were stored."""
    with server.connect() as c:
        for i in range(first, first + 10 * DISK_BYTES // VALUE_BYTES):
            value = _value(i)
            c.send(b"set k%d 0 0 %d\r\n%s\r\n" % (i, len(value), value))
            answer = c.line()
            if answer != b"STORED\r\n":
                assert answer == FULL
                return i - first
    raise AssertionError("the disk is never full")


def _check(server, keys, gone=()):
    with server.connect() as c:
        for i in keys:
            value = _value(i)
            c.send(b"get k%d\r\n" % i)
            c.expect(b"END\r\n" if i in gone else
                     b"VALUE k%d 0 %d\r\n%s\r\nEND\r\n" % (i, len(value), value))


def _ask(server, request):
    with server.connect() as c:
        c.send(request)
        return c.line()


def _http(server, request):
    with server.connect() as c:
        c.send(request)
        head, _, body = c.rest().partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


def _put_big(server, length, announced=True):
    """The answer to a PUT of that many bytes."""
    coding = b"Content-Length: %d" % length if announced else b"Transfer-Encoding: chunked"
    piece = bytes(65536) if announced else b"10000\r\n" + bytes(65536) + b"\r\n"
    with server.connect() as c:
        c.send(b"PUT /big HTTP/1.1\r\nHost: h\r\nConnection: close\r\n" + coding + b"\r\n\r\n")
        try:
            for _ in range(length // 65536):
                c.send(piece)
            c.send(b"" if announced else b"0\r\n\r\n")
        except OSError:
            pass  # it has answered and closed
        head, _, body = c.rest().partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


@pytest.mark.parametrize("sync", ["always", "interval"])
def test_a_full_disk_refuses_puts_and_nothing_else(disk, on_disk, sync):
    server = on_disk("--sync", sync)
    with open(disk.file("ballast"), "wb") as ballast:
        ballast.write(bytes(20 << 20))
    server.start()
    stored = _fill(server)
    # A small disk is used to nine tenths: what is left is the reserve.
    assert stored * VALUE_BYTES > 30 << 20

    # A value that would not fit is refused by its length alone, one of unknown length on its way.
    assert _put_big(server, DISK_BYTES // 2)[0] == 507
    assert _put_big(server, 2 << 20, announced=False)[0] == 507

    # A stop and a start on the full disk, and all is there.
    server.restart()
    assert _ask(server, b"set k 0 0 1\r\nx\r\n") == FULL
    _check(server, range(stored))
    assert _ask(server, b"touch k0 0\r\n") == FULL
    assert _ask(server, b"append k0 0 0 1\r\nx\r\n") == FULL
    status, body = _http(server, b"PUT /k HTTP/1.0\r\nContent-Length: 1\r\n\r\nx")
    assert status == 507
    assert _http(server, b"GET /-/ready HTTP/1.0\r\n\r\n")[0] == 200
    status, body = _http(server, b"GET /-/ready?for=write HTTP/1.0\r\n\r\n")
    assert status == 503 and json.loads(body)["state"].startswith("disk full: ")
    assert _ask(server, b"ready write\r\n").startswith(b"NOTREADY disk full: ")
    figures = server.stats()
    assert figures["disk_full"] == "1" and int(figures["disk_full_refusals"]) > 0
    assert int(figures["disk_free_bytes"]) <= int(figures["disk_reserve_bytes"]) <= DISK_BYTES / 10

    # Deletes are taken, and last.
    gone = set(range(0, stored, 2))
    with server.connect() as c:
        for i in gone:
            c.send(b"delete k%d\r\n" % i)
            c.expect(b"DELETED\r\n")
    server.kill()
    server.start()
    _check(server, range(stored), gone)

    # Room comes back: writes go on by themselves.
    os.unlink(disk.file("ballast"))
    harness.eventually(lambda: _ask(server, b"ready write\r\n").startswith(b"READY"),
                       "writes are taken again")
    more = _fill(server, first=stored)
    assert more > 0
    server.restart()
    _check(server, range(stored + more), gone)
    assert server.log().count("is full") == 1


def test_deletes_make_a_full_disk_usable_again(disk, on_disk):
    """Compaction works with what the reserve has left; nobody has to make room for it."""
    server = on_disk().start()
    stored = 0
    gone = set()
    for _ in range(3):
        more = _fill(server, first=stored)
        assert more * VALUE_BYTES > 5 << 20
        dead = set(range(stored, stored + more)) - set(range(0, stored + more, 4))
        with server.connect() as c:
            for i in dead:
                c.send(b"delete k%d\r\n" % i)
                c.expect(b"DELETED\r\n")
        stored += more
        gone |= dead
        harness.eventually(lambda: _ask(server, b"ready write\r\n").startswith(b"READY"),
                           "writes are taken again", 60)
    _check(server, range(stored), gone)
    server.restart()
    _check(server, range(stored), gone)


@pytest.mark.parametrize("sync", ["always", "interval"])
def test_a_disk_without_a_free_byte_loses_nothing(disk, on_disk, sync):
    """Without a reserve nothing more can be promised than this."""
    server = on_disk("--sync", sync, "--reserve", "0")
    with open(disk.file("ballast"), "wb") as ballast:
        ballast.write(bytes(1 << 20))
    server.start()
    stored = _fill(server)
    with open(disk.file("ballast"), "ab", buffering=0) as ballast:
        with pytest.raises(OSError):
            while True:
                ballast.write(bytes(4096))
    for _ in range(2):
        _check(server, range(stored))
        server.terminate()  # the index and the mark of a clean stop may find no room
        server.start()
    _check(server, range(stored))
    os.unlink(disk.file("ballast"))
    harness.eventually(lambda: _ask(server, b"delete k0\r\n") == b"DELETED\r\n", "a delete")
    server.restart()
    _check(server, range(stored), {0})
