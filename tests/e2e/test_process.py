"""The process: options, start that fails, stop, restart, sockets, log."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

import harness
from harness import read_response, set_command, value_reply


def run(*arguments, **more):
    """Runs ttserver with arguments that must end it at once: (status, stdout, stderr)."""
    done = subprocess.run([harness.TTSERVER, *map(str, arguments)], capture_output=True, text=True,
                          timeout=harness.WAIT_S, **more)
    return done.returncode, done.stdout, done.stderr


def fails_to_start(server, *more, **spawn_options):
    """The one line that says why a server with good options does not start; exit status 1."""
    server.start(*more, wait=False, **spawn_options)
    status = server.wait()
    lines = [line for line in server.log().splitlines() if line]
    assert status == 1, (status, lines)
    assert len(lines) == 1 and re.match(r"\S+Z error ", lines[0]), lines
    return lines[0]


# ---- options ----

@pytest.mark.parametrize("arguments, words", [
    (["-port"], ["-port"]),
    (["-port", "abc", "d"], ["-port", "abc", "65535"]),
    (["-port", "65536", "d"], ["-port", "65536", "65535"]),
    (["-port", "-1", "d"], ["-port"]),
    (["-port", "1978x", "d"], ["-port", "1978x"]),
    (["-port", "0", "d"], ["-port", "--unix"]),
    (["-thnum", "0", "d"], ["-thnum", "0"]),
    (["-sid", "65536", "d"], ["-sid", "65535"]),
    (["--sync", "sometimes", "d"], ["--sync", "always", "interval", "os"]),
    (["--sync", "interval=0", "d"], ["--sync", "interval"]),
    (["--sync", "interval=x", "d"], ["--sync"]),
    (["--max-value", "10q", "d"], ["--max-value", "10q"]),
    (["--segment-size", "1m", "d"], ["--segment-size", "4m"]),
    (["--max-conns", "none", "d"], ["--max-conns"]),
    (["--idle-timeout", "1.5", "d"], ["--idle-timeout"]),
    (["--nonsense", "d"], ["--nonsense"]),
    (["-nonsense", "d"], ["-nonsense"]),
    (["--auth-file", "f", "d"], ["--auth-file"]),
    (["--auth-file=f", "d"], ["--auth-file"]),
    (["a", "b"], ["b"]),
    (["d", "-port", "1"], ["-port"]),
    (["--unix", "/" + "x" * 200, "d"], ["--unix", "107"]),
])
def test_a_bad_option_is_named(tmp_path, arguments, words):
    status, out, err = run(*arguments, cwd=tmp_path)
    assert status == 2 and out == ""
    for word in words:
        assert word in err.splitlines()[0], err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["*"]], ids=["none", "star"])
def test_without_a_directory_the_choices_are_named(tmp_path, arguments):
    status, out, err = run(*arguments, cwd=tmp_path)
    assert status == 2 and out == ""
    assert "directory" in err and "*" in err
    assert list(tmp_path.iterdir()) == []


def test_help_and_version():
    status, out, err = run("--help")
    assert status == 0 and err == ""
    for option in ("-host", "-port", "-thnum", "-sid", "--sync", "--max-value", "--max-conns",
                   "--idle-timeout", "--unix", "--segment-size", "--insecure", "-log", "-ld", "-le"):
        assert f" {option}" in out
    assert max(map(len, out.splitlines())) <= 80
    status, out, err = run("--version")
    assert status == 0 and re.fullmatch(r"ttserver \d+\.\d+\.\d+\n", out)


# ---- addresses ----

@pytest.mark.parametrize("host", ["0.0.0.0", "*", "::"])
def test_an_address_that_others_reach_needs_insecure(new_server, host):
    server = new_server(host=host)
    server.start(wait=False)
    assert server.wait() == 2
    assert "--insecure" in server.log() and "-host" in server.log()
    assert not server.data.exists()


def test_insecure_allows_it(new_server):
    server = new_server("--insecure", host="0.0.0.0").start()
    with harness.Raw(("127.0.0.1", server.port)) as c:
        c.ask(b"get k\r\n", b"END\r\n")


def test_a_port_in_use_is_one_line(new_server):
    """SO_REUSEPORT would let the second server in; both servers are of the same user."""
    first = new_server().start()
    second = new_server(port=first.port)
    assert re.search(rf"127\.0\.0\.1:{first.port} is in use", fails_to_start(second))
    with first.connect() as c:
        c.ask(b"get k\r\n", b"END\r\n")


def test_a_port_in_use_by_another_program(new_server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = new_server(port=taken.getsockname()[1])
        assert "in use" in fails_to_start(server)


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


@pytest.mark.parametrize("port", [None, 0], ids=["beside TCP", "alone"])
def test_unix_socket(new_server, port):
    directory = tempfile.mkdtemp()  # a short path: there are 107 bytes
    path = f"{directory}/socket"
    try:
        server = new_server("--unix", path, port=port).start()
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
    server = new_server(data=None)
    server.data = server.directory / "not" / "there"
    server.data.parent.mkdir()
    server.start()
    assert server.data.is_dir()


def test_a_directory_whose_parent_is_missing_is_one_line(new_server):
    server = new_server()
    server.data = server.directory / "missing" / "data"
    assert str(server.data) in fails_to_start(server)


def test_a_directory_without_rights_is_one_line(new_server):
    directory = tempfile.mkdtemp()
    try:
        server = new_server(data=directory)
        os.chmod(directory, 0o555)
        user = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        line = fails_to_start(server, **user)
        assert directory in line and "ermission denied" in line
    finally:
        os.chmod(directory, 0o755)
        shutil.rmtree(directory)


def test_a_file_instead_of_a_directory_is_one_line(new_server):
    server = new_server()
    server.data.write_text("precious")
    assert str(server.data) in fails_to_start(server)
    assert server.data.read_text() == "precious"


def test_a_foreign_file_is_one_line_and_stays(new_server):
    server = new_server()
    server.data.mkdir()
    (server.data / "thesis.txt").write_text("precious")
    assert "thesis.txt" in fails_to_start(server)
    assert (server.data / "thesis.txt").read_text() == "precious"
    assert [path.name for path in server.data.iterdir()] == ["thesis.txt"]


def test_a_second_process_on_the_same_data_is_refused(new_server):
    first = new_server().start()
    second = new_server(data=first.data)
    line = fails_to_start(second)
    assert str(first.data) in line and re.search("use|lock", line)
    with first.connect() as c:
        c.ask(set_command("k", b"x"), b"STORED\r\n")
    first.kill()
    second.start()
    with second.connect() as c:
        assert harness.mc_get(c, "k")[0] == b"x"


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_stops_in_order(server, number):
    idle = server.connect()
    with server.connect() as c:
        c.ask(set_command("k", b"x"), b"STORED\r\n")
    server.signal(number)
    assert server.wait() == 0
    assert idle.rest() == b""
    server.start()
    with server.connect() as c:
        assert harness.mc_get(c, "k")[0] == b"x"


def wait_refused(server):
    """Waits until the server takes no more connections."""
    def refused():
        try:
            harness.connect(server.address).close()
        except ConnectionRefusedError:
            return True
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
    soon = int(time.time()) + 6
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
        harness.eventually(lambda: time.time() < soon or harness.mc_get(c, "soon") is None, "expiry", 15)
        assert harness.mc_get(c, "touched") is not None
        c.ask(b"flush_all\r\n", b"OK\r\n")
    server.kill() if crash else server.stop()
    server.start()
    with server.connect() as c:
        c.ask(b"get flags later touched n empty joined big\r\n", b"END\r\n")


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


# ---- the log and other files ----

def test_log_file(new_server, tmp_path):
    path, moved = tmp_path / "log", tmp_path / "log.1"
    server = new_server("-log", path, "-pid", tmp_path / "pid").start()
    assert server.output() == ""
    assert int((tmp_path / "pid").read_text()) == server.pid
    path.rename(moved)
    server.signal(signal.SIGHUP)
    harness.eventually(path.exists, "the file is opened anew")
    server.stop()
    assert "stopping" in path.read_text() and "ready" in moved.read_text()
    for line in (path.read_text() + moved.read_text()).splitlines():
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (info|warn|error) ", line), line
    assert not (tmp_path / "pid").exists()


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


def test_a_log_file_that_cannot_be_opened_is_one_line(new_server, tmp_path):
    server = new_server()
    status, out, err = run("-port", server.port, "-log", tmp_path / "missing" / "log", server.data)
    assert status == 1 and out == ""
    assert len(err.splitlines()) == 1 and str(tmp_path / "missing" / "log") in err


def test_the_banner_tells_how_to_try_it(server):
    """The two lines to try are run as they are printed."""
    harness.eventually(lambda: "Ctrl-C" in server.output(), "the banner")
    lines = [line.strip() for line in server.output().splitlines()]
    assert any(f"127.0.0.1:{server.port}" in line for line in lines)
    assert any(str(server.data) in line for line in lines) and "always" in server.output()
    tries = [line for line in lines if line.startswith(("bash -c", "echo ", "curl "))]
    assert len(tries) >= 2
    for line in tries:
        done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=harness.WAIT_S)
        assert done.returncode == 0, (line, done)
        assert b"hello" in done.stdout or b"Created" in done.stdout or b"Hello" in done.stdout
