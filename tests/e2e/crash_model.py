"""What may be on disk after a crash: clients that know which of their writes were acknowledged.

A client is one connection with keys of its own. Its writes are carried out in the order in which it
sent them, so after a crash the store must show everything acknowledged, then the first few of the
writes without an answer, in order, each wholly or not at all. What another client has seen counts
as acknowledged too.

A place is a number that grows with time. For a power cut it is the length of the journal of all
that happened on the disk.
"""

import bisect
import contextlib
import itertools
import math
import random
import socket
import sys
import threading
import time

import harness
from harness import set_command

sys.path.insert(0, str(harness.ROOT / "tools"))

import read_store  # noqa: E402 (behind the line that says where it is)

NOT_NUMERIC = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"


class State:
    """A record. The cas value is None until a `gets` has shown it. expires: Unix seconds, 0 never;
    it is far in the future."""

    def __init__(self, value, flags, expires=0):
        self.value = value
        self.flags = flags
        self.expires = expires
        self.cas = None

    def __repr__(self):
        return f"{len(self.value)} bytes {self.value[:30]!r} flags={self.flags} cas={self.cas} " \
               f"expires={self.expires}"


class Write:
    """One write: key None is a flush of everything, state None a deletion. The places: nothing of
    it may be seen before `sent`; it is safe from `acked` on (None: no answer came)."""

    def __init__(self, key, state, sent):
        self.key = key
        self.state = state
        self.sent = sent
        self.acked = None

    def __repr__(self):
        return f"{self.key} = {self.state} sent {self.sent} acked {self.acked}"

    def answered(self, place):
        self.acked = place if self.acked is None else min(self.acked, place)

    def apply(self, records):
        if self.key is None:
            records.clear()
        elif self.state is None:
            records.pop(self.key, None)
        else:
            records[self.key] = self.state


def same(state, found):
    """found: (value, flags, cas), or with the expiry behind, where that can be seen."""
    if state is None or found is None:
        return state is None and found is None
    return ((state.value, state.flags) == found[:2] and state.cas in (None, found[2]) and
            state.expires == (found[3] if len(found) > 3 else state.expires))


class Gate:
    """Many at a time, or one alone."""

    def __init__(self):
        self.changed = threading.Condition()
        self.inside = 0
        self.alone = False

    @contextlib.contextmanager
    def shared(self):
        with self.changed:
            self.changed.wait_for(lambda: not self.alone)
            self.inside += 1
        try:
            yield
        finally:
            with self.changed:
                self.inside -= 1
                self.changed.notify_all()

    @contextlib.contextmanager
    def exclusive(self):
        with self.changed:
            self.changed.wait_for(lambda: not self.alone)
            self.alone = True
            self.changed.wait_for(lambda: self.inside == 0)
        try:
            yield
        finally:
            with self.changed:
                self.alone = False
                self.changed.notify_all()


class Load:
    """Clients of all kinds, whose knowledge lives on over crashes.

    place: gives the present place. flush_every: about so many replies lie between two flush_all;
    0: none.
    """

    def __init__(self, rng, max_value, place=None, flush_every=0, kinds=None):
        self.rng = rng
        self.max_value = max_value
        self.place = place or itertools.count(1).__next__
        self.flush_every = flush_every
        self.kinds = kinds or {"a": Client, "b": Client, "c": Client, "big": BigClient,
                               "http": HttpClient}
        self.known = {name: {} for name in self.kinds}
        self.gate = Gate()
        self.clients = {}
        self.in_doubt = False   # a flush has no answer: nobody knows what comes behind it
        self.replies = 0
        self.wanted = 0
        self.next_flush = 0
        self.enough = threading.Event()

    def replied(self):
        self.replies += 1  # a count that is now and then one short does no harm
        if self.replies >= self.wanted:
            self.enough.set()

    def flush_is_due(self):
        if not self.flush_every or self.replies < self.next_flush:
            return False
        self.next_flush = self.replies + self.rng.randrange(1, 2 * self.flush_every)
        return True

    def run(self, server, replies, end):
        """Runs until about so many replies have come, then lets end() end the server."""
        self.replies, self.wanted, self.in_doubt = 0, replies, False
        self.next_flush = self.rng.randrange(1, 2 * self.flush_every) if self.flush_every else 0
        self.enough.clear()
        self.clients = {name: kind(name, self, server.address, random.Random(self.rng.random()),
                                   self.known[name])
                        for name, kind in self.kinds.items()}
        for client in self.clients.values():
            client.start()
        # Ends early if all clients have failed, which is seen below.
        while not self.enough.wait(0.1) and any(c.is_alive() for c in self.clients.values()):
            pass
        end()
        for client in self.clients.values():
            client.join(2 * harness.WAIT_S)
            assert not client.is_alive(), "a client hangs"
            if client.failure:
                raise client.failure

    def check(self, find, safe=math.inf, end=math.inf):
        """What is stored after an end at that place must be what the clients know; find(key) tells
        what is. Everything answered up to the place `safe` must be there; what was answered behind
        it may be missing, as long as nothing is there that came after it. Returns the records that
        are there, by client."""
        shown = {name: client.check(find, safe, end) for name, client in self.clients.items()}
        self.check_order(shown)
        return {name: kept for name, (_, _, kept) in shown.items()}

    def check_server(self, server, *places):
        with server.connect() as connection:
            return self.check(lambda key: harness.mc_get(connection, key), *places)

    def check_files(self, directory, *places):
        """The same by the log alone. Here touches are seen that changed nothing but the expiry:
        what this returns is certain."""
        records = {key: (value, flags, cas, expires_ms / 1000)
                   for key, value, flags, expires_ms, _, cas in read_store.read(directory)}
        return self.check(records.get, *places)

    def check_order(self, shown):
        """Over all clients: a write that is there was sent after the answer to another one, which
        therefore must be there as well; a flush is there for all or for none."""
        for name, (least, _, _) in shown.items():
            there = self.clients[name].writes[:least]
            flushes = {id(write) for write in there if write.key is None}
            for other, (_, most, _) in shown.items():
                for lost in self.clients[other].writes[most:]:
                    assert id(lost) not in flushes, f"{lost} is there for {name}, not for {other}"
                    assert not there or lost.acked is None or lost.acked >= there[-1].sent, \
                        f"{name} has {there[-1]}, but what was answered before that was sent is " \
                        f"missing: {other}: {lost}"

    def go_on_from(self, shown):
        """Takes over what check() has returned as what is known."""
        self.known.update(shown)


