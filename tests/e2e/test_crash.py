"""kill -9 in a loop: what was acknowledged is there, what was not is there wholly or not at all.

CRASH_ROUNDS sets the number of crashes of each test, TEST_SEED repeats the choices of a run (not
its timing).
"""

import os
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest

import harness
from crash_model import Load

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "10"))

MANY = 50_000  # records of a checkpoint

pytestmark = [pytest.mark.crash, pytest.mark.timeout(120 + 60 * ROUNDS)]


def kill_in_stop(server, rng):
    """SIGTERM, which drains, syncs and writes a checkpoint, and kill -9 somewhere in between."""
    server.signal(signal.SIGTERM)
    time.sleep(rng.random() * 0.3)
    server.kill()


class Backups(threading.Thread):
    """`ttctl backup` again and again into one directory, until the server is gone."""

    def __init__(self, server, load, directory):
        super().__init__(name="backups", daemon=True)
        self.command = [harness.TTCTL, "-port", str(server.port), "backup", directory]
        self.load = load
        self.directory = directory
        self.safe = None    # the place at which the last one began that came to its end

    def run(self):
        while True:
            begin = self.load.place()
            done = subprocess.run(self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  timeout=10 * harness.WAIT_S)
            if done.returncode != 0:
                return
            self.safe = begin

    def check(self):
        """Broken off at any point the directory still holds the last backup, or the next one."""
        self.join()
        if self.safe is not None:
            harness.check_directory(self.directory)
            self.load.check_files(self.directory, self.safe)


@pytest.mark.parametrize("options, max_value, flush_every", [
    (["--sync", "always"], 20_000, 0),
    (["--sync", "always", "--segment-size", "4m"], 900_000, 1000),
    (["--sync", "interval=20", "--segment-size", "4m"], 200_000, 1000),
    (["--sync", "os", "--segment-size", "4m"], 200_000, 0),
], ids=["always", "always, small segments", "interval", "os"])
def test_acknowledged_writes_survive(new_server, tmp_path, options, max_value, flush_every):
    rng = random.Random(harness.test_seed())
    server = new_server(*options)
    load = Load(rng, max_value, flush_every=flush_every)
    for _ in range(ROUNDS):
        server.start()
        backups = Backups(server, load, tmp_path / "backup")
        if rng.random() < 0.3:
            backups.start()
        in_stop = rng.random() < 0.3
        load.run(server, int(20 * 100 ** rng.random()),
                 (lambda: kill_in_stop(server, rng)) if in_stop else server.kill)
        harness.check_directory(server.data)
        found = load.check_files(server.data)
        if backups.is_alive() or backups.safe is not None:
            backups.check()
        server.start()
        load.check_server(server)
        assert " error " not in server.log(), server.log()
        if rng.random() < 0.5:
            server.kill()  # once more, before anything was written
        else:
            server.stop()
        harness.check_directory(server.data)
        assert load.check_files(server.data) == found
        load.go_on_from(found)
    server.start()
    load.check_server(server)
    shutil.rmtree(tmp_path / "backup", ignore_errors=True)
    # Torn tails are kept aside (cut-*); of uploads nothing may stay.
    left = [path.name for path in (server.data / "tmp").iterdir()]
    assert [name for name in left if not name.startswith("cut-")] == []


def test_a_crash_around_a_checkpoint_by_volume(new_server):
    """The log passes the size at which a checkpoint is written, while small records change."""
    rng = random.Random(harness.test_seed())
    server = new_server("--sync", "os").start()
    filler = rng.randbytes(1_000_000)
    load = Load(rng, 2_000)
    with server.connect() as c:
        for n in range(MANY):
            c.send(harness.set_command(f"many-{n}", b"%d" % n, noreply=True))
        for n in range(250):
            c.send(harness.set_command(f"filler-{n % 5}", filler, noreply=True))
        c.send(b"version\r\n")
        c.line()
    assert server.stats()["checkpoints"] == "0"

    def fill_and_kill():
        with server.connect() as c:
            for n in range(25):
                c.ask(harness.set_command(f"filler-{n % 5}", filler), b"STORED\r\n")
                # 256 MiB are passed about here; a checkpoint of so many records takes a while.
                if n > 10 and rng.random() < 0.3:
                    break
        time.sleep(rng.random() * 0.2)
        server.kill()

    load.run(server, 200, fill_and_kill)
    server.start()
    load.check_server(server)
    with server.connect() as c:
        for n in range(0, MANY, 7):
            assert harness.mc_get(c, f"many-{n}")[0] == b"%d" % n
        for n in range(5):
            assert harness.mc_get(c, f"filler-{n}")[0] == filler
