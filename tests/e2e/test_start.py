"""The command line as people and init systems meet it: what is said, exit statuses, signals."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile

import pytest

import harness
from harness import eventually, free_port


def run(*words, **more):
    """ttserver to its end, which must come by itself: (exit status, standard output, messages)."""
    done = subprocess.run([harness.TTSERVER, *map(str, words)], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=harness.WAIT_S, **more)
    return done.returncode, done.stdout, done.stderr


def one_line(text):
    """The text, which must be one line."""
    assert text.count("\n") == 1 and text.endswith("\n"), text
    return text[:-1]


def fails(*words, **more):
    """The one line that a failed start says."""
    status, out, err = run(*words, **more)
    assert status == 1, (status, out, err)
    assert out == ""
    return one_line(err)


def get(address, key):
    with harness.Raw(address, harness.WAIT_S) as c:
        c.send(f"get {key}\r\n".encode())
        return c.until(b"END\r\n")


# ---- wrong usage ----

@pytest.mark.parametrize("words, named, expected", [
    (["--nonsense", "d"], "--nonsense", "unknown option"),
    (["-port", "none", "d"], "-port", "from 0 to 65535, but got 'none'"),
    (["-port"], "-port", "needs an argument"),
    (["--max-value", "2g", "d"], "--max-value", "up to 1g|to 1g"),
    (["--segment-size=1m", "d"], "--segment-size", "from 4m to 1g"),
    (["--sync", "daily", "d"], "--sync", "always, interval, interval=MS"),
    (["--auth-file", "x", "d"], "--auth-file", "not in this version"),
    (["d", "-port", "5"], "-port", "options come first"),
    (["a", "b"], "DBNAME", "only one"),
    ([], "DBNAME", "ttserver ./data"),
    (["*"], "DBNAME", "ttserver ./data"),
    (["casket.tch#bnum=1000000"], "DBNAME", "ttserver ./data"),
])
def test_wrong_usage_is_named_and_ends_with_status_2(words, named, expected, tmp_path):
    status, out, err = run(*words, cwd=tmp_path)
    assert status == 2
    assert out == ""
    line, hint = err.splitlines()
    assert named in line
    assert re.search(expected, line), line
    assert hint == "try ttserver --help"
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_others_can_reach_needs_insecure(tmp_path, new_server):
    data = tmp_path / "data"
    status, _, err = run("-host", "0.0.0.0", "-port", free_port(), data)
    assert status == 2
    assert "--insecure" in one_line(err)
    assert not data.exists()

    server = new_server("--insecure", "-host", "0.0.0.0").start()
    assert get(server.address, "k") == b"END\r\n"


def test_help_and_version_are_for_the_standard_output():
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    assert "Usage: ttserver [options] DBNAME" in out
    status, out, err = run("--version")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"ttserver \d+\.\d+\.\d+\n", out)


# ---- a start that fails ----

@pytest.mark.parametrize("shared", [False, True])
def test_a_taken_port_is_named_and_a_free_one_suggested(shared, tmp_path):
    with socket.socket() as other:
        if shared:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = fails("-port", port, tmp_path / "data")
    found = re.search(rf"port 127\.0\.0\.1:{port} is in use; try -port (\d+)$", line)
    assert found, line
    assert int(found.group(1)) > port
    assert not (tmp_path / "data").exists()


def test_a_second_server_on_the_same_data_is_refused(server):
    line = fails("-port", free_port(), server.data)
    assert str(server.data) in line
    assert get(server.address, "k") == b"END\r\n"


def test_data_that_cannot_be_a_directory_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine\n")
    for data in (tmp_path / "file", tmp_path / "file" / "below"):
        assert str(data) in fails("-port", free_port(), data)
    assert (tmp_path / "file").read_text() == "mine\n"


def test_data_without_rights_is_one_line():
    """As root nothing is without rights: the server then runs as nobody."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        program = shutil.copy(harness.TTSERVER, directory)
        data = pathlib.Path(directory) / "data"
        data.mkdir()
        data.chmod(0o500)
        user = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
        done = subprocess.run([program, "-port", str(free_port()), data], capture_output=True,
                              text=True, timeout=harness.WAIT_S, cwd=directory, **user)
        assert done.returncode == 1, done.stderr
        assert str(data) in one_line(done.stderr)


