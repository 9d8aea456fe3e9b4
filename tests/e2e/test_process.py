"""The process over its life: sockets, restarts, orderly stops, and what is still there afterwards.

What the command line says is tested in test_start.py.
"""

import os
import re
import shutil
import signal
import socket
import tempfile
import time

import pytest

import harness
from harness import read_response, set_command, value_reply


def fails_to_start(server, *more, **spawn_options):
    """The one line that says why a server with good options does not start; exit status 1."""
    server.start(*more, wait=False, **spawn_options)
    status = server.wait()
    lines = [line for line in server.log().splitlines() if line]
    assert status == 1, (status, lines)
    assert len(lines) == 1 and re.match(r"\S+Z error ", lines[0]), lines
    return lines[0]


# ---- addresses ----

def test_a_port_in_use_is_one_line(new_server):
    """SO_REUSEPORT would let the second server in; both servers are of the same user."""
    first = new_server().start()
    second = new_server(port=first.port)
    assert re.search(rf"127\.0\.0\.1:{first.port} is in use", fails_to_start(second))
    with first.connect() as c:
        c.ask(b"get k\r\n", b"END\r\n")


def test_ipv6(new_server):
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    server = new_server(host="::1").start()
    with server.connect() as c:
        c.ask(b"get k\r\n", b"END\r\n")
    with server.connect() as c:
        c.send(b"GET /-/ready HTTP/1.1\r\nHost: [::1]\r\n\r\n")
        assert read_response(c).status == 200
    with pytest.raises(ConnectionRefusedError):
        harness.connect(("127.0.0.1", server.port))


def test_unix_socket_beside_tcp(new_server):
    directory = tempfile.mkdtemp()  # a short path: there are 107 bytes
    path = f"{directory}/socket"
    try:
        server = new_server("--unix", path).start()
        for _ in range(2):
            with harness.Raw(path) as c:
                c.ask(set_command("k", b"x" * 100_000), b"STORED\r\n")
            with harness.Raw(path) as c:
                c.send(b"GET /k HTTP/1.1\r\nHost: h\r\n\r\n")
                assert read_response(c).body == b"x" * 100_000
            server.kill()  # leaves the file of the socket, which must not be in the way
            server.start()
        other = new_server("--unix", path)
        assert path in fails_to_start(other)
        server.stop()
        assert not os.path.exists(path)
    finally:
        shutil.rmtree(directory)


# ---- the data directory ----

def test_the_directory_is_made(new_server):
    server = new_server()
    server.data = server.directory / "not" / "there"
    server.data.parent.mkdir()
    server.start()
    assert server.data.is_dir()


def test_a_directory_whose_parent_is_missing_is_one_line(new_server):
    server = new_server()
    server.data = server.directory / "missing" / "data"
    assert str(server.data) in fails_to_start(server)


# ---- stop and restart ----

@pytest.mark.tsan
def test_restart_at_once_after_a_crash(server):
    """The same port and directory, with connections open that the kernel still knows about."""
    for n in range(3):
        connections = [server.connect() for _ in range(5)]
        for c in connections:
            c.ask(set_command(f"k{n}", b"%d" % n), b"STORED\r\n")
            c.send(b"set half 0 0 1000000\r\n" + b"x" * 100_000)
        server.kill()
        server.start()
        with server.connect() as c:
            for i in range(n + 1):
                assert harness.mc_get(c, f"k{i}")[0] == b"%d" % i
            assert harness.mc_get(c, "half") is None


def wait_refused(server):
    """Waits until the server takes no more connections."""
    def refused():
        try:
            harness.connect(server.address).close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            pass  # it stood in the queue of a listener that was just closed
        return False

    harness.eventually(refused, "no more connections are taken")


