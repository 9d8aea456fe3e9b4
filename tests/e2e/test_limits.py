"""Clients that announce, hold, abort, idle or do not read must not cost memory or stop others."""

import resource
import select
import socket
import struct
import time

import pytest

import harness
from harness import read_response, set_command, value_reply

MIB = 1 << 20


def close_with_reset(connection):
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def wait_received(server, total):
    """Waits until the server has received so many bytes since it started."""
    harness.eventually(lambda: int(server.stats()["bytes_read"]) >= total,
                       f"{total} bytes received")


def wait_connections(server, count):
    """Waits until so many connections are open beside the one that asks."""
    harness.eventually(lambda: int(server.stats()["curr_connections"]) - 1 == count,
                       f"{count} connections")


def small_set_works(server, limit_s=harness.WAIT_S):
    with server.connect(limit_s) as c:
        c.ask(set_command("small", b"x") + b"get small\r\n",
              b"STORED\r\n" + value_reply("small", b"x") + b"END\r\n")


BIG_BEGUN = {
    "memcached": (b"set big 0 0 2097152\r\n", b"SERVER_ERROR out of memory storing object\r\n"),
    "http": (b"PUT /big HTTP/1.1\r\nHost: h\r\nContent-Length: 2097152\r\n\r\n",
             b"HTTP/1.1 503 Service Unavailable\r\n"),
}


@pytest.mark.parametrize("protocol", BIG_BEGUN)
def test_without_descriptors_big_values_are_told_to_try_again(server, protocol):
    begin, refusal = BIG_BEGUN[protocol]
    with server.connect() as c, server.connect() as other:
        wait_connections(server, 2)
        limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            # More than waits in memory: the file is made, and missed, before all of it is taken.
            c.send(begin + bytes(1_500_000))
            assert c.until(b"\r\n") == refusal
        finally:
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
        other.ask(set_command("small", b"x") + b"get small\r\n",
                  b"STORED\r\n" + value_reply("small", b"x") + b"END\r\n")


ANNOUNCED = {
    "memcached": b"set big%d 0 0 60000000\r\nx",
    "http": b"PUT /big%d HTTP/1.1\r\nHost: h\r\nContent-Length: 60000000\r\n\r\nx",
}


@pytest.mark.parametrize("protocol", ANNOUNCED)
def test_announced_bytes_cost_nothing(server, protocol):
    """400 connections announce 60 MB each and send one byte."""
    before = server.rss_bytes()
    connections = []
    sent = 0
    for n in range(400):
        c = server.connect()
        c.send(ANNOUNCED[protocol] % n)
        sent += len(ANNOUNCED[protocol] % n)
        connections.append(c)
    wait_received(server, sent)
    small_set_works(server)
    assert server.rss_bytes() - before < 200 * MIB
    for c in connections:
        c.close()
    wait_connections(server, 0)


def test_held_bytes_are_bounded(new_server):
    """Past the bound new work is refused with the protocol's busy error, and taken again later."""
    server = new_server("--buffer-memory", "16m").start()
    before = server.rss_bytes()
    connections = [server.connect() for _ in range(100)]
    for n, c in enumerate(connections):
        c.send(b"set held%d 0 0 1000000\r\n" % n + b"x" * 900_000)
    busy = b"SERVER_ERROR out of memory storing object\r\n"

    def some_are_refused():
        readable, _, _ = select.select([c.socket for c in connections], [], [], 0)
        return len(readable) > 50

    harness.eventually(some_are_refused, "refusals past the bound")
    assert server.rss_bytes() - before < 100 * MIB
    stored = 0
    for c in connections:  # the rest of a refused value is swallowed, the connection stays good
        c.send(b"x" * 100_000 + b"\r\nversion\r\n")
        reply = c.line()
        assert reply in (b"STORED\r\n", busy)
        stored += reply != busy
        assert c.line().startswith(b"VERSION")
    assert 10 <= stored < 50
    small_set_works(server)
    for c in connections:
        c.close()


