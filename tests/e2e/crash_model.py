"""What may be on disk after a crash: clients that know which of their writes were acknowledged.

A client is one connection with keys of its own. Its writes are carried out in the order in which it
sent them, so after a crash the store must show everything acknowledged, then the first few of the
writes without an answer, in order, each wholly or not at all.
"""

import socket
import threading

import harness
from harness import set_command


NOT_NUMERIC = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"


class State:
    """A record. The cas value is None until a `gets` has shown it."""

    def __init__(self, value, flags):
        self.value = value
        self.flags = flags
        self.cas = None

    def __repr__(self):
        return f"{len(self.value)} bytes {self.value[:30]!r} flags={self.flags} cas={self.cas}"


def same(state, found):
    """found: what harness.mc_get() gives."""
    if state is None or found is None:
        return state is None and found is None
    return (state.value, state.flags) == found[:2] and state.cas in (None, found[2])


class Client(threading.Thread):
    """Writes at random until the connection breaks. acknowledged() is called for every reply."""

    KEYS = 12

    def __init__(self, name, address, rng, known, max_value, acknowledged):
        super().__init__(name=name)
        self.address = address
        self.rng = rng
        self.known = known      # {key: State} as acknowledged
        self.unanswered = []    # (key, State or None) of writes without a reply, in order
        self.max_value = max_value
        self.acknowledged = acknowledged
        self.failure = None

    def key(self):
        return f"{self.name}-{self.rng.randrange(self.KEYS)}".encode()

    def value(self):
        if self.rng.random() < 0.3:
            return b"%d" % self.rng.randrange(10**12)
        return self.rng.randbytes(int(self.max_value ** self.rng.random()))

    def run(self):
        try:
            with harness.Raw(self.address) as connection:
                while True:
                    self.batch(connection)
        except (OSError, socket.timeout):
            pass
        except AssertionError as error:
            if "closed" not in str(error):
                self.failure = error
        except Exception as error:
            self.failure = error

    def batch(self, connection):
        """Sends some commands at once and takes their replies."""
        ahead = dict(self.known)
        commands = [self.command(ahead) for _ in range(self.rng.choice([1, 1, 2, 5, 20]))]
        self.unanswered = [change for _, _, change in commands if change]
        connection.send(b"".join(sent for sent, _, _ in commands))
        for sent, expected, change in commands:
            self.take(connection, sent, expected)
            if change:
                self.known[change[0]] = change[1]
                self.unanswered.pop(0)
            self.acknowledged()

    def take(self, connection, sent, expected):
        if callable(expected):
            expected(connection)
            return
        got = connection.exactly(len(expected))
        assert got == expected, f"{sent[:100]!r}: {got!r}"

    def command(self, ahead):
        """(bytes, reply, (key, state afterwards) or None); `ahead` moves on."""
        key = self.key()
        kind = self.rng.choice(["set", "set", "set", "delete", "append", "prepend", "incr", "cas",
                                "cas", "touch", "end", "add", "gets", "gets"])
        sent, reply, changed, state = getattr(self, kind)(key, ahead.get(key))
        if not changed:
            return sent, reply, None
        ahead[key] = state
        return sent, reply, (key, state)

    # Each: (bytes, reply, whether it changes the record, its state then)

    def set(self, key, state):
        new = State(self.value(), self.rng.randrange(2**32))
        return set_command(key, new.value, new.flags), b"STORED\r\n", True, new

    def add(self, key, state):
        new = State(self.value(), 1)
        sent = set_command(key, new.value, 1, command=b"add")
        return (sent, b"NOT_STORED\r\n", False, None) if state else (sent, b"STORED\r\n", True, new)

    def delete(self, key, state):
        reply = b"DELETED\r\n" if state else b"NOT_FOUND\r\n"
        return b"delete %s\r\n" % key, reply, bool(state), None

    def grow(self, key, state, command, whole):
        piece = self.value()[:1000]
        sent = set_command(key, piece, command=command)
        if state is None:
            return sent, b"NOT_STORED\r\n", False, None
        return sent, b"STORED\r\n", True, State(whole(state.value, piece), state.flags)

    def append(self, key, state):
        return self.grow(key, state, b"append", lambda old, piece: old + piece)

    def prepend(self, key, state):
        return self.grow(key, state, b"prepend", lambda old, piece: piece + old)

    def incr(self, key, state):
        sent = b"incr %s 7\r\n" % key
        if state is None:
            return sent, b"NOT_FOUND\r\n", False, None
        if not (state.value.isdigit() and len(state.value) <= 18):
            return sent, NOT_NUMERIC, False, None
        new = State(b"%d" % (int(state.value) + 7), state.flags)
        return sent, new.value + b"\r\n", True, new

    def cas(self, key, state):
        new = State(self.value(), 2)
        known = state.cas if state and state.cas else 1
        sent = b"cas %s 2 0 %d %d\r\n%s\r\n" % (key, len(new.value), known, new.value)
        if state is None:
            return sent, b"NOT_FOUND\r\n", False, None
        if state.cas is None:
            return sent, b"EXISTS\r\n", False, None
        return sent, b"STORED\r\n", True, new

    def touch(self, key, state):
        return (b"touch %s 100000\r\n" % key, b"TOUCHED\r\n" if state else b"NOT_FOUND\r\n",
                False, None)

    def end(self, key, state):
        """A touch that lets the record expire at once."""
        reply = b"TOUCHED\r\n" if state else b"NOT_FOUND\r\n"
        return b"touch %s -1\r\n" % key, reply, bool(state), None

    def gets(self, key, state):
        def check(connection):
            head = connection.line()
            if state is None:
                assert head == b"END\r\n", head
                return
            words = head.split()
            assert words[:4] == [b"VALUE", key, b"%d" % state.flags, b"%d" % len(state.value)], head
            assert connection.exactly(len(state.value)) == state.value
            connection.expect(b"\r\nEND\r\n")
            assert state.cas in (None, int(words[4])), "cas changed without a write"
            state.cas = int(words[4])

        return b"gets %s\r\n" % key, check, False, None

    def verify(self, connection):
        """Compares with what is stored, and takes that over. Returns how many unanswered writes are
        there."""
        keys = sorted(set(self.known) | {key for key, _ in self.unanswered})
        found = {key: harness.mc_get(connection, key) for key in keys}
        expected = dict(self.known)
        for applied in range(len(self.unanswered) + 1):
            if applied:
                key, state = self.unanswered[applied - 1]
                expected[key] = state
            if all(same(expected.get(key), found[key]) for key in keys):
                self.known = expected
                self.unanswered = []
                return applied
        wrong = {key: (self.known.get(key), found[key] and State(*found[key][:2]))
                 for key in keys if not same(self.known.get(key), found[key])}
        raise AssertionError(f"{self.name}: acknowledged, found: {wrong}\n"
                             f"unanswered: {self.unanswered}")


