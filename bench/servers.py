"""Servers under measurement: start on free ports, wait until they answer, stop by their own pid."""

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time

PR_SET_PDEATHSIG = 1
START_SECONDS = 20
STOP_SECONDS = 30


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def cpu_seconds(pid):
    """Processor time of all threads of a process; 0 if it is gone."""
    try:
        # The kernel's name for "CPU clock of process pid" (CPUCLOCK_SCHED): Python has no call for it.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def rss_bytes(pid):
    with open(f"/proc/{pid}/status") as f:
        for line in f:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has no VmRSS")


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(word) for word in f.read().split()]


def _in_child(core):
    """Between fork and exec: on its core, and gone when we are."""
    libc = ctypes.CDLL(None)

    def prepare():
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if core is not None:
            os.sched_setaffinity(0, {core})

    return prepare


class Server:
    """One process (nginx: a family) with a port, a directory and the protocol to ask it with."""

    def __init__(self, name, protocol, argv, port, directory, core):
        self.name = name
        self.protocol = protocol
        self.argv = argv
        self.port = port
        self.directory = directory
        self.core = core
        self.process = None

    def start(self):
        os.makedirs(self.directory, exist_ok=True)
        self.log_path = os.path.join(self.directory, "..", self.name + ".log")
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,  # Ctrl-C is ours to handle, in order
                preexec_fn=_in_child(self.core),
            )
        self._wait_until_it_answers()
        return self

    def _wait_until_it_answers(self):
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.check_alive()
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name} does not answer on port {self.port}")
                time.sleep(0.02)

    def check_alive(self):
        if self.process.poll() is not None:
            with open(self.log_path, errors="replace") as f:
                tail = f.read()[-2000:]
            raise RuntimeError(f"{self.name} has ended with {self.process.returncode}:\n{tail}")

    def pids(self):
        return [self.process.pid] + children_of(self.process.pid)

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def user_name():
    return pwd.getpwuid(os.getuid()).pw_name


def ttserver(name, base, core, program, sync, *options):
    port = free_port()
    directory = os.path.join(base, name)
    data = os.path.join(directory, "data")
    argv = [program, "-port", str(port), "-thnum", "1", "--sync", sync, *options, data]
    return Server(name, "memcached", argv, port, directory, core)


def memcached_program():
    return os.environ.get("MEMCACHED") or shutil.which("memcached")


def memcached(name, base, core, connections):
    port = free_port()
    argv = [memcached_program(), "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-t", "1"]
    argv += ["-m", "1024", "-c", str(connections)]
    if os.getuid() == 0:
        argv += ["-u", "root"]
    return Server(name, "memcached", argv, port, os.path.join(base, name), core)


def redis(name, base, core, fsync):
    port = free_port()
    directory = os.path.join(base, name)
    argv = [shutil.which("redis-server"), "--bind", "127.0.0.1", "--port", str(port)]
    argv += ["--dir", directory, "--save", "", "--appendonly", "yes", "--appendfsync", fsync]
    # A rewrite of its log in the middle of a measurement would be luck, not speed.
    argv += ["--auto-aof-rewrite-percentage", "0"]
    return Server(name, "resp", argv, port, directory, core)


NGINX_CONF = """
{user}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    default_type application/octet-stream;
    client_body_temp_path tmp;
    proxy_temp_path tmp;
    fastcgi_temp_path tmp;
    uwsgi_temp_path tmp;
    scgi_temp_path tmp;
    server {{
        listen 127.0.0.1:{port};
        root {root};
    }}
}}
"""


def nginx(name, base, core):
    port = free_port()
    directory = os.path.join(base, name)
    root = os.path.join(directory, "files")
    os.makedirs(root)
    user = f"user {user_name()};" if os.getuid() == 0 else ""
    conf = os.path.join(directory, "nginx.conf")
    with open(conf, "w") as f:
        f.write(NGINX_CONF.format(user=user, port=port, root=root))
    argv = [shutil.which("nginx") or "/usr/sbin/nginx", "-p", directory, "-c", conf]
    server = Server(name, "http", argv, port, directory, core)
    server.root = root
    return server