@pytest.mark.parametrize("ask, size", [(b"get k\r\n", 100_000), (b"get k\r\n", 8 * MIB),
                                       (b"GET /k HTTP/1.1\r\nHost: h\r\n\r\n", 100_000),
                                       (b"get k k k k k k k k\r\n", 100)],
                         ids=["100 kB", "8 MB", "HTTP 100 kB", "small"])
def test_a_client_that_never_reads_does_not_grow_memory(server, ask, size):
    """Endless requests without taking replies: the server stops reading, and answers all later."""
    with server.connect() as c:
        c.ask(set_command("k", b"v" * size), b"STORED\r\n")
    before = server.rss_bytes()
    clients = [server.connect() for _ in range(10)]
    burst = ask * 500
    asked = {c: 0 for c in clients}
    # Until no socket has taken anything for a second: the server and the kernel's buffers are full.
    while True:
        _, writable, _ = select.select([], [c.socket for c in clients], [], 1)
        if not writable:
            break
        for c in clients:
            if c.socket in writable:
                at = asked[c] % len(burst)
                asked[c] += c.socket.send(burst[at:], socket.MSG_DONTWAIT)
                assert asked[c] < 200 * MIB, "the server reads without end"
        assert server.rss_bytes() - before < 64 * MIB
    small_set_works(server)
    assert server.rss_bytes() - before < 64 * MIB

    reader = clients[0]
    whole = asked[reader] // len(ask)
    http = ask.startswith(b"GET")
    reply = value_reply("k", b"v" * size) * ask.count(b" k") + b"END\r\n"
    for _ in range(min(whole, 300)):
        if http:
            assert read_response(reader).body == b"v" * size
        else:
            reader.expect(reply)
    for c in clients:
        close_with_reset(c)
    wait_connections(server, 0)


