"""Values in files of their own, by both protocols: memory, the disk, limits, what is left behind."""

import os
import random
import selectors
import socket
import threading

import pytest

import harness
from harness import eventually, mc_get, read_response, set_command, value_reply

MIB = 1 << 20


def peak_bytes(server):
    """Most memory the server had at a time since reset_peak(), file pages included."""
    for line in open(f"/proc/{server.pid}/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def reset_peak(server):
    with open(f"/proc/{server.pid}/clear_refs", "w") as f:
        f.write("5")
    return peak_bytes(server)


def names(server, folder):
    return sorted(os.listdir(server.data / folder))


def figures(server, *wanted):
    stats = server.stats()
    return tuple(int(stats[name]) for name in wanted)


def put(target, length):
    return b"PUT %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (target, length)


def put_big(server, key, value):
    with server.connect() as c:
        c.ask(set_command(key, value), b"STORED\r\n")


# ---- memory ----

class Transfer:
    """One connection that sends what it has and then receives what it is owed."""

    def __init__(self, server, head, body, expected_body):
        self.socket = server.connect().socket
        self.socket.setblocking(False)
        self.parts = [memoryview(part) for part in (head, body) if part]
        self.expected = memoryview(expected_body)
        self.head = b""
        self.at = None  # in the expected body; None: the head is being received

    def write(self):
        """True when all is sent."""
        while self.parts:
            try:
                n = self.socket.send(self.parts[0][:MIB])
            except BlockingIOError:
                return False
            self.parts[0] = self.parts[0][n:]
            if not self.parts[0]:
                self.parts.pop(0)
        return True

    def read(self, room):
        """True when all has come."""
        n = self.socket.recv_into(room)
        assert n > 0, f"closed after {self.head[:200]!r}"
        got = room[:n]
        if self.at is None:
            self.head += bytes(got)
            end = self.head.find(b"\r\n\r\n") + 4
            if end < 4:
                return False
            self.head, got = self.head[:end], memoryview(self.head[end:])
            assert self.head.split()[1] in (b"200", b"201"), self.head
            self.at = 0
        assert got == self.expected[self.at:self.at + len(got)]
        self.at += len(got)
        return self.at == len(self.expected)


def run_transfers(transfers):
    room = memoryview(bytearray(MIB))
    with selectors.DefaultSelector() as selector:
        for t in transfers:
            selector.register(t.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, t)
        while selector.get_map():
            ready = selector.select(harness.WAIT_S)
            assert ready, "nothing moves any more"
            for key, events in ready:
                t = key.data
                if events & selectors.EVENT_WRITE and t.write():
                    selector.modify(t.socket, selectors.EVENT_READ, t)
                if events & selectors.EVENT_READ and t.read(room):
                    selector.unregister(t.socket)
                    t.socket.close()


def test_a_hundred_clients_move_ten_megabytes_both_ways_in_flat_memory(new_server):
    """What an upload holds in memory is bounded by 512 KiB, whatever its size; a download holds
    nothing. 2 GB go through a server that grows by less than 100 MB."""
    server = new_server("--sync", "os").start()
    value = random.Random(harness.test_seed()).randbytes(10 * MIB)
    put_big(server, "down", value)
    with server.connect() as c:  # once before it counts: what a first request allocates stays
        c.send(b"GET /down HTTP/1.1\r\nHost: h\r\n\r\n")
        assert read_response(c).body == value
    before = reset_peak(server)
    run_transfers([Transfer(server, put(b"/up%d" % i, len(value)), value, b"Created\n")
                   for i in range(100)] +
                  [Transfer(server, b"GET /down HTTP/1.1\r\nHost: h\r\n\r\n", b"", value)
                   for i in range(100)])
    grown = peak_bytes(server) - before
    assert grown < 100 * MIB, f"{grown} bytes"
    with server.connect() as c:
        for i in (0, 37, 99):
            assert mc_get(c, f"up{i}")[0] == value
    assert figures(server, "big_files", "big_bytes", "spools", "spooled_bytes") == \
        (101, 101 * len(value), 0, 0)
    assert names(server, "tmp") == []


def test_an_append_to_a_big_value_does_not_read_it_into_memory(new_server):
    server = new_server("--sync", "os").start()
    value = random.Random(harness.test_seed()).randbytes(48 * MIB)
    put_big(server, "k", value)
    before = reset_peak(server)
    with server.connect() as c:
        c.send(b"".join(set_command("k", b"%d" % i, command=b"append") for i in range(4)))
        c.send(set_command("k", b"first", command=b"prepend") + b"incr k 1\r\n")
        c.expect(b"STORED\r\n" * 5)
        c.expect(b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n")
        assert peak_bytes(server) - before < 24 * MIB
        assert mc_get(c, "k")[0] == b"first" + value + b"0123"
    server.stop()  # without syncs of its own the log is on the disk by then
    assert len(names(server, "big")) == 1 and names(server, "tmp") == []


def test_an_http_append_to_a_big_value(new_server):
    server = new_server("--max-value", "3m").start()
    value = os.urandom(3 * MIB - 10)
    put_big(server, "k", value)
    with server.connect() as c:
        def add(body):
            c.send(b"PUT /k HTTP/1.1\r\nHost: h\r\nX-TT-PDMODE: 2\r\nContent-Length: %d\r\n\r\n%s"
                   % (len(body), body))
            return read_response(c).status

        assert add(b"0123456789") == 201
        assert add(b"x") == 413
        c.send(b"GET /k HTTP/1.1\r\nHost: h\r\n\r\n")
        assert read_response(c).body == value + b"0123456789"


# ---- limits ----

def test_one_byte_above_the_default_limit(new_server):
    server = new_server("--sync", "os").start()
    value = bytes(64 * MIB + 1)
    with server.connect() as c:
        c.send(b"set k 0 0 %d\r\n" % len(value))
        c.send(value)
        c.send(b"\r\nget k\r\n")
        c.expect(b"SERVER_ERROR object too large for cache\r\n")
        c.expect(b"END\r\n")  # the connection goes on behind the value
    with server.connect() as c:
        c.send(put(b"/k", len(value)) + value[:MIB])
        assert read_response(c).status == 413
    with server.connect() as c:  # who asks first is answered before the body
        c.send(b"PUT /k HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
               % len(value))
        assert read_response(c).status == 413
    with server.connect() as c:
        c.ask(set_command("k", value[1:]), b"STORED\r\n")
        c.send(set_command("k", b"x", command=b"append"))
        c.expect(b"SERVER_ERROR object too large for cache\r\n")
        assert mc_get(c, "k")[0] == value[1:]


def test_the_limit_of_a_value_whose_length_is_not_announced(new_server):
    server = new_server("--max-value", "2m").start()
    piece = os.urandom(64 * 1024)
    chunk = b"%x\r\n%s\r\n" % (len(piece), piece)
    head = b"PUT /k HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    with server.connect() as c:
        c.send(head + chunk * 32 + b"0\r\n\r\n")
        assert read_response(c).status == 201
        assert mc_value_over_http(c, b"/k") == piece * 32
    with server.connect() as c:
        c.send(head + chunk * 32 + b"1\r\nx\r\n0\r\n\r\n")
        assert read_response(c).status == 413
    with server.connect() as c:
        assert mc_get(c, "k")[0] == piece * 32
    eventually(lambda: names(server, "tmp") == [], "the refused upload's file is gone")
    assert figures(server, "big_files", "spools", "spooled_bytes") == (1, 0, 0)


def mc_value_over_http(connection, target):
    connection.send(b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % target)
    return read_response(connection).body


def test_uploads_under_way_are_bounded_together(new_server):
    server = new_server("--spool-max", "8m").start()
    value = os.urandom(6 * MIB)
    with server.connect() as first, server.connect() as mc, server.connect() as http:
        first.send(put(b"/first", len(value)) + value[:5 * MIB])
        eventually(lambda: figures(server, "spooled_bytes")[0] >= 5 * MIB, "5 MiB are there")
        assert figures(server, "spools") == (1,)
        # Another has no room. memcached's connection goes on behind the value, HTTP's is closed.
        mc.send(set_command("mc", value))
        mc.expect(b"SERVER_ERROR out of memory storing object\r\n")
        mc.ask(set_command("small", b"value"), b"STORED\r\n")
        http.send(put(b"/http", len(value)) + value[:MIB])
        assert read_response(http).status == 503
        # The one that has begun comes to its end, and then there is room.
        first.send(value[5 * MIB:])
        assert read_response(first).status == 201
        mc.ask(set_command("mc", value), b"STORED\r\n")
        assert mc_get(mc, "mc")[0] == value and mc_get(mc, "first")[0] == value
        assert mc_get(mc, "http") is None
    eventually(lambda: figures(server, "spools", "spooled_bytes") == (0, 0), "nothing is under way")


# ---- what is left behind ----

def begin_uploads(server):
    """Three uploads that have come halfway."""
    piece = os.urandom(2 * MIB)
    connections = [server.connect() for _ in range(3)]
    connections[0].send(put(b"/a", 4 * MIB) + piece)
    connections[1].send(b"PUT /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
                        b"%x\r\n%s\r\n" % (len(piece), piece))
    connections[2].send(b"set c 0 0 %d\r\n%s" % (4 * MIB, piece))
    eventually(lambda: figures(server, "spooled_bytes") == (6 * MIB,), "all pieces are there")
    eventually(lambda: len(names(server, "tmp")) == 3, "three files are in the making")
    return connections


def test_aborted_uploads_leave_nothing(new_server):
    server = new_server().start()
    for c in begin_uploads(server):
        c.close()
    eventually(lambda: names(server, "tmp") == [], "the files are gone")
    eventually(lambda: figures(server, "spools", "spooled_bytes") == (0, 0), "nothing is under way")
    # A client that only stops sending says that there is no more.
    for c in begin_uploads(server):
        c.end_of_input()
        c.rest()
        c.close()
    eventually(lambda: names(server, "tmp") == [], "the files are gone")
    assert names(server, "big") == []
    with server.connect() as c:
        c.ask(b"get a b c\r\n", b"END\r\n")


def test_uploads_under_way_at_a_crash_leave_nothing(new_server):
    server = new_server().start()
    put_big(server, "kept", b"x" * (2 * MIB))
    connections = begin_uploads(server)
    server.kill()
    assert len(names(server, "tmp")) == 3
    for c in connections:
        c.close()
    server.start()
    assert names(server, "tmp") == [] and len(names(server, "big")) == 1
    with server.connect() as c:
        c.ask(b"get a b c\r\n", b"END\r\n")
        assert mc_get(c, "kept")[0] == b"x" * (2 * MIB)


@pytest.mark.parametrize("sync", ["always", "interval=50"])
def test_overwritten_values_give_their_room_back(new_server, sync):
    server = new_server("--sync", sync).start()
    value = os.urandom(2 * MIB)
    with server.connect() as c:
        for i in range(20):
            c.ask(set_command("k%d" % (i % 2), value), b"STORED\r\n")
        c.ask(b"delete k0\r\n", b"DELETED\r\n")
    eventually(lambda: len(names(server, "big")) == 1, "one file is left")
    eventually(lambda: figures(server, "big_files", "big_bytes", "big_overwritten_files") ==
               (1, len(value), 0), "and is counted")
    server.restart()
    assert figures(server, "big_files", "big_bytes") == (1, len(value))
    with server.connect() as c:
        assert mc_get(c, "k1")[0] == value


@pytest.mark.tsan
def test_readers_of_a_value_that_changes_see_one_value_whole(new_server):
    """While a value is overwritten, appended to and deleted, each reader gets one of them or none."""
    server = new_server("--sync", "os").start()
    letters = b"abcdef"
    stop = threading.Event()
    failures = []

    def read():
        try:
            with server.connect() as c:
                while not stop.is_set():
                    got = mc_get(c, "k")
                    if got is None:
                        continue
                    value = got[0].rstrip(b"+")
                    assert len(value) == 2 * MIB and value == value[:1] * len(value)
        except AssertionError as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    with server.connect() as c:
        for i in range(40):
            value = letters[i % 6:i % 6 + 1] * (2 * MIB)
            c.ask(set_command("k", value), b"STORED\r\n")
            c.ask(set_command("k", b"+", command=b"append"), b"STORED\r\n")
            if i % 5 == 4:
                c.ask(b"delete k\r\n", b"DELETED\r\n")
    stop.set()
    for reader in readers:
        reader.join()
    assert not failures, failures[0]
    assert figures(server, "damaged_reads") == (0,)


# ---- slow readers ----

def slow_reader(server, target, length):
    """A connection whose reply has begun and is not taken on."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    s.settimeout(harness.WAIT_S)
    s.connect(server.address)
    s.sendall(b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % target)
    head = b""
    while b"\r\n\r\n" not in head:
        head += s.recv(1)
    assert b"Content-Length: %d\r\n" % length in head
    return s


def take_rest(s, length):
    """The bytes of the body that come until the connection is closed or all are there."""
    chunks, got = [], 0
    while got < length:
        try:
            data = s.recv(min(MIB, length - got))
        except ConnectionResetError:
            break
        if not data:
            break
        chunks.append(data)
        got += len(data)
    s.close()
    return b"".join(chunks)


def test_slow_readers_keep_what_was_overwritten_up_to_a_bound(new_server):
    """More than the sockets' buffers take, so that the replies cannot have left the server."""
    server = new_server("--pinned-max", "40m", "--sync", "interval=50").start()
    length = 30 * MIB
    values = {key: bytes([65 + i]) * length for i, key in enumerate(("old", "new"))}
    for key, value in values.items():
        put_big(server, key, value)
    readers = {key: slow_reader(server, b"/" + key.encode(), length) for key in values}
    with server.connect() as c:
        c.ask(set_command("old", b"small"), b"STORED\r\n")
        eventually(lambda: figures(server, "pinned_bytes") == (length,), "the old file is kept")
        assert len(names(server, "big")) == 1  # without a name
        # Nobody else waits for the slow one, and what it reads is what there was.
        assert mc_get(c, "old")[0] == b"small"
        c.ask(b"delete new\r\n", b"DELETED\r\n")
    # Now it is too much: who reads the one that was overwritten first is closed.
    eventually(lambda: figures(server, "pinned_kicks", "pinned_bytes") == (1, length),
               "one of them is closed")
    assert len(take_rest(readers["old"], length)) < length
    assert take_rest(readers["new"], length) == values["new"]
    eventually(lambda: figures(server, "pinned_bytes") == (0,), "nothing is kept any more")
    assert figures(server, "pinned_files_revoked") == (1,)
