"""docs/format.md is enough to read a data directory: tools/read_store.py, written after it, sees in the
files of a server what the server has served."""

import random
import subprocess
import sys
import time

import pytest

import harness
from harness import eventually, mc_get, read_response, set_command

sys.path.insert(0, str(harness.ROOT / "tools"))

import read_store  # noqa: E402 (behind the line that says where it is)


def quote(key):
    return b"".join(b"%c" % byte if chr(byte).isalnum() and byte < 128 or byte in b"-._~/"
                    else b"%%%02X" % byte for byte in key)


def http(connection, method, target, body=b"", fields=b""):
    length = b"Content-Length: %d\r\n" % len(body) if method in (b"PUT", b"POST") else b""
    connection.send(b"%s %s HTTP/1.1\r\nHost: h\r\n%s%s\r\n%s"
                    % (method, target, fields, length, body))
    return read_response(connection)


def all_keys(connection):
    after = None
    while True:
        target = b"/-/keys?limit=500" + (b"" if after is None else b"&after=" + after)
        lines = http(connection, b"GET", target).body.split(b"\n")[:-1]
        for line in lines:
            yield unquote(line)
        if not lines:
            return
        after = lines[-1]


def unquote(text):
    parts = text.split(b"%")
    return parts[0] + b"".join(bytes([int(part[:2], 16)]) + part[2:] for part in parts[1:])


def memcached_can(key):
    return 0 < len(key) <= 250 and all(byte > 32 and byte != 127 for byte in key)


class Mix:
    """Random requests of every kind, and what they must have left beside the values."""

    PLAIN = [b"k%d" % n for n in range(60)]
    ODD = [b"", b"with blank", bytes(range(256)), b"a/b?c", b"x" * 300, b"y" * 494, b"y" * 495,
           b"y" * 600, b"z" * 60000]

    def __init__(self, server, seed):
        self.server = server
        self.random = random.Random(seed)
        self.types = {}    # key -> what PUT has said
        self.expires = {}  # key -> between which two moments, or None

    def value(self):
        size = self.random.choice([0, 1, 20, 20, 20, 500, 5000, 100_000, 600_000])
        return self.random.randbytes(size)

    def expiring(self, key, ask):
        """ask(seconds) tells whether it was done."""
        seconds = self.random.choice([0, 0, 0, 1000, 100_000])
        before = time.time()
        done = ask(seconds)
        if done:
            self.expires[key] = seconds and (before + seconds, time.time() + seconds)
        return done

    def store(self, c, key, command, value):
        flags = self.random.choice([0, 7, 2**32 - 1])

        def ask(seconds):
            c.send(set_command(key, value, flags, seconds, command))
            return c.line() == b"STORED\r\n"

        if self.expiring(key, ask):
            self.types[key] = None

    def touch(self, c, key):
        def ask(seconds):
            c.send(b"touch %s %d\r\n" % (key, seconds))
            return c.line() == b"TOUCHED\r\n"

        self.expiring(key, ask)

    def gat(self, c, key):
        def ask(seconds):
            c.send(b"gat %d %s\r\n" % (seconds, key))
            return c.until(b"END\r\n") != b"END\r\n"

        self.expiring(key, ask)

    def put(self, h, key, value):
        kind = self.random.choice([None, b"text/x-%d" % self.random.randrange(1000)])
        fields = b"" if kind is None else b"Content-Type: %s\r\n" % kind
        assert http(h, b"PUT", b"/" + quote(key), value, fields).status == 201
        self.types[key] = kind
        self.expires[key] = 0

    def step(self, c, h):
        r = self.random
        key = r.choice(self.PLAIN)
        odd = r.choice([key, r.choice(self.ODD)])
        choice = r.choice(["set", "set", "set", "add", "number", "append", "incr", "incr", "touch",
                           "gat", "delete", "put", "put", "big"])
        if choice == "set":
            self.store(c, key, b"set", self.value())
        elif choice == "add":
            self.store(c, key, b"add", self.value())
        elif choice == "number":
            self.store(c, key, b"set", b"%d" % r.randrange(10**r.randrange(1, 19)))
        elif choice == "append":
            c.send(set_command(key, b"+more", command=b"append"))
            c.line()
        elif choice == "incr":
            c.send(r.choice([b"incr %s %d\r\n", b"decr %s %d\r\n"]) % (key, r.randrange(99)))
            c.line()
        elif choice == "touch":
            self.touch(c, key)
        elif choice == "gat":
            self.gat(c, key)
        elif choice == "delete":
            c.send(b"delete %s\r\n" % key)
            c.line()
        elif choice == "put":
            self.put(h, odd, self.value())
        elif r.random() < 0.3:
            self.put(h, odd, r.randbytes((1 << 20) + r.randrange(1000)))

    def steps(self, count):
        with self.server.connect() as c, self.server.connect() as h:
            for _ in range(count):
                self.step(c, h)

    def flush(self, delay=b""):
        with self.server.connect() as c, self.server.connect() as h:
            c.ask(b"flush_all%s\r\n" % delay, b"OK\r\n")
            eventually(lambda: list(all_keys(h)) == [], "everything is gone")


