"""Servers and clients for the end-to-end tests.

Everything listens on 127.0.0.1 with a port of its own, keeps its files in a directory of its own,
is stopped by its own process id, and every wait has a limit.
"""

import ctypes
import glob
import os
import pathlib
import random
import resource
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TTSERVER = os.environ.get("TTSERVER", str(ROOT / "build" / "ttserver"))
TTCTL = os.environ.get("TTCTL", str(ROOT / "build" / "ttctl"))
TTBENCH = os.environ.get("TTBENCH", str(ROOT / "build" / "ttbench"))

# Generous: a build with sanitizers on a busy machine is slow, and a limit that is never reached
# costs nothing.
WAIT_S = 30

SANITIZER_WORDS = ("AddressSanitizer", "ThreadSanitizer", "LeakSanitizer", "MemorySanitizer",
                   "runtime error:")

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def test_seed():
    """The seed of random tests: TEST_SEED gives an earlier one back."""
    seed = int(os.environ.get("TEST_SEED") or random.SystemRandom().randrange(2**31))
    print(f"TEST_SEED={seed}")
    return seed


test_seed.__test__ = False


def free_port():
    """A port that nobody listens on, below the range that outgoing connections are given: it stays
    free between two starts of a server."""
    for _ in range(1000):
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


def eventually(condition, what, limit_s=WAIT_S):
    """Waits until condition() is true; returns what it returned. For events that nothing reports."""
    end = time.monotonic() + limit_s
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        time.sleep(0.02)


def _in_child():
    # Nothing outlives the test run, not even when pytest itself is killed.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """One program with its output in a file."""

    def __init__(self, name, directory):
        self.name = name
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.output_path = self.directory / f"{name}.out"
        self.child = None
        self.told_to_stop = False

    def spawn(self, command, env=None, **more):
        """Starts the program; output is appended to the file."""
        assert self.child is None, f"{self.name} runs already"
        self.told_to_stop = False
        with open(self.output_path, "ab") as output:
            self.child = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                                          stdout=output, stderr=subprocess.STDOUT,
                                          env={**os.environ, **(env or {})}, preexec_fn=_in_child,
                                          **more)

    @property
    def pid(self):
        return self.child.pid

    def is_running(self):
        return self.child is not None and self.child.poll() is None

    def output(self):
        return self.output_path.read_text(errors="replace") if self.output_path.exists() else ""

    def signal(self, number):
        self.told_to_stop = self.told_to_stop or number in (signal.SIGTERM, signal.SIGINT)
        self.child.send_signal(number)

    def wait(self, limit_s=WAIT_S):
        """Waits for the end; returns the exit status."""
        try:
            status = self.child.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {limit_s} s\n{self.output()}")
        self.child = None
        return status

    def wait_listening(self, address, limit_s=WAIT_S):
        """Waits until the program accepts connections there."""
        def try_it():
            assert self.is_running(), f"{self.name} ended at once:\n{self.output()}"
            try:
                connect(address, 1).close()
            except OSError:
                return False
            return True

        eventually(try_it, f"{self.name} listens on {address}", limit_s)

    def kill(self):
        """kill -9, as a crash. A program that has already ended by itself is a failure."""
        if self.child is None:
            return
        ended = self.child.poll() is not None
        self.child.kill()
        status = self.wait()
        assert not ended or self.told_to_stop, \
            f"{self.name} ended by itself, status {status}\n{self.output()}"

    def terminate(self):
        """SIGTERM, unless it was sent already (a second one is impatience), and the exit status."""
        if not self.told_to_stop:
            self.signal(signal.SIGTERM)
        return self.wait()