@pytest.mark.parametrize("size", [1000, 500_000, 3_000_000])
@pytest.mark.tsan
def test_sigterm_lets_a_request_finish(server, size):
    value = b"v" * size
    begun, begun_http = server.connect(), server.connect()
    command = set_command("begun", value)
    put = b"PUT /http HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size + value
    begun.send(command[:-size // 2])
    begun_http.send(put[:-size // 2])
    harness.eventually(lambda: int(server.stats()["bytes_read"]) >= len(command) + len(put) - size,
                       "both have begun")
    server.signal(signal.SIGTERM)
    wait_refused(server)
    begun.send(command[-size // 2:])
    begun.expect(b"STORED\r\n")
    begun_http.send(put[-size // 2:])
    reply = read_response(begun_http)
    assert reply.status == 201 and reply.headers["connection"] == "close"
    assert begun.rest() == b"" and begun_http.rest() == b""
    assert server.wait() == 0
    server.start()
    with server.connect() as c:
        assert harness.mc_get(c, "begun")[0] == value and harness.mc_get(c, "http")[0] == value


def test_sigterm_lets_a_slow_reader_finish(server):
    value = os.urandom(1 << 20) * 16
    with server.connect() as c:
        c.ask(set_command("big", value), b"STORED\r\n")
    reader = server.connect()
    reader.send(b"get big\r\n")
    reader.until(b"\r\n")
    server.signal(signal.SIGTERM)
    wait_refused(server)
    assert reader.exactly(len(value)) == value
    reader.expect(b"\r\nEND\r\n")
    assert server.wait() == 0


def test_a_client_that_never_finishes_does_not_stop_the_stop(server):
    begun = server.connect()
    begun.send(b"set k 0 0 1000\r\nx")
    harness.eventually(lambda: int(server.stats()["bytes_read"]) > 0, "it has begun")
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert time.monotonic() - began < 20
    begun.close()


@pytest.mark.tsan
def test_not_ready_while_stopping(server):
    """Whoever looks at readiness on a kept connection is told before it closes."""
    begun, watcher = server.connect(), server.connect()
    begun.send(b"set k 0 0 4\r\nab")
    watcher.send(b"GET /-/ready HTTP/1.1\r\nHost: h\r\n\r\n")
    assert read_response(watcher).status == 200
    watcher.send(b"GET /-/ready HTT")
    harness.eventually(lambda: int(server.stats()["bytes_read"]) > 70, "both have begun")
    server.signal(signal.SIGTERM)
    wait_refused(server)
    watcher.send(b"P/1.1\r\nHost: h\r\n\r\n")
    reply = read_response(watcher)
    assert reply.status == 503 and b"draining" in reply.body
    begun.send(b"cd\r\n")
    begun.expect(b"STORED\r\n")
    assert server.wait() == 0


# ---- what is durable ----

@pytest.mark.parametrize("crash", [False, True], ids=["stop", "crash"])
@pytest.mark.parametrize("sync", ["always", "interval=50", "os"])
@pytest.mark.tsan
def test_all_of_a_record_is_durable(new_server, sync, crash):
    server = new_server("--sync", sync).start()
    soon = int(time.time()) + 3
    with server.connect() as c:
        c.ask(set_command("flags", b"x", flags=4294967295) + set_command("gone", b"x", exptime=-1) +
              set_command("soon", b"x", exptime=soon) + set_command("later", b"x", exptime=3600) +
              set_command("touched", b"x", exptime=1) + b"touch touched 3600\r\n" +
              set_command("n", b"41") + b"incr n 1\r\n" + set_command("empty", b"") +
              set_command("dead", b"x") + b"delete dead\r\n" +
              set_command(b"k" * 250, b"long key") + set_command("joined", b"b", flags=5) +
              b"append joined 0 0 1\r\nc\r\nprepend joined 0 0 1\r\na\r\n" +
              set_command("big", b"y" * 2_000_000, flags=9),
              b"STORED\r\n" * 5 + b"TOUCHED\r\nSTORED\r\n42\r\nSTORED\r\nSTORED\r\nDELETED\r\n" +
              b"STORED\r\nSTORED\r\nSTORED\r\nSTORED\r\nSTORED\r\n")
        keys = ["flags", "later", "touched", "n", "empty", "joined", "big"]
        before = {key: harness.mc_get(c, key) for key in keys}
    server.kill() if crash else server.stop()
    server.start()
    with server.connect() as c:
        assert {key: harness.mc_get(c, key) for key in keys} == before
        assert before["joined"][:2] == (b"abc", 5) and before["flags"][1] == 4294967295
        assert harness.mc_get(c, b"k" * 250)[0] == b"long key"
        assert harness.mc_get(c, "gone") is None and harness.mc_get(c, "dead") is None
        c.ask(b"cas later 0 0 1 %d\r\nz\r\n" % before["later"][2], b"STORED\r\n")
        new_cas = harness.mc_get(c, "later")[2]
        assert new_cas not in [record[2] for record in before.values()]
        c.ask(b"incr n 1\r\n", b"43\r\n")
        harness.eventually(lambda: harness.mc_get(c, "soon") is None, "expiry")
        assert time.time() > soon - 1
        assert harness.mc_get(c, "touched") is not None
        c.ask(b"flush_all\r\n", b"OK\r\n")
    server.kill() if crash else server.stop()
    server.start()
    with server.connect() as c:
        c.ask(b"get flags later touched n empty joined big\r\n", b"END\r\n")


def test_values_of_every_size_are_read_after_a_restart(server):
    """An earlier run's values are checked before they are sent: other ways than for fresh ones."""
    values = {f"k{size}": os.urandom(size) for size in
              [1, 16_000, 16_384, 16_385, 20_000, 65_535, 65_536, 100_000, 160_000, 170_000, 500_000,
               1 << 20, (1 << 20) + 1, 3_000_000]}
    with server.connect() as c:
        for key, value in values.items():
            c.ask(set_command(key, value), b"STORED\r\n")
    for end in (server.stop, server.kill):
        end()
        server.start()
        with server.connect() as c:  # all are asked for before the first is read
            c.send(b"".join(b"get %s\r\n" % key.encode() for key in values))
            for key, value in values.items():
                assert c.exactly(len(value_reply(key, value))) == value_reply(key, value), key
                c.expect(b"END\r\n")
        with server.connect() as c:
            c.send(b"".join(b"GET /%s HTTP/1.1\r\nHost: h\r\n\r\n" % key.encode()
                            for key in values))
            for key, value in values.items():
                assert read_response(c).body == value, key


def test_entity_tags_and_types_survive(server):
    def get():
        with server.connect() as c:
            c.send(b"GET /typed HTTP/1.1\r\nHost: h\r\n\r\n")
            headers = read_response(c).headers
        return headers["etag"], headers["last-modified"], headers["content-type"]

    with server.connect() as c:
        c.send(b"PUT /typed HTTP/1.1\r\nHost: h\r\nContent-Type: x/y\r\nContent-Length: 1\r\n\r\nz")
        assert read_response(c).status == 201
    before = get()
    assert before[2] == "x/y"
    server.kill()
    server.start()
    assert get() == before
    server.restart()
    assert get() == before


@pytest.mark.tsan
def test_the_index_is_rebuilt_when_it_is_missing(server):
    with server.connect() as c:
        for n in range(500):
            c.send(set_command(f"k{n}", b"%d" % n * 50, noreply=True))
        c.ask(b"delete k7\r\n" + set_command("big", b"b" * 2_000_000), b"DELETED\r\nSTORED\r\n")
    server.stop()
    shutil.rmtree(server.data / "index")
    server.start()
    with server.connect() as c:
        for n in range(500):
            found = harness.mc_get(c, f"k{n}")
            assert found is None if n == 7 else found[0] == b"%d" % n * 50, n
        assert harness.mc_get(c, "big")[0] == b"b" * 2_000_000
    assert server.stats()["curr_items"] == "500"


# ---- the log ----

def test_log_levels(new_server):
    quiet = new_server("-le")
    quiet.start(wait=False)
    quiet.wait_listening(quiet.address)
    harness.eventually(lambda: "is ready" in quiet.output(), "the banner")
    quiet.stop()
    assert " info " not in quiet.log()
    loud = new_server("-ld").start()
    with loud.connect() as c:
        c.send(b"NONSENSE\r\n\r\n")
        c.rest()
    assert " debug " in loud.log()