def served(server):
    """key -> (value, flags or None, cas or None), as clients are shown it."""
    found = {}
    with server.connect() as c, server.connect() as h:
        for key in list(all_keys(h)):
            reply = http(h, b"GET", b"/" + quote(key))
            assert reply.status == 200, (key, reply)
            by_memcached = mc_get(c, key) if memcached_can(key) else (reply.body, None, None)
            assert by_memcached[0] == reply.body
            found[key] = by_memcached
    return found


def check(mix, shown, records):
    seen = set()
    for key, value, flags, expires_ms, attributes, cas in records:
        assert key in shown and key not in seen, key
        seen.add(key)
        assert value == shown[key][0], key
        if memcached_can(key):
            assert (flags, cas) == shown[key][1:], key
        assert attributes.get(1) == mix.types[key], key
        if mix.expires[key] == 0:
            assert expires_ms == 0, key
        else: # the store's clock may be some ticks ahead
            low, high = mix.expires[key]
            assert int(low * 1000) <= expires_ms <= high * 1000 + 1000, key
    assert seen == shown.keys()


@pytest.fixture
def mixed(new_server):
    """A stopped server whose directory holds everything there is, several segments of it."""
    seed = harness.test_seed()
    server = new_server("--segment-size", "4m").start()
    mix = Mix(server, seed)
    mix.steps(150)
    mix.flush()
    mix.steps(150)
    server.restart()
    mix.flush(b" 1")
    mix.steps(400)
    with server.connect() as h:
        for n in range(8):
            mix.put(h, b"bulk%d" % n, mix.random.randbytes(900_000))
        mix.put(h, b"bulk", mix.random.randbytes(1_500_000))
    return server, mix


def test_a_reader_after_the_documentation_sees_what_was_served(mixed):
    server, mix = mixed
    shown = served(server)
    assert len(shown) > 40
    server.stop()
    check(mix, shown, read_store.read(server.data))


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_it_reads_what_a_compaction_has_made(mixed, end):
    server, mix = mixed
    names = set(path.name for path in (server.data / "log").iterdir())
    with server.connect() as c:
        for n in range(30):
            c.ask(b"delete bulk%d\r\n" % n, b"DELETED\r\n" if n < 8 else b"NOT_FOUND\r\n")
    mix.steps(100)
    shown = served(server)
    assert subprocess.run([harness.TTCTL, "-port", str(server.port), "compact"],
                          stdout=subprocess.DEVNULL, timeout=harness.WAIT_S * 4).returncode == 0
    assert served(server) == shown
    server.stop() if end == "stop" else server.kill()
    uuid, *_ = read_store.read_store_file(server.data)
    segments = [read_store.read_segment(path, uuid) for path in (server.data / "log").iterdir()]
    assert any(s.compacted for s in segments)
    assert set(path.name for path in (server.data / "log").iterdir()) != names
    check(mix, shown, read_store.read(server.data))


def test_it_reads_what_a_killed_server_has_left(mixed):
    server, mix = mixed
    shown = served(server)
    server.kill()
    check(mix, shown, read_store.read(server.data))


def is_damaged(data):
    try:
        list(read_store.read(data))
    except (read_store.Damage, ValueError, FileNotFoundError):
        return True
    return False


def is_needed(data, path):
    path.rename(data / "away")
    damaged = is_damaged(data)
    (data / "away").rename(path)
    return damaged


def test_it_notices_any_changed_byte(mixed):
    server, mix = mixed
    server.stop()
    # Of the newest segment a bad record is the end, and no damage.
    _, newest, _ = read_store.read_store_file(server.data)
    files = [path for part in ("log", "big") for path in (server.data / part).iterdir()
             if path.name != f"{newest:08}.seg" and is_needed(server.data, path)]
    assert {path.parent.name for path in files} == {"log", "big"}
    files.append(server.data / "STORE")
    for _ in range(30):
        path = mix.random.choice(files)
        data = path.read_bytes()
        # A closed segment may end in zeros that say nothing; the last line of STORE, its checksum,
        # may be written in several ways.
        used = len(data) - 17 if path.name == "STORE" else len(data.rstrip(b"\0"))
        at = mix.random.randrange(used)
        changed = bytes([data[at] ^ 1 << mix.random.randrange(8)])
        path.write_bytes(data[:at] + changed + data[at + 1:])
        assert is_damaged(server.data), (path, at)
        path.write_bytes(data)
    assert not is_damaged(server.data)