@pytest.mark.tsan
def test_a_slow_reader_gets_all(server):
    value = bytes(range(256)) * (8 * MIB // 256)
    with server.connect() as c:
        c.ask(set_command("slow", value), b"STORED\r\n")
    for ask, head in [(b"get slow\r\n", b"VALUE slow 0 8388608\r\n"),
                      (b"GET /slow HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"\r\n\r\n")]:
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.settimeout(harness.WAIT_S)
        s.connect(server.address)
        s.sendall(ask)
        got = bytearray()
        for n in range(10**9):
            if n % 50 == 0 and n < 500:  # others are served meanwhile
                small_set_works(server)
            at = got.find(head)
            if at >= 0 and len(got) >= at + len(head) + len(value):
                break
            data = s.recv(5000)
            assert data, f"closed after {len(got)} bytes"
            got += data
        at = got.find(head) + len(head)
        assert got[at:at + len(value)] == value
        s.close()


@pytest.mark.tsan
def test_aborts_in_mid_value_leave_nothing_behind(server):
    with server.connect() as c:
        c.ask(set_command("old", b"o" * (3 * MIB)) + set_command("mid", b"old"), b"STORED\r\n" * 2)
    for n in range(60):
        c = server.connect()
        body = b"x" * [10, 20_000, 300_000, 2_000_000][n % 4]
        if n % 3 == 0:
            c.send(b"set mid 0 0 %d\r\n" % (len(body) + 5) + body)
        elif n % 3 == 1:
            c.send(b"PUT /mid HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (len(body) + 5) +
                   body)
        else:
            c.send(b"get old old old old\r\n" * 50)
            c.exactly(len(body) // 2)
        if n % 2:
            close_with_reset(c)
        else:
            c.close()
    wait_connections(server, 0)
    with server.connect() as c:
        assert harness.mc_get(c, "mid")[0] == b"old"
    harness.eventually(lambda: not any((server.data / "tmp").iterdir()),
                       "unfinished files are removed")


@pytest.mark.tsan
def test_half_closed_connections_are_answered_and_closed(server):
    with server.connect() as c:
        c.send(set_command("k", b"x") + b"get k\r\nset k 0 0 100\r\nhalf")
        c.end_of_input()
        assert c.rest() == b"STORED\r\n" + value_reply("k", b"x") + b"END\r\n"
    with server.connect() as c:
        c.send(b"PUT /k HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf")
        c.end_of_input()
        c.rest()
    with server.connect() as c:
        c.end_of_input()
        assert c.rest() == b""
    with server.connect() as c:
        assert harness.mc_get(c, "k")[0] == b"x"
    wait_connections(server, 0)


def test_ten_thousand_idle_connections(new_server):
    count = 10_000
    if not harness.raise_descriptor_limit(count + 600):
        pytest.skip("the hard limit of open files is below 10,600")
    server = new_server().start()
    small_set_works(server)
    before = server.rss_bytes()
    sockets = []
    try:
        for n in range(count):
            sockets.append(socket.create_connection(server.address, harness.WAIT_S))
            if n % 2:  # half of them have been used
                sockets[-1].sendall(b"get small\r\n")
        for s in sockets[1::2]:
            assert s.recv(100).startswith(b"VALUE small")
        wait_connections(server, count)
        assert server.rss_bytes() - before < 50 * MIB
        small_set_works(server)
    finally:
        for s in sockets:
            s.close()
    wait_connections(server, 0)


@pytest.mark.tsan
def test_max_conns(new_server):
    server = new_server("--max-conns", "10", "-thnum", "2").start()
    inside = [server.connect() for _ in range(10)]
    for c in inside:
        c.send(b"get k\r\n")
        c.expect(b"END\r\n")
    with server.connect() as c:
        assert c.rest() in (b"", b"ERROR Too many open connections\r\n")
    inside.pop().close()

    def one_more():
        with server.connect() as c:
            return harness.is_served(c)

    harness.eventually(one_more, "room after one has left")
    inside[0].send(b"stats\r\n")
    assert b"STAT rejected_connections 0\r\n" not in inside[0].until(b"END\r\n")
    for c in inside:
        c.close()


BEGUN = {
    "command": b"set k 0 0",
    "one letter": b"g",
    "value": b"set k 0 0 100\r\nhalf",
    "big value": b"set k 0 0 5000000\r\n" + b"x" * 3_000_000,
    "swallowed value": b"set k 0 x 100\r\nhalf",
    "keys": b"get k k",
    "head": b"GET /k HTTP/1.1\r\nHost:",
    "body": b"PUT /k HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf",
    "chunk": b"PUT /k HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nx",
}


@pytest.mark.tsan
def test_stalled_requests_are_closed_idle_connections_are_not(new_server):
    server = new_server("-tout", "1").start()
    idle = [server.connect(), server.connect()]
    idle[1].ask(b"get k\r\n", b"END\r\n")
    stalled = {name: server.connect() for name in BEGUN}
    for name, c in stalled.items():
        c.send(BEGUN[name])
    for name, c in stalled.items():
        c.rest()  # fails if the server does not close
    assert int(server.stats()["stalled_kicks"]) == len(BEGUN)
    for c in idle:
        c.ask(b"get k\r\n", b"END\r\n")
        c.close()


def test_a_reply_that_nobody_takes_is_given_up(new_server):
    server = new_server("-tout", "1").start()
    with server.connect() as c:
        c.ask(set_command("big", b"x" * (16 * MIB)), b"STORED\r\n")
    stuck = server.connect()
    stuck.send(b"get big big big\r\n")
    harness.eventually(lambda: int(server.stats()["stalled_kicks"]) == 1, "the reader is given up")
    stuck.close()


def test_slow_but_steady_requests_are_finished(new_server):
    server = new_server("-tout", "3").start()
    with server.connect() as c:
        c.send(b"set steady 0 0 12\r\n")
        began = time.monotonic()
        for n in range(12):
            time.sleep(0.4)  # a client at its own pace: nothing to wait for
            c.send(b"%x" % n)
        assert time.monotonic() - began > 3
        c.send(b"\r\n")
        c.expect(b"STORED\r\n")


def test_idle_timeout(new_server):
    server = new_server("--idle-timeout", "1").start()
    quiet, used, http = server.connect(), server.connect(), server.connect()
    used.ask(b"get k\r\n", b"END\r\n")
    http.send(b"GET /k HTTP/1.1\r\nHost: h\r\n\r\n")
    assert read_response(http).status == 404
    for c in (quiet, used, http):
        assert c.rest() == b""
    assert int(server.stats()["idle_kicks"]) == 3