class Client(threading.Thread):
    """Writes at random until the connection breaks."""

    KEYS = 12

    def __init__(self, name, load, address, rng, known):
        super().__init__(name=name)
        self.load = load
        self.address = address
        self.rng = rng
        self.known = known       # {key: State} at the beginning
        self.ahead = dict(known)  # after everything that was sent
        self.writes = []
        self.failure = None

    def key(self):
        return f"{self.name}-{self.rng.randrange(self.KEYS)}".encode()

    def value(self):
        if self.rng.random() < 0.3:
            return b"%d" % self.rng.randrange(10**12)
        return self.rng.randbytes(int(self.load.max_value ** self.rng.random()))

    def expiry(self):
        return self.rng.choice([0, int(time.time()) + self.rng.randrange(10**5, 10**6)])

    def run(self):
        try:
            with harness.Raw(self.address) as connection:
                while not self.load.in_doubt:
                    with self.load.gate.shared():
                        if not self.load.in_doubt:
                            self.batch(connection)
                    if self.load.flush_is_due():
                        with self.load.gate.exclusive():
                            self.flush(connection)
        except (OSError, socket.timeout):
            pass
        except AssertionError as error:
            if "closed" not in str(error):
                self.failure = error
        except Exception as error:
            self.failure = error

    def sent(self, key, state):
        """Notes a write that is about to be sent."""
        write = Write(key, state, self.load.place())
        self.writes.append(write)
        write.apply(self.ahead)
        return write

    def answered(self, write):
        write.answered(self.load.place())
        self.load.replied()

    def flush(self, connection):
        """Nobody else has a command under way."""
        write = Write(None, None, self.load.place())
        for client in self.load.clients.values():
            client.writes.append(write)
            client.ahead.clear()
        self.load.in_doubt = True
        connection.ask(b"flush_all\r\n", b"OK\r\n")
        self.load.in_doubt = False
        self.answered(write)

    def batch(self, connection):
        """Sends some commands at once and takes their replies."""
        commands = [self.command() for _ in range(self.rng.choice([1, 1, 2, 5, 20]))]
        connection.send(b"".join(sent for sent, _, _ in commands))
        for sent, expected, write in commands:
            self.take(connection, sent, expected)
            if write:
                self.answered(write)
            else:
                self.load.replied()

    def take(self, connection, sent, expected):
        if callable(expected):
            expected(connection)
            return
        got = connection.line()
        assert got == expected, f"{sent[:100]!r}: {got!r}, not {expected!r}"

    def command(self):
        """(bytes, reply, Write or None); `ahead` moves on."""
        key = self.key()
        kind = self.rng.choice(["set", "set", "set", "delete", "append", "prepend", "incr", "cas",
                                "cas", "touch", "end", "add", "gets", "gets", "peek"])
        sent, reply, changed, state = getattr(self, kind)(key, self.ahead.get(key))
        return sent, reply, self.sent(key, state) if changed else None

    # Each: (bytes, reply, whether it changes the record, its state then)

    def set(self, key, state):
        new = State(self.value(), self.rng.randrange(2**32), self.expiry())
        return set_command(key, new.value, new.flags, new.expires), b"STORED\r\n", True, new

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
        new = State(whole(state.value, piece), state.flags, state.expires)
        return sent, b"STORED\r\n", True, new

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
        new = State(b"%d" % (int(state.value) + 7), state.flags, state.expires)
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
        expires = self.expiry()
        sent = b"touch %s %d\r\n" % (key, expires)
        if state is None:
            return sent, b"NOT_FOUND\r\n", False, None
        new = State(state.value, state.flags, expires)
        new.cas = state.cas
        return sent, b"TOUCHED\r\n", True, new

    def end(self, key, state):
        """A touch that lets the record expire at once."""
        reply = b"TOUCHED\r\n" if state else b"NOT_FOUND\r\n"
        return b"touch %s -1\r\n" % key, reply, bool(state), None

    def gets(self, key, state):
        def check(connection):
            found = read_value(connection, key)
            assert (found is None) == (state is None), (key, state, found)
            if state is not None:
                assert found[:2] == (state.value, state.flags)
                assert state.cas in (None, found[2]), "cas changed without a write"
                state.cas = found[2]

        return b"gets %s\r\n" % key, check, False, None

    def peek(self, _key, _state):
        """Reads a record of another client: what was shown once must stay."""
        other = self.load.clients[self.rng.choice(sorted(self.load.clients))]
        key = f"{other.name}-{self.rng.randrange(other.KEYS)}".encode()

        def check(connection):
            found = read_value(connection, key)
            if found is not None:
                other.was_seen(key, found, self.load.place())

        return b"gets %s\r\n" % key, check, False, None

    def was_seen(self, key, found, place):
        """Called by other clients. A short value may have been written more than once: it tells
        nothing."""
        fitting = [write for write in list(self.writes)
                   if write.key == key and write.state and same(write.state, found)]
        if fitting and len(found[0]) > 8:
            fitting[0].answered(place)

    # After the end

    def check(self, find, safe, end):
        """Compares what is stored with what may be: (least, most number of writes that may be
        there, what is there)."""
        most = bisect.bisect_right([write.sent for write in self.writes], end)
        least = max((n + 1 for n, write in enumerate(self.writes)
                     if write.acked is not None and write.acked <= min(safe, end)), default=0)
        keys = set(self.known) | {write.key for write in self.writes[:most]} - {None}
        found = {key: find(key) for key in sorted(keys)}
        expected = dict(self.known)
        for write in self.writes[:least]:
            write.apply(expected)
        first_wrong = wrong = {key for key in keys if not same(expected.get(key), found[key])}
        fitting = [] if wrong else [least]
        kept = None if wrong else dict(expected)
        for n in range(least, most):
            write = self.writes[n]
            write.apply(expected)
            changed = keys if write.key is None else {write.key}
            wrong = wrong - changed | {key for key in changed
                                       if not same(expected.get(key), found[key])}
            if not wrong:
                fitting.append(n + 1)
                kept = dict(expected)
        if not fitting:
            raise AssertionError(self.what_is_wrong(first_wrong, found, least, most))
        return fitting[0], fitting[-1], kept

    def what_is_wrong(self, wrong, found, least, most):
        records = dict(self.known)
        for write in self.writes[:least]:
            write.apply(records)
        lines = [f"{self.name}: of {len(self.writes)} writes {least} must and {most} may be there"]
        for key in sorted(wrong):
            was = found[key] and (State(*found[key][:2]), found[key][2:])
            lines.append(f"{key}: must be {records.get(key)}, is {was}")
            lines += [f"    {n}: {write}" for n, write in enumerate(self.writes)
                      if write.key in (key, None)][-8:]
        return "\n".join(lines)


