"""make bench: ttserver beside memcached, redis and nginx; see README.md in this directory."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import idle
import report
import servers
import store
from rows import ALL_SETS, BACK_SETS, KB, READ_SETS, SET_KEYS, rows

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
QUICK = os.environ.get("QUICK", "") not in ("", "0")
REPEATS = int(os.environ.get("REPEATS", "2" if QUICK else "5"))
SECONDS = float(os.environ.get("DURATION", "0.7" if QUICK else "2"))
WARMUP = 0.2 if QUICK else 0.4
ONLY = re.compile(os.environ.get("ROWS", ""))
STORE_TITLE = "The store by itself"
SEED = int(os.environ.get("SEED", str(random.randrange(2**31))))
# The index is brought up to date after ten idle seconds; readings before that are of another state.
IDLE_CHECKPOINT_SECONDS = 11
SETTLE_SECONDS_MAX = 10


class Bench:
    def __init__(self, base, build, cores):
        self.base = base
        self.program = os.path.join(build, "ttserver")
        self.client = os.path.join(build, "ttbench")
        self.cores = cores
        self.servers = {}

    # ---- servers and data ----

    def add(self, server):
        self.servers[server.name] = server
        return server.start()

    def start_all(self):
        core = self.cores[0]
        for name, sync in (("read", "os"), ("back", "os"), ("os", "os"),
                           ("interval", "interval"), ("always", "always")):
            self.add(servers.ttserver(name, self.base, core, self.program, sync))
        self.add(servers.memcached("memcached", self.base, core, 1024))
        self.add(servers.redis("redis everysec", self.base, core, "everysec"))
        self.add(servers.redis("redis always", self.base, core, "always"))
        self.add(servers.nginx("nginx", self.base, core))

    def fill_all(self):
        for name in READ_SETS:
            self.fill("read", name)
        for name in BACK_SETS:
            self.fill("back", name)
        for name in ALL_SETS:
            if name != "get":
                self.ttbench("--fill-dir", self.servers["nginx"].root, *self.key_args(name))
        for peer in ("memcached", "redis everysec"):
            self.fill(peer, "get")
        for name in ("os", "interval", "always", "memcached", "redis everysec", "redis always"):
            self.fill(name, "set")
        self.read_back()
        self.wait_for_quiet(IDLE_CHECKPOINT_SECONDS)

    def fill(self, name, key_set):
        self.ttbench("--fill-only", "--pipeline", "16", *self.target_args(self.servers[name]),
                     *self.key_args(key_set))

    def read_back(self):
        """Evicts the sets of BACK_SETS from the page cache and reads them in order, as `cat` would."""
        back = self.servers["back"]
        back.stop()
        paths = [os.path.join(top, name) for top, _, names in os.walk(back.directory)
                 for name in names]
        nginx_root = self.servers["nginx"].root
        paths += [os.path.join(nginx_root, name) for name in os.listdir(nginx_root)
                  if name.split("-")[0] in BACK_SETS]
        os.sync()
        for path in paths:
            with open(path, "rb", buffering=0) as f:
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for path in paths:
            with open(path, "rb", buffering=0) as f:
                while f.read(KB * KB):
                    pass
        back.start()

    # ---- the client ----

    @staticmethod
    def key_args(key_set):
        count, size = ALL_SETS.get(key_set, (SET_KEYS, KB))
        return ["--key-prefix", f"{key_set}-", "--keys", str(count), "--value-size", str(size)]

    @staticmethod
    def target_args(server, http=False):
        return ["--protocol", "http" if http else server.protocol, "--port", str(server.port)]

    def ttbench(self, *args):
        argv = [self.client, "--json", "--seed", str(SEED), *args]
        if self.cores[1] is not None:
            argv = ["taskset", "-c", str(self.cores[1])] + argv
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              check=False)
        if done.returncode != 0:
            raise RuntimeError(f"failed ({done.returncode}): {' '.join(argv)}\n"
                               f"{done.stderr}{done.stdout}")
        return json.loads(done.stdout) if done.stdout else None

    # ---- measuring ----

    def pids(self):
        return [pid for server in self.servers.values() for pid in server.pids()]

    def wait_for_quiet(self, at_least=0.0):
        """The disk has what was written, and no server works on any more (or the time is over)."""
        os.sync()
        start = time.monotonic()
        while time.monotonic() - start < SETTLE_SECONDS_MAX + at_least:
            before = sum(servers.cpu_seconds(pid) for pid in self.pids())
            time.sleep(0.1)
            used = sum(servers.cpu_seconds(pid) for pid in self.pids()) - before
            if used < 0.003 and time.monotonic() - start >= at_least:
                return

    def sample(self, row, name):
        server = self.servers[name]
        self.wait_for_quiet()
        args = self.target_args(server, row.http) + self.key_args(row.key_set)
        args += ["--connections", str(row.connections), "--pipeline", str(row.pipeline)]
        args += ["--read", str(row.read), "--duration", str(SECONDS), "--warmup", str(WARMUP)]
        if row.max_requests:
            args += ["--requests", str(row.max_requests)]
        for pid in server.pids():
            args += ["--pid", str(pid)]
        result = self.ttbench(*args)
        server.check_alive()
        return result

    def measure_all(self, table):
        order = random.Random(SEED)
        for repeat in range(REPEATS):
            shuffled = list(table)
            order.shuffle(shuffled)
            for row in shuffled:
                names = [row.ours, row.peer]
                order.shuffle(names)
                got = {name: self.sample(row, name) for name in names}
                row.samples.append((got[row.ours], got[row.peer]))
            print(f"repetition {repeat + 1} of {REPEATS} is done", flush=True)

    def measure_idle(self):
        count = idle.possible_connections()
        core = self.cores[0]
        lines = [["server", "connections", "bytes each, just opened", "bytes each, after a request"]]
        for server in (
            servers.ttserver("idle ttserver", self.base, core, self.program, "os"),
            servers.memcached("idle memcached", self.base, core, count + 100),
        ):
            self.add(server)
            opened, asked = idle.measure(server, count)
            lines.append([server.name.split()[1], str(count), f"{opened:.0f}", f"{asked:.0f}"])
            server.stop()
            del self.servers[server.name]
        return lines

    def stop_all(self):
        for server in self.servers.values():
            server.stop()


def choose_cores():
    """(server's, client's), or no pinning where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