def test_a_foreign_file_in_the_data_is_one_line_and_stays(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "holiday.jpg").write_bytes(b"picture")
    line = fails("-port", free_port(), data)
    assert "holiday.jpg" in line
    assert [path.name for path in data.iterdir()] == ["holiday.jpg"]


def test_a_log_that_cannot_be_opened_is_one_line(tmp_path):
    line = fails("-log", tmp_path / "no" / "log", "-port", free_port(), tmp_path / "data")
    assert str(tmp_path / "no" / "log") in line


def test_a_failed_start_says_where_its_log_is(tmp_path):
    log = tmp_path / "log"
    line = fails("-log", log, "-host", "192.0.2.1", "--insecure", tmp_path / "data")
    assert str(log) in line
    assert "192.0.2.1:1978" in one_line(log.read_text())


# ---- what a server says that runs ----

def test_the_lines_to_try_work_as_they_are_printed(new_server):
    server = new_server("--sync", "interval=200").start()
    output = eventually(lambda: "Ctrl-C" in server.output() and server.output(), "the banner")
    assert f"127.0.0.1:{server.port}" in output
    assert str(server.data) in output
    assert "interval=200" in output
    lines = re.findall(r"^  ((?:bash|echo|curl) .*)$", output, re.M)
    assert len(lines) == 3
    replies = [subprocess.run(["sh", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              timeout=harness.WAIT_S).stdout for line in lines]
    assert replies[0] == b"STORED\r\nVALUE greeting 0 5\r\nhello\r\nEND\r\n"
    assert replies[1] == b"Created\n"
    assert replies[2].endswith(b"\r\n\r\n<h1>Hello</h1>\n")


def test_one_line_of_the_log_says_ready(new_server):
    server = new_server().start()
    line = eventually(lambda: re.search(r"^\S+ info ready (.*)$", server.output(), re.M), "ready")
    fields = dict(field.split("=", 1) for field in line.group(1).split())
    assert fields["address"] == f"127.0.0.1:{server.port}"
    assert fields["data"] == str(server.data)
    assert fields["sync"] == "always"
    assert fields["pid"] == str(server.pid)


def test_with_a_log_file_nothing_is_printed_and_sighup_opens_it_anew(new_server, tmp_path):
    log = tmp_path / "log"
    server = new_server("-log", log).start()
    eventually(lambda: " ready " in log.read_text(), "ready")
    log.rename(tmp_path / "log.1")
    server.signal(signal.SIGHUP)
    eventually(log.exists, "a new log file")
    server.stop()
    assert "stopped" in log.read_text()
    assert "stopped" not in (tmp_path / "log.1").read_text()
    assert server.output() == ""


def test_a_unix_socket_alone_is_enough(new_server, tmp_path):
    path = tmp_path / "socket"
    server = new_server("-port", "0", "--unix", path)
    server.start(wait=False)
    server.wait_listening(str(path))
    with harness.Raw(str(path), harness.WAIT_S) as c:
        c.send(b"get k\r\n")
        assert c.until(b"END\r\n") == b"END\r\n"
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", server.port)) != 0
    server.stop()
    assert not path.exists()


def test_more_connections_than_descriptors_are_lowered_with_a_warning(new_server):
    server = new_server("--max-conns", "9000")
    server.spawn(["prlimit", "--nofile=1024:1024", *server.command()], env=server.environment())
    eventually(lambda: " ready " in server.output(), "ready")
    assert server.terminate() == 0
    assert re.search(r"warn --max-conns 9000 lowered to 524\b", server.output())
    assert "max_conns=524" in server.output()


# ---- the end ----

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_cleanly(server, number):
    with server.connect() as idle:
        idle.send(b"set k 0 0 1\r\nv\r\n")
        assert idle.until(b"\r\n") == b"STORED\r\n"
        server.signal(number)
        assert server.wait() == 0
    assert f"stopping on {number.name}" in server.output()
    assert " info stopped" in server.output()
    server.start()
    assert get(server.address, "k") == b"VALUE k 0 1\r\nv\r\nEND\r\n"


def test_a_request_under_way_is_finished_before_the_end(server):
    with server.connect() as c:
        c.send(b"set k 0 0 10\r\nfirst")
        eventually(lambda: server.stats()["curr_connections"] == "2", "the first bytes are there")
        server.signal(signal.SIGTERM)
        eventually(lambda: "stopping on" in server.output(), "stopping")
        c.send(b"again\r\n")
        assert c.until(b"\r\n") == b"STORED\r\n"
    assert server.wait() == 0


def test_a_later_signal_ends_at_once(new_server, monkeypatch):
    # Threads are not joined then, which ThreadSanitizer would call a leak.
    earlier = os.environ.get("TSAN_OPTIONS", "")
    monkeypatch.setenv("TSAN_OPTIONS", f"{earlier}:report_thread_leaks=0")
    server = new_server().start()
    with server.connect() as c:
        c.send(b"set k 0 0 10\r\nfirst")
        eventually(lambda: server.stats()["curr_connections"] == "2", "the first bytes are there")
        server.signal(signal.SIGTERM)
        eventually(lambda: "stopping on" in server.output(), "stopping")

        def insist():
            server.signal(signal.SIGTERM)
            return "exiting at once" in server.output()

        eventually(insist, "impatience is understood")
        assert server.wait() == 1


def test_a_signal_that_comes_twice_at_once_is_one(server):
    """As timeout(1) sends it: to the process and to its group."""
    with server.connect() as c:
        c.send(b"set k 0 0 10\r\nfirst")
        eventually(lambda: server.stats()["curr_connections"] == "2", "the first bytes are there")
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGINT)
        eventually(lambda: "stopping on" in server.output(), "stopping")
        c.send(b"again\r\n")
        assert c.until(b"\r\n") == b"STORED\r\n"
    assert server.wait() == 0