class Server(Process):
    """ttserver."""

    def __init__(self, directory, *options, port=None, data=None, host="127.0.0.1"):
        super().__init__("ttserver", directory)
        self.port = port if port is not None else free_port()
        self.host = host
        self.data = pathlib.Path(data or self.directory / "data")
        self.options = list(options)
        self.more_environment = {}

    @property
    def address(self):
        return (self.host, self.port)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def environment(self):
        report = self.directory / "sanitizer"
        # A small quarantine: freed memory that AddressSanitizer keeps is not the server's growth.
        common = f"log_path={report}:exitcode=99:abort_on_error=0"
        # Libraries that tests put in front (LD_PRELOAD) come before AddressSanitizer's own.
        memory = "quarantine_size_mb=8:malloc_context_size=10:verify_asan_link_order=0"
        return {"ASAN_OPTIONS": f"{common}:{memory}",
                "UBSAN_OPTIONS": f"{common}:print_stacktrace=1",
                "TSAN_OPTIONS": f"{common}:{os.environ.get('TSAN_OPTIONS', '')}",
                **self.more_environment}

    def command(self, *more):
        return [TTSERVER, "-host", self.host, "-port", self.port, *self.options, *more, self.data]

    def start(self, *more, wait=True, **spawn_options):
        command = self.command(*more)
        self.log_path = self.output_path
        if "-log" in command:
            self.log_path = pathlib.Path(command[command.index("-log") + 1])
        self.log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        self.spawn(command, env=self.environment(), **spawn_options)
        if wait:
            self.wait_ready()
        return self

    def log(self):
        """What the server has logged since its last start."""
        try:
            return self.log_path.read_bytes()[self.log_start:].decode(errors="replace")
        except FileNotFoundError:
            return ""

    def wait_ready(self):
        """Waits for the line that says so."""
        def is_ready():
            assert self.is_running(), f"ttserver ended at once:\n{self.output()}"
            return " info ready " in self.log()

        eventually(is_ready, "ttserver is ready")

    def stop(self):
        """The orderly end: SIGTERM, exit status 0, nothing found by a sanitizer."""
        status = self.terminate()
        assert status == 0, f"exit status {status}\n{self.output()}{self.sanitizer_report()}"
        self.check_sanitizers()

    def restart(self, *more):
        self.stop()
        return self.start(*more)

    def sanitizer_report(self):
        texts = [pathlib.Path(path).read_text(errors="replace")
                 for path in glob.glob(str(self.directory / "sanitizer.*"))]
        output = self.output()
        if any(word in output for word in SANITIZER_WORDS):
            texts.append(output)
        return "\n".join(texts)

    def check_sanitizers(self):
        report = self.sanitizer_report()
        assert not report, report

    def finish(self):
        """At the end of a test, in whatever state it left the server."""
        if self.is_running():
            self.stop()
        elif self.child is not None:
            status = self.wait()
            raise AssertionError(f"ttserver ended by itself, status {status}\n{self.output()}"
                                 f"{self.sanitizer_report()}")
        self.check_sanitizers()

    def rss_bytes(self):
        """Resident memory of our own (file pages that the kernel may drop are not counted)."""
        for line in open(f"/proc/{self.pid}/status"):
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no RssAnon")

    def connect(self, timeout_s=WAIT_S):
        return Raw(self.address, timeout_s)

    def stats(self):
        """The general statistics of memcached's protocol."""
        with self.connect() as c:
            c.send(b"stats\r\n")
            lines = c.until(b"END\r\n").decode().split("\r\n")
        return dict(line.split(" ", 2)[1:] for line in lines if line.startswith("STAT "))


def check_directory(data, index_may_be_lost=False):
    """`ttctl verify` finds nothing wrong in a data directory on which no server runs: every
    checksum, the index against the log, the counts. Unfinished writes are no damage; an index that
    a start will rebuild is, but for that parameter."""
    done = subprocess.run([TTCTL, "verify", data], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=10 * WAIT_S)
    damage = [line for line in done.stdout.splitlines() if line.startswith("damage: ")]
    assert done.returncode == 0 or (index_may_be_lost and len(damage) == 1 and
                                    "/index: the index cannot be used" in damage[0]), done.stdout


class Memcached(Process):
    """Debian's memcached, to prove tests of the protocol."""

    def __init__(self, directory):
        super().__init__("memcached", directory)
        self.port = free_port()
        self.address = ("127.0.0.1", self.port)

    def start(self):
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        self.spawn(["memcached", "-l", "127.0.0.1", "-p", self.port, "-U", "0", "-t", "1", *user])
        self.wait_listening(self.address)
        return self

    def connect(self, timeout_s=WAIT_S):
        return Raw(self.address, timeout_s)

    def finish(self):
        self.kill()


class Nginx(Process):
    """A private nginx: own configuration, logs, temporary files, nothing of the system's."""

    def __init__(self, directory):
        super().__init__("nginx", directory)
        for name in ("logs", "temp", "html"):
            (self.directory / name).mkdir()
        self.port = free_port()
        self.address = ("127.0.0.1", self.port)

    def start(self, http):
        """http: what stands in the http block."""
        temp = "".join(f"    {kind}_temp_path {self.directory}/temp/{kind};\n"
                       for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        # pytest's directories are closed to the user that nginx's workers would become.
        user = "user root;\n" if os.geteuid() == 0 else ""
        (self.directory / "nginx.conf").write_text(
            f"{user}daemon off;\nmaster_process on;\nworker_processes 1;\n"
            f"pid {self.directory}/nginx.pid;\nerror_log {self.directory}/logs/error.log info;\n"
            f"events {{ worker_connections 512; }}\n"
            f"http {{\n    access_log {self.directory}/logs/access.log;\n{temp}{http}\n}}\n")
        self.spawn(["/usr/sbin/nginx", "-p", self.directory, "-c", self.directory / "nginx.conf",
                    "-e", self.directory / "logs" / "error.log"])
        self.wait_listening(self.address)
        return self

    def error_log(self):
        return (self.directory / "logs" / "error.log").read_text(errors="replace")

    def finish(self):
        if self.is_running():
            self.terminate()
        for words in ("[alert]", "[emerg]", "sent invalid", "sent unexpected", "invalid trailer"):
            assert words not in self.error_log(), self.error_log()


class PhpServer(Process):
    """PHP's built-in web server with a few workers."""

    def __init__(self, directory):
        super().__init__("php", directory)
        self.port = free_port()
        self.address = ("127.0.0.1", self.port)
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self, root, env, settings=()):
        options = [word for setting in settings for word in ("-d", setting)]
        self.spawn(["php", *options, "-S", f"127.0.0.1:{self.port}", "-t", root],
                   env={"PHP_CLI_SERVER_WORKERS": "4", **env}, start_new_session=True)
        self.wait_listening(self.address)
        return self

    def finish(self):
        # Its workers are children in the same session; they do not end with it.
        if self.child is not None:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.wait()


