"""The store by itself: restarts, memory, bulk writing, reads beside writes, bytes written per byte.

Each line of the table: what, measured, goal, whether it is met.
"""

import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from statistics import median

import servers

VALUE = 100
START_SECONDS = 600


class Store:
    def __init__(self, base, program, client, quick):
        self.base = base
        self.program = program
        self.client = client
        self.keys = int(os.environ.get("STORE_KEYS", "1000000" if quick else "10000000"))
        self.seconds = 2 if quick else 10
        self.bulk_bytes = (256 if quick else 1024) * 1000 * 1000
        self.lines = [["the store", "measured", "goal", ""]]

    # ---- helpers ----

    def server(self, name, sync="os", *options):
        return servers.ttserver(name, self.base, None, self.program, sync, *options)

    def ttbench(self, server, *args, wait=True):
        argv = [self.client, "--json", "--protocol", "memcached", "--port", str(server.port), *args]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return self.result(child) if wait else child

    @staticmethod
    def result(child):
        out, err = child.communicate()
        if child.returncode != 0:
            raise RuntimeError(f"ttbench failed: {err}{out}")
        return json.loads(out) if out else None

    def line(self, what, value, text, goal, unit):
        met = "" if goal is None else ("met" if value <= goal else "missed")
        self.lines.append([what, text, "" if goal is None else f"<= {goal}{unit}", met])
        print(f"{what}: {text}", flush=True)

    @staticmethod
    def anonymous_bytes(pid):
        with open(f"/proc/{pid}/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("RssAnon:"))

    @staticmethod
    def stats(server):
        with socket.create_connection(("127.0.0.1", server.port)) as c:
            c.sendall(b"stats\r\n")
            got = b""
            while not got.endswith(b"END\r\n"):
                got += c.recv(65536)
        return dict(line.split(" ", 2)[1:] for line in got.decode().split("\r\n")[:-2])

    @staticmethod
    def ready(server):
        try:
            with socket.create_connection(("127.0.0.1", server.port), 1) as c:
                c.sendall(b"GET /-/ready HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n")
                return c.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def start_timed(self, server):
        """Seconds until reads are answered."""
        began = time.monotonic()
        server.start()
        while not self.ready(server):
            server.check_alive()
            if time.monotonic() - began > START_SECONDS:
                raise RuntimeError(f"{server.name} is not ready")
            time.sleep(0.005)
        return time.monotonic() - began

    def settle(self, server):
        """Waits until nothing is left for checkpoints and compaction."""
        quiet = 0
        while quiet < 30:
            before = servers.cpu_seconds(server.process.pid)
            time.sleep(0.1)
            quiet = quiet + 1 if servers.cpu_seconds(server.process.pid) - before < 0.01 else 0

    # ---- restarts ----

    @staticmethod
    def keys_of(count):
        return ["--key-prefix", "r-", "--keys", str(count), "--value-size", str(VALUE)]

    def held_after_reading(self, server, count):
        """Memory of our own of a server that was started on so many records, and has read some."""
        server.start()
        self.ttbench(server, "--fill-only", "--pipeline", "64", "--connections", "8",
                     *self.keys_of(count))
        server.stop()
        server.start()
        self.ttbench(server, "--read", "1", "--duration", "2", *self.keys_of(count))
        held = self.anonymous_bytes(server.process.pid)
        server.stop()
        return held

    def restarts(self):
        server = self.server("restart")
        few = self.held_after_reading(server, 1000)
        server.start()
        began = time.monotonic()
        keys = self.keys_of(self.keys)
        self.ttbench(server, "--fill-only", "--pipeline", "64", "--connections", "8", *keys)
        print(f"{self.keys} records of {VALUE} bytes written in {time.monotonic() - began:.0f} s",
              flush=True)
        self.settle(server)
        server.stop()
        millions = f"{self.keys / 1e6:g} million records of {VALUE} bytes"
        seconds = self.start_timed(server)
        self.line(f"restart after a clean stop, {millions}", seconds, f"{seconds:.2f} s", 1, " s")
        self.ttbench(server, "--read", "1", "--duration", "2", *keys)
        held = self.anonymous_bytes(server.process.pid) - few
        each = max(0, held) / self.keys
        self.line("heap per record in the index", each,
                  f"{each:.2f} bytes ({held / 2**20:+.1f} MiB in all)", 0.5, " bytes")
        index = sum(os.stat(p).st_blocks * 512 for p in glob.glob(f"{server.directory}/data/index/*"))
        self.line("index file per record", index / self.keys, f"{index / self.keys:.0f} bytes", 256,
                  " bytes")
        load = self.ttbench(server, "--read", "0", "--duration", "60", "--connections", "50",
                            "--pipeline", "16", *keys, wait=False)
        time.sleep(self.seconds)
        server.process.kill()
        server.process.wait()
        load.kill()
        load.communicate()
        seconds = self.start_timed(server)
        self.line("restart after kill -9 under full write load", seconds, f"{seconds:.2f} s", 3,
                  " s")
        server.stop()
        shutil.rmtree(f"{server.directory}/data/index")
        seconds = self.start_timed(server)
        goal = 60 * max(self.keys, 1_000_000) / 10_000_000
        self.line(f"index rebuilt, {millions}", seconds, f"{seconds:.1f} s", goal, " s")
        server.stop()
        shutil.rmtree(server.directory)

    # ---- bulk ----

    def dd_seconds(self):
        path = os.path.join(self.base, "dd")
        began = time.monotonic()
        subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=100000",
                        f"count={self.bulk_bytes // 100000}", "conv=fdatasync"],
                       check=True, stderr=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        os.unlink(path)
        return seconds

    def bulk_seconds(self, turn):
        server = self.server(f"bulk{turn}", "always")
        server.start()
        began = time.monotonic()
        self.ttbench(server, "--fill-only", "--pipeline", "4", "--connections", "50",
                     "--key-prefix", "b-", "--keys", str(self.bulk_bytes // 100000),
                     "--value-size", "100000")
        seconds = time.monotonic() - began
        server.stop()
        shutil.rmtree(server.directory)
        return seconds

    def bulk(self):
        ratios = []
        for turn in range(3):
            os.sync()
            dd = self.dd_seconds()
            os.sync()
            ratios.append(self.bulk_seconds(turn) / dd)
        self.line("100 KB values, `always`: time to that of dd conv=fdatasync", median(ratios),
                  f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})", 1.25, "")

    # ---- reads beside writes ----

    def p99(self, server, keys):
        got = self.ttbench(server, "--read", "1", "--rate", "2000", "--connections", "10",
                           "--duration", str(self.seconds), "--warmup", "0.3", *keys)
        return got["all"]["p99_us"]

    def reads_beside_writes(self):
        """A writer overwrites at a rate that keeps checkpoints and compaction busy all the time."""
        server = self.server("busy", "interval", "--segment-size", "16m")
        server.start()
        reads = ["--key-prefix", "q-", "--keys", "100000", "--value-size", "1024"]
        writes = ["--key-prefix", "w-", "--keys", "50000", "--value-size", "1024"]
        for keys in (reads, writes):
            self.ttbench(server, "--fill-only", "--pipeline", "16", *keys)
        self.settle(server)
        ratios = []
        for _ in range(3):
            quiet = self.p99(server, reads)
            load = self.ttbench(server, "--read", "0", "--rate", "10000", "--connections", "10",
                                "--duration", str(self.seconds + 4), *writes, wait=False)
            time.sleep(2)
            busy = self.p99(server, reads)
            self.result(load)
            ratios.append(busy / quiet)
        figures = self.stats(server)
        done = f"{figures.get('compacted_segments', '0')} segments compacted, " \
               f"{figures['checkpoints']} checkpoints"
        self.line("p99 of reads beside writes, checkpoints, compaction: to the quiet one",
                  median(ratios),
                  f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}); {done}", 2, "")
        server.stop()
        shutil.rmtree(server.directory)

    # ---- bytes written ----

    def amplification(self):
        """Random overwrites of a store of 1 KB values, several times over, with all that follows."""
        server = self.server("amplify", "interval")
        server.start()
        pid = server.process.pid
        count = 100_000 if self.seconds < 10 else 400_000
        keys = ["--key-prefix", "a-", "--keys", str(count), "--value-size", "1024"]
        self.ttbench(server, "--fill-only", "--pipeline", "16", *keys)
        before = self.disk_bytes(pid)
        self.ttbench(server, "--read", "0", "--requests", str(4 * count), "--connections", "50",
                     "--pipeline", "8", *keys)
        self.settle(server)
        ratio = (self.disk_bytes(pid) - before) / (4 * count * 1024)
        self.line("bytes written to the disk per byte of values, random overwrites", ratio,
                  f"{ratio:.2f}", None, "")
        server.stop()
        shutil.rmtree(server.directory)

    @staticmethod
    def disk_bytes(pid):
        with open(f"/proc/{pid}/io") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("write_bytes:"))


def measure(base, program, client, quick):
    store = Store(base, program, client, quick)
    store.restarts()
    store.bulk()
    store.reads_beside_writes()
    store.amplification()
    return store.lines