def read_value(connection, key):
    """The answer to a `gets` of one key: (value, flags, cas) or None."""
    head = connection.line()
    if head == b"END\r\n":
        return None
    words = head.split()
    assert words[:2] == [b"VALUE", key], head
    value = connection.exactly(int(words[3]))
    connection.expect(b"\r\nEND\r\n")
    return value, int(words[2]), int(words[4])


class BigClient(Client):
    """Values above 1 MiB, which go to files of their own, one command at a time."""

    KEYS = 3

    def batch(self, connection):
        key = self.key()
        old = self.ahead.get(key)
        kind = self.rng.choice(["big", "big", "big", "set", "delete", "append", "gets"])
        sent, expected, changed, state = getattr(self, kind)(key, old)
        write = self.sent(key, state) if changed else None
        connection.send(sent)
        self.take(connection, sent, expected)
        if write:
            self.answered(write)
        else:
            self.load.replied()

    def big(self, key, state):
        size = self.rng.randrange(1 << 20, 3 << 20)
        new = State(self.rng.randbytes(1000) * (size // 1000), 3)
        return set_command(key, new.value, 3), b"STORED\r\n", True, new


class HttpClient(Client):
    """PUT, by length and in chunks, and DELETE."""

    KEYS = 6

    def flush(self, connection):
        """Left to the others."""

    def batch(self, connection):
        key = self.key()
        new = State(self.value(), 0)
        if self.ahead.get(key) and self.rng.random() < 0.3:
            sent, status, new = b"DELETE /%s HTTP/1.1\r\nHost: h\r\n\r\n" % key, 200, None
        elif self.rng.random() < 0.5:
            sent, status = b"PUT /%s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (
                key, len(new.value), new.value), 201
        else:
            chunk = b"%x\r\n%s\r\n" % (len(new.value), new.value) if new.value else b""
            sent, status = (b"PUT /%s HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
                            b"%s0\r\n\r\n" % (key, chunk)), 201
        write = self.sent(key, new)
        connection.send(sent)
        reply = harness.read_response(connection)
        assert reply.status == status, reply
        self.answered(write)
