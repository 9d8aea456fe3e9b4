"""`make run` as a user types it, at a terminal."""

import os
import pathlib
import pty
import re
import select
import signal
import socket
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
WAIT_SECONDS = 200  # the first one builds


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Terminal:
    """A command at a terminal of its own."""

    def __init__(self, *args):
        self.output = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execvp(args[0], args)

    def read_until(self, text):
        """Reads until the output holds text; None: until the command closes the terminal."""
        end = time.monotonic() + WAIT_SECONDS
        while text is None or text not in self.output:
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            assert ready, f"{text!r} did not come: {self.output}"
            try:
                data = os.read(self.fd, 4096)
            except OSError:  # closed
                data = b""
            if not data:
                assert text is None, f"ended without {text!r}: {self.output}"
                return
            self.output += data.decode().replace("\r\n", "\n")

    def press_ctrl_c(self):
        os.write(self.fd, b"\x03")

    def exit_code(self):
        self.read_until(None)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = None
        return code

    def close(self):
        os.close(self.fd)  # the session gets SIGHUP
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


@pytest.fixture
def at_terminal():
    terminals = []

    def start(*args):
        terminals.append(Terminal(*args))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


@pytest.fixture
def running(at_terminal, tmp_path):
    port = free_port()
    terminal = at_terminal("make", "run", f"PORT={port}", f"DATA={tmp_path}/some data")
    terminal.read_until("Ctrl-C stops the server.")
    return terminal, port, tmp_path / "some data"


def test_it_says_where_it_serves_and_stops_cleanly_at_ctrl_c(running):
    terminal, port, data = running
    assert f"127.0.0.1:{port}" in terminal.output
    assert str(data) in terminal.output and "always" in terminal.output
    assert data.is_dir()
    terminal.press_ctrl_c()
    assert terminal.exit_code() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_the_lines_to_try_work_as_pasted(running):
    lines = re.findall(r"^  ((?:bash|echo|curl) .*)$", running[0].output, re.M)
    assert len(lines) >= 2 and any("curl" in line for line in lines)
    for line in lines:
        done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, (line, done)
        assert re.search("hello|Created", done.stdout, re.I), (line, done)


def test_a_second_start_says_nothing_of_the_build(running, at_terminal, tmp_path):
    port = free_port()
    second = at_terminal("make", "run", f"PORT={port}", f"DATA={tmp_path}/other")
    second.read_until("Ctrl-C stops the server.")
    assert re.match(r"(.* ready address=.*\n)?ttserver \S+ is ready\n", second.output), second.output


def test_data_survive_a_restart(running, at_terminal):
    terminal, port, data = running
    url = f"http://127.0.0.1:{port}/key"
    subprocess.run(["curl", "-sfX", "PUT", "-d", "value", url], check=True, timeout=30)
    terminal.press_ctrl_c()
    terminal.exit_code()
    again = at_terminal("make", "run", f"PORT={port}", f"DATA={data}")
    again.read_until("Ctrl-C stops the server.")
    assert subprocess.check_output(["curl", "-sf", url], timeout=30) == b"value"


def test_the_server_ends_with_make(running):
    terminal, port, _ = running
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.exit_code() != 0
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            pass  # it stood in the queue of a listener that was just closed
    pytest.fail("the server still answers")


def test_a_taken_port_is_named_and_a_free_one_suggested():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(["make", "run", f"PORT={port}"], cwd=ROOT, capture_output=True, text=True,
                              timeout=WAIT_SECONDS, check=False)
        assert done.returncode != 0
        said = re.search(rf"port {port} of 127.0.0.1 is taken; this one is free: make run PORT=(\d+)", done.stderr)
        assert said and int(said[1]) > port
        with socket.socket() as other:
            other.bind(("127.0.0.1", int(said[1])))


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", ""])
def test_what_is_no_port_is_refused(port):
    done = subprocess.run(["make", "run", f"PORT={port}"], cwd=ROOT, capture_output=True, text=True,
                          timeout=WAIT_SECONDS, check=False)
    assert done.returncode == 2
    assert f"PORT={port} is not a port number (1 to 65535)" in done.stderr


def test_install_and_uninstall_touch_only_their_place(tmp_path):
    place = [f"DESTDIR={tmp_path}", "PREFIX=/opt/tt"]
    subprocess.run(["make", "install", *place], cwd=ROOT, check=True, timeout=WAIT_SECONDS, capture_output=True)
    programs = sorted(path.name for path in (tmp_path / "opt/tt/bin").iterdir())
    assert programs == ["ttbench", "ttctl", "ttserver"]
    assert b"ttserver" in subprocess.check_output([tmp_path / "opt/tt/bin/ttserver", "--version"], timeout=30)
    subprocess.run(["make", "uninstall", *place], cwd=ROOT, check=True, timeout=30, capture_output=True)
    assert list((tmp_path / "opt/tt/bin").iterdir()) == []
