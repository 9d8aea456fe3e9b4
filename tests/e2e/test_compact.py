"""Disk use under endless overwrites, deletes and expiries, as `du` counts: bounded while they go on,
and soon settled after they end."""

import random
import time

import harness

SEGMENT = 4 << 20
# Zeros ahead of the active segment's tail.
ZERO_STEP = 16 << 20
INDEX_PER_KEY = 256
# The promise is 15 s; a busy machine with sanitizers is slower.
SETTLED_S = 45


def disk_use(data):
    """Bytes as du counts them. Files come and go meanwhile."""
    total = 0
    for path in data.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:
            pass
    return total


class Load:
    """Keys and what they must show."""

    def __init__(self, server, seed):
        self.random = random.Random(seed)
        self.connection = server.connect()
        self.values = {}

    def put(self, key, size, expires=0):
        value = self.random.randbytes(16).hex().encode() * (size // 32 + 1)
        value = value[:size]
        self.connection.send(harness.set_command(key, value, exptime=expires, noreply=True))
        if expires == 0:
            self.values[key] = value
        else:
            self.values.pop(key, None)

    def delete(self, key):
        self.connection.send(b"delete %s noreply\r\n" % key)
        self.values.pop(key, None)

    def settle(self):
        """Everything before has been done."""
        self.connection.ask(b"get nothing\r\n", b"END\r\n")

    def live_bytes(self):
        # What a record has beside its key and value.
        return sum(len(key) + len(value) + 76 for key, value in self.values.items())

    def check(self, server):
        with server.connect() as connection:
            for key, value in self.values.items():
                got = harness.mc_get(connection, key)
                assert got is not None and got[0] == value, key


def allowed(load, keys):
    return load.live_bytes() / 0.6 + SEGMENT + ZERO_STEP + keys * INDEX_PER_KEY


def check_settled(server, load, keys):
    harness.eventually(lambda: disk_use(server.data) <= allowed(load, keys),
                       "disk use settles", SETTLED_S)


def check_files(server):
    """At most twice as many segments as would do, and a few."""
    sizes = [path.stat().st_size for path in (server.data / "log").iterdir()]
    assert len(sizes) <= 2 * sum(sizes) / SEGMENT + 8


def test_endless_overwrites_keep_disk_use_bounded(new_server):
    server = new_server("--segment-size", "4m", "--sync", "os").start()
    load = Load(server, harness.test_seed())
    keys = [b"key-%d" % i for i in range(2000)]
    most = 0
    end = time.monotonic() + 8
    while time.monotonic() < end:
        for _ in range(500):
            load.put(load.random.choice(keys), load.random.randrange(100, 6000))
        load.settle()
        most = max(most, disk_use(server.data))
    written = int(server.stats()["log_appended_bytes"])
    # Much more was written than ever lay there.
    assert most <= 3 * (allowed(load, len(keys)) + 16 * SEGMENT), (most, written)
    check_settled(server, load, len(keys))
    check_files(server)
    assert int(server.stats()["compacted_segments"]) > 0
    load.check(server)
    server.restart()
    load.check(server)
    server.stop()
    harness.check_directory(server.data)


def test_deleted_expired_and_big_values_give_their_space_back(new_server):
    server = new_server("--segment-size", "4m", "--sync", "os").start()
    load = Load(server, harness.test_seed())
    for i in range(3000):
        load.put(b"stays-%d" % i, 300)
        load.put(b"goes-%d" % i, 3000)
        load.put(b"expires-%d" % i, 3000, expires=2)
    for i in range(8):
        load.put(b"big", 2_000_000 + i)
    load.settle()
    assert disk_use(server.data) > 18_000_000
    for i in range(3000):
        load.delete(b"goes-%d" % i)
    load.settle()
    # Nothing but the zeros and the active segment is left beside what stays.
    check_settled(server, load, 9001)
    check_files(server)
    load.check(server)
    server.kill()
    server.start()
    load.check(server)
    server.stop()
    harness.check_directory(server.data)


def test_kills_during_compactions_lose_nothing(new_server):
    server = new_server("--segment-size", "4m", "--sync", "os").start()
    seed = harness.test_seed()
    chance = random.Random(seed)
    load = Load(server, seed)
    keys = [b"key-%d" % i for i in range(1500)]
    for _ in range(4):
        for _ in range(4000):
            load.put(chance.choice(keys), chance.randrange(100, 8000))
        load.settle()
        compacted = int(server.stats()["compacted_segments"])
        # The kill comes while compaction is at work, at a moment of its own.
        harness.eventually(lambda: int(server.stats()["compacted_segments"]) > compacted,
                           "compaction works")
        time.sleep(chance.random() * 0.2)
        server.kill()
        server.start()
        load.connection = server.connect()
        load.check(server)
    server.stop()
    harness.check_directory(server.data)
