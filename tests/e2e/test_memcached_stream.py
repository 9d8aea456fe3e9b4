"""The text protocol as a stream: cut anywhere, thousands of commands at once, real clients."""

import random
import subprocess

import pymemcache
import pylibmc
import pytest

import harness
from harness import set_command, value_reply

# Every kind of command, with what it must answer from empty records.
TALK = [
    (b"set k 5 0 10\r\nab\r\ncd\r\nEF\r\n", b"STORED\r\n"),
    (b"get k nothing k\r\n", value_reply("k", b"ab\r\ncd\r\nEF", 5) * 2 + b"END\r\n"),
    (b"set q 0 0 3 noreply\r\nabc\r\n", b""),
    (b"append q 0 0 2\r\nde\r\n", b"STORED\r\n"),
    (b"gat 100 q\r\n", value_reply("q", b"abcde") + b"END\r\n"),
    (b"set n 0 0 1\r\n7\r\n", b"STORED\r\n"),
    (b"incr n 35\r\n", b"42\r\n"),
    (b"set k 0 abc 5\r\n12345\r\n", b"CLIENT_ERROR bad command line format\r\n"),
    (b"nonsense\r\n", b"ERROR\r\n"),
    (b"touch n 0\r\n", b"TOUCHED\r\n"),
    (b"get " + b"x" * 300 + b" n\r\n", value_reply("n", b"42") + b"END\r\n"),
    (b"delete k\r\n", b"DELETED\r\n"),
    (b"add k 1 0 0\r\n\r\n", b"STORED\r\n"),
    (b"cas k 0 0 1 1\r\nx\r\n", b"EXISTS\r\n"),
    (b"set k 0 0 3\r\nabcdefgh\r\n", b"CLIENT_ERROR bad data chunk\r\nERROR\r\n"),
    (b"set k 0 0 2147483647\r\n", b"CLIENT_ERROR bad command line format\r\n"),
    (b"delete k\r\n", b"DELETED\r\n"),
    (b"flush_all\r\n", b"OK\r\n"),
]
SENT = b"".join(sent for sent, _ in TALK)
EXPECTED = b"".join(expected for _, expected in TALK)


def test_cut_into_two_anywhere(shared_server):
    with shared_server.connect() as c:
        for cut in range(len(SENT) + 1):
            c.send(SENT[:cut])
            c.send(SENT[cut:])
            c.expect(EXPECTED)


def test_the_first_byte_alone(shared_server):
    """The protocol is told from the first byte, which may come alone on a new connection."""
    for cut in range(1, 12):
        with shared_server.connect() as c:
            c.send(SENT[:cut])
            c.send(SENT[cut:])
            c.expect(EXPECTED)


def test_one_byte_a_send(shared_server):
    with shared_server.connect() as c:
        for i in range(len(SENT)):
            c.send(SENT[i:i + 1])
        c.expect(EXPECTED)


def test_random_pieces(shared_server):
    rng = random.Random(harness.test_seed())
    with shared_server.connect() as c:
        for _ in range(30):
            at = 0
            while at < len(SENT):
                n = rng.choice([1, 2, 3, 7, 30, 100])
                c.send(SENT[at:at + n])
                at += n
            c.expect(EXPECTED)


class Model:
    """What memcached's text protocol answers, for commands without cas."""

    def __init__(self, rng):
        self.rng = rng
        self.records = {}

    def command(self):
        """One random command and its expected reply."""
        key = b"model%d" % self.rng.randrange(40)
        kind = self.rng.choice(["set", "set", "get", "get", "gets2", "add", "replace", "append",
                                "prepend", "delete", "incr", "decr", "touch", "gat", "noreply",
                                "bad"])
        return getattr(self, kind)(key)

    def value(self):
        size = self.rng.choice([0, 1, 2, 10, 100, 1000, 5000, 20000])
        if self.rng.random() < 0.4:
            return b"%d" % self.rng.randrange(10**self.rng.randrange(1, 18))
        return self.rng.randbytes(size)

    def store(self, command, key, allowed, join=None, noreply=False):
        value, flags = self.value(), self.rng.randrange(2**32)
        if allowed:
            old = self.records.get(key)
            self.records[key] = (join(old[0], value), old[1]) if join else (value, flags)
        reply = b"STORED\r\n" if allowed else b"NOT_STORED\r\n"
        return (set_command(key, value, flags, command=command, noreply=noreply),
                b"" if noreply else reply)

    def set(self, key):
        return self.store(b"set", key, True)

    def noreply(self, key):
        return self.store(b"set", key, True, noreply=True)

    def add(self, key):
        return self.store(b"add", key, key not in self.records)

    def replace(self, key):
        return self.store(b"replace", key, key in self.records)

    def append(self, key):
        return self.store(b"append", key, key in self.records, lambda old, new: old + new)

    def prepend(self, key):
        return self.store(b"prepend", key, key in self.records, lambda old, new: new + old)

    def found(self, key):
        return value_reply(key, *self.records[key]) if key in self.records else b""

    def get(self, key):
        return b"get %s\r\n" % key, self.found(key) + b"END\r\n"

    def gets2(self, key):
        other = b"model%d" % self.rng.randrange(40)
        return b"get %s %s\r\n" % (key, other), self.found(key) + self.found(other) + b"END\r\n"

    def gat(self, key):
        return b"gat 1000 %s\r\n" % key, self.found(key) + b"END\r\n"

    def touch(self, key):
        reply = b"TOUCHED\r\n" if key in self.records else b"NOT_FOUND\r\n"
        return b"touch %s 1000\r\n" % key, reply

    def delete(self, key):
        there = self.records.pop(key, None) is not None
        return b"delete %s\r\n" % key, b"DELETED\r\n" if there else b"NOT_FOUND\r\n"

    def count(self, command, key, step):
        delta = self.rng.randrange(2**40)
        line = b"%s %s %d\r\n" % (command, key, delta)
        if key not in self.records:
            return line, b"NOT_FOUND\r\n"
        value, flags = self.records[key]
        # Blanks around a number are allowed, as memcached does.
        if not (value.strip(b" ").isdigit() and len(value) <= 20 and int(value) < 2**64):
            return line, b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
        number = b"%d" % step(int(value), delta)
        self.records[key] = (number, flags)
        return line, number + b"\r\n"

    def incr(self, key):
        return self.count(b"incr", key, lambda old, delta: (old + delta) % 2**64)

    def decr(self, key):
        return self.count(b"decr", key, lambda old, delta: max(0, old - delta))

    def bad(self, key):
        return self.rng.choice([
            (b"nonsense\r\n", b"ERROR\r\n"),
            (b"set %s 0 x 3\r\nabc\r\n" % key, b"CLIENT_ERROR bad command line format\r\n"),
            (b"incr %s x\r\n" % key, b"CLIENT_ERROR invalid numeric delta argument\r\n"),
            (b"touch %s x\r\n" % key, b"CLIENT_ERROR invalid exptime argument\r\n"),
        ])