class BigClient(Client):
    """Values above 1 MiB, which go to files of their own, one command at a time."""

    KEYS = 3

    def batch(self, connection):
        key = self.key()
        size = self.rng.randrange(1 << 20, 3 << 20)
        new = State(self.rng.randbytes(1000) * (size // 1000), 3)
        choices = [(set_command(key, new.value, 3), b"STORED\r\n", new)]
        if self.known.get(key):
            choices.append((b"delete %s\r\n" % key, b"DELETED\r\n", None))
        sent, expected, state = self.rng.choice(choices)
        self.unanswered = [(key, state)]
        connection.send(sent)
        self.take(connection, sent, expected)
        self.known[key] = state
        self.unanswered = []
        self.acknowledged()


class HttpClient(Client):
    """PUT, by length and in chunks, and DELETE."""

    KEYS = 6

    def batch(self, connection):
        key = self.key()
        new = State(self.value(), 0)
        if self.known.get(key) and self.rng.random() < 0.3:
            sent, status, new = b"DELETE /%s HTTP/1.1\r\nHost: h\r\n\r\n" % key, 200, None
        elif self.rng.random() < 0.5:
            sent, status = b"PUT /%s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (
                key, len(new.value), new.value), 201
        else:
            chunk = b"%x\r\n%s\r\n" % (len(new.value), new.value) if new.value else b""
            sent, status = (b"PUT /%s HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
                            b"%s0\r\n\r\n" % (key, chunk)), 201
        self.unanswered = [(key, new)]
        connection.send(sent)
        reply = harness.read_response(connection)
        assert reply.status == status, reply
        self.known[key] = new
        self.unanswered = []
        self.acknowledged()