def test_signals_without_a_meaning_are_borne(server):
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE):
        server.signal(number)
    assert get(server.address, "k") == b"END\r\n"


def test_after_kill_9_it_starts_at_once_on_the_same_port_and_data(server):
    with server.connect() as c:
        c.send(b"set k 0 0 1\r\nv\r\n")
        assert c.until(b"\r\n") == b"STORED\r\n"
        server.kill()
    server.start()
    assert get(server.address, "k") == b"VALUE k 0 1\r\nv\r\nEND\r\n"


# ---- the pid file ----

def test_the_pid_file_is_there_while_the_server_runs(new_server, tmp_path):
    path = tmp_path / "pid"
    server = new_server("-pid", path).start()
    assert path.read_text() == f"{server.pid}\n"
    assert "stop it" in fails("-pid", path, "-port", free_port(), tmp_path / "other")
    assert path.read_text() == f"{server.pid}\n"
    server.stop()
    assert not path.exists()


def test_a_pid_file_of_a_crash_is_no_obstacle(new_server, tmp_path):
    path = tmp_path / "pid"
    server = new_server("-pid", path).start()
    server.kill()
    assert path.exists()
    server.start()
    assert path.read_text() == f"{server.pid}\n"


def test_a_failed_start_leaves_no_pid_file(tmp_path):
    path = tmp_path / "pid"
    fails("-pid", path, "-host", "192.0.2.1", "--insecure", tmp_path / "data")
    assert not path.exists()