@pytest.mark.parametrize("burst", [1, 50, 1000])
@pytest.mark.tsan
def test_thousands_of_pipelined_commands(shared_server, burst):
    """The replies of many commands sent at once are those of a model, in order."""
    model = Model(random.Random(harness.test_seed()))
    with shared_server.connect() as c:
        c.ask(b"flush_all\r\n", b"OK\r\n")
        for _ in range(max(1, 3000 // burst)):
            talk = [model.command() for _ in range(burst)]
            c.send(b"".join(sent for sent, _ in talk))
            for sent, expected in talk:
                got = c.exactly(len(expected))
                assert got == expected, sent[:200]


@pytest.mark.tsan
def test_reads_see_the_writes_before_them(shared_server):
    with shared_server.connect() as c:
        sent = b"".join(set_command("own", b"%d" % n) + b"get own\r\n" for n in range(500))
        c.send(sent)
        for n in range(500):
            c.expect(b"STORED\r\n" + value_reply("own", b"%d" % n) + b"END\r\n")


@pytest.mark.tsan
def test_clients_that_count_together_lose_nothing(shared_server):
    connections = [shared_server.connect() for _ in range(8)]
    connections[0].ask(set_command("together", b"0"), b"STORED\r\n")
    for c in connections:
        c.send(b"incr together 1\r\n" * 100)
    replies = sorted(int(c.line()) for c in connections for _ in range(100))
    assert replies == list(range(1, 801))
    for c in connections:
        c.close()


@pytest.mark.tsan
def test_pymemcache(shared_server):
    client = pymemcache.Client(shared_server.address, timeout=harness.WAIT_S, no_delay=True)
    assert client.set("k", b"\0\r\nEND\r\n", noreply=False)
    assert client.get("k") == b"\0\r\nEND\r\n"
    assert client.set_many({"a": b"1", "b": b"2"}, noreply=False) == []
    assert client.get_many(["a", "b", "none"]) == {"a": b"1", "b": b"2"}
    value, cas = client.gets("a")
    assert client.cas("a", b"3", cas, noreply=False) is True
    assert client.cas("a", b"4", cas, noreply=False) is False
    assert client.incr("a", 4) == 7 and client.decr("a", 10) == 0
    assert client.append("b", b"x", noreply=False) and client.prepend("b", b"y", noreply=False)
    assert client.get("b") == b"y2x"
    assert client.add("b", b"", noreply=False) is False
    assert client.touch("b", 10, noreply=False) and client.delete("b", noreply=False)
    assert client.get("b") is None
    assert isinstance(client.version(), bytes) and b"pid" in client.stats()
    assert client.flush_all(noreply=False) and client.get("a") is None
    client.quit()


def test_pylibmc(shared_server):
    client = pylibmc.Client([f"127.0.0.1:{shared_server.port}"], binary=False,
                            behaviors={"tcp_nodelay": True, "cas": True})
    values = {"text": "gr\u00fc\u00df", "bytes": b"\0\xff\r\n", "int": 7, "list": [1, {"a": None}],
              "bool": True, "big": b"x" * 3_000_000}
    for key, value in values.items():
        assert client.set(key, value)
    assert client.get_multi(list(values)) == values
    value, cas = client.gets("int")
    assert client.cas("int", 8, cas) and client.get("int") == 8
    assert client.incr("int", 2) == 10 and client.decr("int", 5) == 5
    assert client.add("int", 1) is False and client.replace("none", 1) is False
    assert client.set("compressed", "z" * 100_000, min_compress_len=1000)
    assert client.get("compressed") == "z" * 100_000
    assert client.delete("int") and client.get("int") is None
    client.disconnect_all()


def test_memccapable(shared_server):
    """libmemcached's own check of a server, its text part."""
    done = subprocess.run(["memccapable", "-v", "-a", "-h", "127.0.0.1", "-p",
                           str(shared_server.port)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=2 * harness.WAIT_S)
    assert done.returncode == 0 and "All tests passed" in done.stdout, done.stdout