def check_programs(build):
    missing = [name for name in ("memcached", "redis-server", "taskset") if not shutil.which(name)]
    missing += [p for p in (os.path.join(build, "ttserver"), os.path.join(build, "ttbench"),
                            "/usr/sbin/nginx") if not os.access(p, os.X_OK)]
    if missing:
        sys.exit(f"bench: not found: {', '.join(missing)} (make; make deps)")


def run(base, build):
    cores = choose_cores()
    if report.file_system(base)[0] == "tmpfs":
        print("warning: the data lie in memory (tmpfs); syncs cost nothing there")
    bench = Bench(base, build, cores)
    table = [row for row in rows() if ONLY.search(row.title)]
    with_store = bool(ONLY.search(STORE_TITLE))
    if not table and not with_store:
        raise RuntimeError(f"no row's title matches ROWS={ONLY.pattern}")
    started = time.monotonic()
    setting = f"{REPEATS} repetitions of {SECONDS:g} s, seed {SEED}"
    print(setting, flush=True)
    more = {}
    try:
        if table:
            bench.start_all()
            bench.fill_all()
            print(f"filled after {time.monotonic() - started:.0f} s", flush=True)
            bench.measure_all(table)
            more["Idle connections"] = bench.measure_idle()
        bench.stop_all()
        if with_store:
            more[STORE_TITLE] = store.measure(base, bench.program, bench.client, QUICK)
    finally:
        bench.stop_all()
    report.print_results(table, more)
    results = os.environ.get("RESULTS", os.path.join(ROOT, "bench", "results.md"))
    report.write_results(results, table, more, report.machine_lines(base, cores),
                         report.version_lines(bench.program), setting)
    print(f"\n{time.monotonic() - started:.0f} s; written to {results}")


def main():
    build = os.path.abspath(os.environ.get("BUILD", os.path.join(ROOT, "build")))
    check_programs(build)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Beside the build: on the checkout's disk, and ignored by git.
    os.makedirs(os.path.join(ROOT, "build"), exist_ok=True)
    base = tempfile.mkdtemp(prefix="bench-", dir=os.path.join(ROOT, "build"))
    try:
        run(base, build)
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")
    except RuntimeError as error:
        sys.exit(f"bench: {error}")
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