def connect(address, timeout_s=WAIT_S):
    """A connected socket: to (host, port), or to the path of a unix socket."""
    if isinstance(address, tuple):
        s = socket.create_connection(address, timeout_s)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(timeout_s)
    try:
        s.connect(str(address))
    except OSError:
        s.close()
        raise
    return s


class Raw:
    """A connection for exact bytes."""

    def __init__(self, address, timeout_s=WAIT_S):
        self.socket = connect(address, timeout_s)
        self.pending = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def end_of_input(self):
        self.socket.shutdown(socket.SHUT_WR)

    def _receive(self):
        try:
            data = self.socket.recv(1 << 18)
        except socket.timeout:
            raise AssertionError(f"no more bytes; so far {self.pending[:2000]!r}")
        self.pending += data
        return len(data) > 0

    def _take(self, n):
        taken, self.pending = self.pending[:n], self.pending[n:]
        return taken

    def exactly(self, n):
        chunks = [self._take(n)]
        got = len(chunks[0])
        while got < n:
            try:
                data = self.socket.recv(min(1 << 20, n - got))
            except socket.timeout:
                raise AssertionError(f"{got} of {n} bytes came")
            assert data, f"closed after {got} of {n} bytes: {b''.join(chunks)[-200:]!r}"
            chunks.append(data)
            got += len(data)
        return b"".join(chunks)

    def until(self, mark):
        """Bytes up to and with the mark."""
        searched = 0
        while True:
            at = self.pending.find(mark, max(0, searched - len(mark)))
            if at >= 0:
                return self._take(at + len(mark))
            searched = len(self.pending)
            assert self._receive(), f"closed before {mark!r}: {self.pending[:2000]!r}"

    def line(self):
        return self.until(b"\r\n")

    def rest(self):
        """Everything until the server closes. A reset counts as closing: it comes when the server
        closes with unread input."""
        try:
            while self._receive():
                pass
        except ConnectionResetError:
            pass
        return self._take(len(self.pending))

    def expect(self, expected):
        got = self.exactly(len(expected))
        assert got == expected

    def ask(self, sent, expected):
        self.send(sent)
        self.expect(expected)


def set_command(key, value, flags=0, exptime=0, command=b"set", noreply=False):
    key = key.encode() if isinstance(key, str) else key
    return b"%s %s %d %d %d%s\r\n%s\r\n" % (command, key, flags, exptime, len(value),
                                            b" noreply" if noreply else b"", value)


def value_reply(key, value, flags=0, cas=None):
    key = key.encode() if isinstance(key, str) else key
    return b"VALUE %s %d %d%s\r\n%s\r\n" % (key, flags, len(value),
                                            b"" if cas is None else b" %d" % cas, value)


def mc_get(connection, key):
    """(value, flags, cas) of one key by `gets`, or None."""
    key = key.encode() if isinstance(key, str) else key
    connection.send(b"gets %s\r\n" % key)
    head = connection.line()
    if head == b"END\r\n":
        return None
    words = head.split()
    assert words[0] == b"VALUE" and words[1] == key, head
    value = connection.exactly(int(words[3]))
    connection.expect(b"\r\nEND\r\n")
    return value, int(words[2]), int(words[4])


def is_served(connection):
    """True if a command is answered, False if the server has turned the connection away."""
    try:
        connection.send(b"version\r\n")
        return connection.until(b"\r\n").startswith(b"VERSION")
    except (AssertionError, BrokenPipeError, ConnectionResetError):
        return False


class Response:
    """One HTTP response, as it came."""

    def __init__(self, status, reason, headers, body):
        self.status = status
        self.reason = reason
        self.headers = headers
        self.body = body

    def __repr__(self):
        return f"{self.status} {self.reason} {self.headers} {self.body[:200]!r}"


def read_response(connection, head=False):
    """Reads one response from a Raw connection; chunked is never sent by ttserver."""
    lines = connection.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
    version, status, reason = (lines[0].split(" ", 2) + [""])[:3]
    assert version == "HTTP/1.1", lines[0]
    headers = {}
    for line in lines[1:-2]:
        name, value = line.split(":", 1)
        assert name.lower() not in headers, f"{name} twice: {lines}"
        headers[name.lower()] = value.strip()
    assert "transfer-encoding" not in headers
    bodiless = head or status.startswith("1") or status in ("204", "304")
    length = 0 if bodiless else int(headers["content-length"])
    return Response(int(status), reason, headers, connection.exactly(length))


def raise_descriptor_limit(wanted):
    """True if this process may open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return True
    if hard != resource.RLIM_INFINITY and hard < wanted:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return True
