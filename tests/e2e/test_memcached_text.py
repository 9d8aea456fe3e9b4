"""memcached's text protocol, byte for byte.

Most rows are sent to Debian's memcached too: that proves the expectation. Where ttserver follows a
newer memcached (1.6.45), or keeps records better, the row says so.
"""

import time

import pytest

import harness
from harness import set_command, value_reply

FORMAT = b"CLIENT_ERROR bad command line format\r\n"
CHUNK = b"CLIENT_ERROR bad data chunk\r\n"
EXPTIME = b"CLIENT_ERROR invalid exptime argument\r\n"
DELTA = b"CLIENT_ERROR invalid numeric delta argument\r\n"
NOT_NUMERIC = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
CLOSED = None  # what is expected behind the last reply

NEWER = "1.6.45 differs from Debian's 1.6.18"
OWN = "ttserver differs on purpose"

K250 = b"k" * 250
K251 = b"k" * 251

# name, sent, expected; a fourth element says why Debian's memcached is not asked. Each row runs on
# a connection of its own with empty records. `version` is appended, so that a reply too many is
# seen; a row whose expectation ends with CLOSED ends with the server closing.
ROWS = [
    # storing and reading
    ("set and get", b"set k 5 0 3\r\nabc\r\nget k\r\n", b"STORED\r\nVALUE k 5 3\r\nabc\r\nEND\r\n"),
    ("line feed alone ends a line", b"set k 0 0 1\nx\r\nget k\n",
     b"STORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n"),
    ("runs of spaces", b"set  k   7 0  3 \r\nabc\r\nget   k  \r\n",
     b"STORED\r\nVALUE k 7 3\r\nabc\r\nEND\r\n"),
    ("empty value", b"set k 0 0 0\r\n\r\nget k\r\n", b"STORED\r\nVALUE k 0 0\r\n\r\nEND\r\n"),
    ("value with line ends and NUL", b"set k 0 0 12\r\n\r\nEND\r\n\0\r\nx!\r\nget k\r\n",
     b"STORED\r\nVALUE k 0 12\r\n\r\nEND\r\n\0\r\nx!\r\nEND\r\n"),
    ("miss", b"get k\r\n", b"END\r\n"),
    ("many keys, in order, repeated", b"set a 1 0 1\r\nA\r\nset b 2 0 1\r\nB\r\nget b none a b\r\n",
     b"STORED\r\nSTORED\r\nVALUE b 2 1\r\nB\r\nVALUE a 1 1\r\nA\r\nVALUE b 2 1\r\nB\r\nEND\r\n"),
    ("a hundred keys", b"set k 0 0 1\r\nx\r\nget" + b" k none" * 50 + b"\r\n",
     b"STORED\r\n" + b"VALUE k 0 1\r\nx\r\n" * 50 + b"END\r\n"),
    ("a line of keys of 40 kB", b"set k 0 0 1\r\nx\r\nget" + b" n" * 20000 + b" k\r\n",
     b"STORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n"),
    ("keys differ by case", b"set k 0 0 1\r\nx\r\nget K\r\n", b"STORED\r\nEND\r\n"),
    ("tab is part of a key", b"set a\tb 0 0 1\r\nx\r\nget a\tb\r\n",
     b"STORED\r\nVALUE a\tb 0 1\r\nx\r\nEND\r\n"),
    ("bytes above 127 in a key", b"set \xc3\xbc\xff 0 0 1\r\nx\r\nget \xc3\xbc\xff\r\n",
     b"STORED\r\nVALUE \xc3\xbc\xff 0 1\r\nx\r\nEND\r\n"),
    ("key like a command", b"set get 0 0 1\r\nx\r\nget get\r\n",
     b"STORED\r\nVALUE get 0 1\r\nx\r\nEND\r\n"),
    ("key like a request line", b"set HTTP/1.1 0 0 1\r\nx\r\nget / HTTP/1.1\r\n",
     b"STORED\r\nVALUE HTTP/1.1 0 1\r\nx\r\nEND\r\n"),
    ("NUL in a key", b"set a\0b 0 0 1\r\nx\r\nget a\0b a\0c a\r\n",
     b"STORED\r\nVALUE a\0b 0 1\r\nx\r\nEND\r\n", "memcached ends the key at the NUL in its reply"),
    # flags
    ("largest flags", b"set k 4294967295 0 1\r\nx\r\nget k\r\n",
     b"STORED\r\nVALUE k 4294967295 1\r\nx\r\nEND\r\n"),
    ("flags too large", b"set k 4294967296 0 1\r\nx\r\nget k\r\n", FORMAT + b"END\r\n",
     "memcached wraps them to 0"),
    ("flags no number", b"set k abc 0 1\r\nx\r\nget k\r\n", FORMAT + b"END\r\n", NEWER),
    ("negative flags", b"set k -1 0 1\r\nx\r\nget k\r\n", FORMAT + b"END\r\n", NEWER),
    # expiry
    ("negative exptime is over at once", b"set k 0 -1 1\r\nx\r\nget k\r\n", b"STORED\r\nEND\r\n"),
    ("a time in the past is over", b"set k 0 2592001 1\r\nx\r\nget k\r\n", b"STORED\r\nEND\r\n"),
    ("thirty days", b"set k 0 2592000 1\r\nx\r\nget k\r\n", b"STORED\r\n" + value_reply("k", b"x") +
     b"END\r\n"),
    ("a time to come", b"set k 0 2000000000 1\r\nx\r\nget k\r\n", b"STORED\r\n" +
     value_reply("k", b"x") + b"END\r\n"),
    ("a time behind 2038", b"set k 0 4000000000 1\r\nx\r\nget k\r\n", b"STORED\r\n" +
     value_reply("k", b"x") + b"END\r\n", "memcached counts with 32 bits"),
    ("exptime no number", b"set k 0 abc 1\r\nx\r\nget k\r\n", FORMAT + b"END\r\n", NEWER),
    ("exptime too large", b"set k 0 99999999999999999999 1\r\nx\r\n", FORMAT, NEWER),
    # lengths
    ("length no number", b"set k 0 0 abc\r\nget k\r\n", FORMAT + b"END\r\n"),
    ("negative length", b"set k 0 0 -1\r\nget k\r\n", FORMAT + b"END\r\n"),
    ("length beyond 2^31", b"set k 0 0 2147483647\r\nget k\r\n", FORMAT + b"END\r\n"),
    ("length beyond 2^32", b"set k 0 0 4294967297\r\nget k\r\n", FORMAT + b"END\r\n",
     NEWER),
    ("length beyond 2^64", b"set k 0 0 18446744073709551617\r\nget k\r\n", FORMAT + b"END\r\n"),
    ("too long a value is read as commands", b"set k 0 0 3\r\nabcversion\r\nget k\r\n",
     CHUNK + b"ERROR\r\nEND\r\n"),
    ("value without its line end", b"set k 0 0 3\r\nabc\n\r\nget k\r\n",
     CHUNK + FORMAT + b"END\r\n", NEWER),
    ("a bad chunk leaves the old value", set_command("k", b"old") +
     b"set k 0 0 3\r\nabcdefghi\r\nget k\r\n",
     b"STORED\r\n" + CHUNK + b"ERROR\r\n" + value_reply("k", b"old") + b"END\r\n",
     "memcached drops the old value"),
    ("too few words for a length", b"set k 0 0\r\nget k\r\n", FORMAT + b"END\r\n", NEWER),
    # keys
    ("key of 250 bytes", set_command(K250, b"x") + b"get %s\r\n" % K250,
     b"STORED\r\n" + value_reply(K250, b"x") + b"END\r\n"),
    ("key of 251 bytes is not stored", set_command(K251, b"x") + b"get k\r\n", FORMAT + b"END\r\n",
     NEWER),
    ("getting a key of 251 bytes is a miss", set_command("k", b"x") + b"get k %s k\r\n" % K251,
     b"STORED\r\n" + value_reply("k", b"x") * 2 + b"END\r\n", OWN),
    ("getting a key of 100,000 bytes is a miss", b"get %s\r\n" % (b"x" * 100000), b"END\r\n", OWN),
    ("deleting a key of 251 bytes", b"delete %s\r\n" % K251, FORMAT),
    ("touching a key of 251 bytes", b"touch %s 0\r\n" % K251, FORMAT),
    ("counting a key of 251 bytes", b"incr %s 1\r\n" % K251, FORMAT),
    # conditions
    ("add", b"add k 1 0 1\r\nx\r\nadd k 2 0 1\r\ny\r\nget k\r\n",
     b"STORED\r\nNOT_STORED\r\nVALUE k 1 1\r\nx\r\nEND\r\n"),
    ("replace", b"replace k 1 0 1\r\nx\r\nset k 1 0 1\r\nx\r\nreplace k 2 0 1\r\ny\r\nget k\r\n",
     b"NOT_STORED\r\nSTORED\r\nSTORED\r\nVALUE k 2 1\r\ny\r\nEND\r\n"),
    ("append keeps flags", b"append k 0 0 1\r\nx\r\nset k 3 0 1\r\nb\r\nappend k 9 0 2\r\ncd\r\n"
     b"prepend k 9 0 1\r\na\r\nget k\r\n",
     b"NOT_STORED\r\nSTORED\r\nSTORED\r\nSTORED\r\nVALUE k 3 4\r\nabcd\r\nEND\r\n"),
    ("prepend to nothing", b"prepend k 0 0 1\r\nx\r\n", b"NOT_STORED\r\n"),
    ("cas of what is not there", b"cas k 0 0 1 5\r\nx\r\n", b"NOT_FOUND\r\n"),
    ("cas with 0", b"cas k 0 0 1 0\r\nx\r\nset k 0 0 1\r\ny\r\ncas k 0 0 1 0\r\nx\r\nget k\r\n",
     b"NOT_FOUND\r\nSTORED\r\nEXISTS\r\nVALUE k 0 1\r\ny\r\nEND\r\n"),
    ("cas no number", b"cas k 0 0 1 abc\r\nx\r\nget k\r\n", FORMAT + b"END\r\n", NEWER),
    ("cas without a number", b"cas k 0 0 1\r\nx\r\nget k\r\n", FORMAT + b"END\r\n", NEWER),
    ("cas beyond 2^64", b"cas k 0 0 1 18446744073709551616\r\nx\r\n", FORMAT, NEWER),
    # delete
    ("delete", b"set k 0 0 1\r\nx\r\ndelete k\r\ndelete k\r\nget k\r\n",
     b"STORED\r\nDELETED\r\nNOT_FOUND\r\nEND\r\n"),
    ("delete with a zero", b"set k 0 0 1\r\nx\r\ndelete k 0\r\n", b"STORED\r\nDELETED\r\n"),
    ("delete ignores words", b"set k 0 0 1\r\nx\r\ndelete k 10 noreply\r\ndelete k 0 1 2\r\n",
     b"STORED\r\nNOT_FOUND\r\n", NEWER),
    # counters
    ("incr and decr", b"set n 3 0 1\r\n9\r\nincr n 1\r\ndecr n 3\r\ndecr n 100\r\nget n\r\n",
     b"STORED\r\n10\r\n7\r\n0\r\nVALUE n 3 1\r\n0\r\nEND\r\n",
     "memcached keeps the length of 2 after decr"),
    ("counting what is not there", b"incr n 1\r\ndecr n 1\r\n", b"NOT_FOUND\r\nNOT_FOUND\r\n"),
    ("incr wraps at 2^64", b"set n 0 0 20\r\n18446744073709551615\r\nincr n 2\r\n",
     b"STORED\r\n1\r\n"),
    ("incr by the largest", b"set n 0 0 1\r\n0\r\nincr n 18446744073709551615\r\nincr n 1\r\n",
     b"STORED\r\n18446744073709551615\r\n0\r\n"),
    ("counting text", b"set n 0 0 3\r\n1x2\r\nincr n 1\r\nget n\r\n",
     b"STORED\r\n" + NOT_NUMERIC + b"VALUE n 0 3\r\n1x2\r\nEND\r\n"),
    ("counting an empty value", b"set n 0 0 0\r\n\r\nincr n 1\r\n", b"STORED\r\n" + NOT_NUMERIC),
    ("counting a number that is too large", b"set n 0 0 20\r\n18446744073709551616\r\nincr n 1\r\n",
     b"STORED\r\n" + NOT_NUMERIC),
    ("counting a negative number", b"set n 0 0 2\r\n-1\r\nincr n 1\r\n",
     b"STORED\r\n" + NOT_NUMERIC, "memcached reads -1 as 2^64-1"),
    ("delta no number",
     b"set n 0 0 1\r\n1\r\nincr n x\r\ndecr n -1\r\nincr n 18446744073709551616\r\n",
     b"STORED\r\n" + DELTA * 3),
    ("append to a counter", b"set n 0 0 1\r\n1\r\nincr n 1\r\nappend n 0 0 1\r\n5\r\nincr n 1\r\n",
     b"STORED\r\n2\r\nSTORED\r\n26\r\n"),
    # touch, gat
    ("touch", b"touch k 0\r\nset k 0 0 1\r\nx\r\ntouch k 100\r\ntouch k -1\r\nget k\r\n",
     b"NOT_FOUND\r\nSTORED\r\nTOUCHED\r\nTOUCHED\r\nEND\r\n"),
    ("touch no number", b"set k 0 0 1\r\nx\r\ntouch k abc\r\nget k\r\n", b"STORED\r\n" + EXPTIME +
     b"VALUE k 0 1\r\nx\r\nEND\r\n"),
    ("gat", b"set k 6 0 1\r\nx\r\ngat 100 k none k\r\ngat -1 k\r\nget k\r\n",
     b"STORED\r\n" + value_reply("k", b"x", 6) * 2 + b"END\r\n" + value_reply("k", b"x", 6) +
     b"END\r\nEND\r\n"),
    ("gat no number", b"set k 0 0 1\r\nx\r\ngat abc k\r\nget k\r\n", b"STORED\r\n" + EXPTIME +
     b"VALUE k 0 1\r\nx\r\nEND\r\n"),
    # noreply
    ("noreply of everything", b"set k 0 0 1 noreply\r\nx\r\nadd k 0 0 1 noreply\r\ny\r\n"
     b"replace k 0 0 1 noreply\r\n1\r\nappend k 0 0 1 noreply\r\n2\r\n"
     b"prepend k 0 0 1 noreply\r\n3\r\n"
     b"cas k 0 0 1 99 noreply\r\nz\r\nincr k 1 noreply\r\ndecr k 1 noreply\r\ntouch k 0 noreply\r\n"
     b"delete none noreply\r\nverbosity 0 noreply\r\nget k\r\n",
     value_reply("k", b"312") + b"END\r\n"),
    ("noreply hides errors of a good line", b"incr none 1 noreply\r\nset n 0 0 1 noreply\r\nx\r\n"
     b"incr n 1 noreply\r\nget none\r\n", b"END\r\n"),
    ("a body that nobody asked for", b"set k 0 0 abc noreply\r\nget k\r\n", FORMAT + b"END\r\n",
     "memcached keeps silent"),
    ("flush_all noreply", set_command("k", b"x") + b"flush_all noreply\r\nget k\r\n",
     b"STORED\r\nEND\r\n"),
    # the rest
    ("flush_all", set_command("k", b"x") + b"flush_all\r\nget k\r\n", b"STORED\r\nOK\r\nEND\r\n"),
    ("flush_all with a zero", set_command("k", b"x") + b"flush_all 0\r\nget k\r\n",
     b"STORED\r\nOK\r\nEND\r\n"),
    ("flush_all later", set_command("k", b"x") + b"flush_all 1000\r\nget k\r\nflush_all\r\n",
     b"STORED\r\nOK\r\n" + value_reply("k", b"x") + b"END\r\nOK\r\n"),
    ("flush_all no number", b"flush_all abc\r\n", EXPTIME),
    ("verbosity", b"verbosity 0\r\n", b"OK\r\n"),
    ("verbosity no number", b"verbosity abc\r\n", FORMAT, NEWER),
    ("unknown command", b"nonsense\r\nget k\r\n", b"ERROR\r\nEND\r\n"),
    ("unknown command with words", b"nonsense k 0 0 1\r\n", b"ERROR\r\n"),
    ("upper case on a text connection", b"get k\r\nGET k\r\nVERSION\r\nget k\r\n",
     b"END\r\nERROR\r\nERROR\r\nEND\r\n"),
    ("missing words",
     b"get\r\ngets\r\nget \r\ndelete\r\nincr\r\nincr k\r\ntouch\r\ntouch k\r\ngat 0\r\n",
     FORMAT * 9, NEWER),
    ("short lines", b"x\r\n\r\n\n", FORMAT * 3, NEWER),
    ("spaces alone", b"      \r\n", b"ERROR\r\n"),
    ("stats of nothing known", b"stats nonsense\r\n", b"ERROR\r\n", NEWER),
    ("quit", b"set k 0 0 1\r\nx\r\nquit\r\nget k\r\n", (b"STORED\r\n", CLOSED)),
    ("a line of 3000 bytes", b"x" * 3000, (b"", CLOSED)),
    ("a storage line of 3000 bytes", b"set k 0 0 1" + b" " * 3000, (b"", CLOSED)),
]


def connect_to(request, kind):
    name = "shared_server" if kind == "ttserver" else "shared_memcached"
    return request.getfixturevalue(name).connect()


def rows():
    for row in ROWS:
        name, sent, expected, *why = row
        yield pytest.param("ttserver", sent, expected, id=f"ttserver: {name}")
        if not why:
            yield pytest.param("memcached", sent, expected, id=f"memcached: {name}")


@pytest.mark.parametrize("kind, sent, expected", rows())
def test_rows(request, kind, sent, expected):
    with connect_to(request, kind) as c:
        c.ask(b"flush_all\r\n", b"OK\r\n")
        if kind == "memcached":
            settle(c)
        if isinstance(expected, tuple):
            c.send(sent)
            assert c.rest() == expected[0]
            return
        c.send(sent + b"version\r\n")
        c.expect(expected)
        assert c.line().startswith(b"VERSION ")


def settle(c):
    """memcached's flush_all takes what is stored within the same second (of its clock) with it."""
    def holds():
        c.ask(b"set settled 0 0 1\r\nx\r\n", b"STORED\r\n")
        return harness.mc_get(c, "settled") is not None

    harness.eventually(holds, "memcached stores after flush_all")


@pytest.mark.parametrize("kind", ["ttserver", "memcached"])
def test_cas_values(request, kind):
    with connect_to(request, kind) as c:
        c.ask(set_command("c", b"1"), b"STORED\r\n")
        _, _, first = harness.mc_get(c, "c")
        assert harness.mc_get(c, "c")[2] == first
        c.ask(b"touch c 1000\r\n", b"TOUCHED\r\n")
        assert harness.mc_get(c, "c")[2] == first
        c.ask(b"gats 1000 c\r\n", value_reply("c", b"1", cas=first) + b"END\r\n")
        c.ask(b"cas c 0 0 1 %d\r\n2\r\n" % first, b"STORED\r\n")
        c.ask(b"cas c 0 0 1 %d\r\n3\r\n" % first, b"EXISTS\r\n")
        seen = {first}
        for change in [b"incr c 1\r\n", b"decr c 1\r\n", b"append c 0 0 1\r\n1\r\n",
                       b"prepend c 0 0 1\r\n1\r\n", b"set c 0 0 1\r\n1\r\n",
                       b"replace c 0 0 1\r\n1\r\n"]:
            c.send(change)
            c.line()
            cas = harness.mc_get(c, "c")[2]
            assert cas not in seen, change
            seen.add(cas)
        c.ask(b"delete c\r\n", b"DELETED\r\n")
        c.ask(b"cas c 0 0 1 %d\r\n3\r\n" % cas, b"NOT_FOUND\r\n")


def test_expiry_of_one_second(shared_server):
    with shared_server.connect() as c:
        c.ask(set_command("e", b"x", exptime=1) + set_command("f", b"y", exptime=3600),
              b"STORED\r\nSTORED\r\n")
        began = time.monotonic()
        harness.eventually(lambda: harness.mc_get(c, "e") is None, "expiry", 10)
        assert time.monotonic() - began < 5
        c.ask(b"add e 0 1 1\r\nz\r\n", b"STORED\r\n")
        c.ask(b"touch f 1\r\n", b"TOUCHED\r\n")
        harness.eventually(lambda: harness.mc_get(c, "f") is None, "expiry after touch", 10)
        c.ask(b"incr f 1\r\nappend f 0 0 1\r\nx\r\ntouch f 0\r\ndelete f\r\n",
              b"NOT_FOUND\r\nNOT_STORED\r\nNOT_FOUND\r\nNOT_FOUND\r\n")


def test_flush_all_with_a_delay(shared_server):
    with shared_server.connect() as c:
        c.ask(set_command("k", b"x") + b"flush_all 1\r\n", b"STORED\r\nOK\r\n")
        harness.eventually(lambda: harness.mc_get(c, "k") is None, "the flush", 10)
        c.ask(set_command("k", b"x"), b"STORED\r\n")
        assert harness.mc_get(c, "k")[0] == b"x"


def test_a_value_over_the_limit_is_swallowed_and_the_old_one_stays(new_server):
    server = new_server("--max-value", "1m").start()
    most = b"v" * (1 << 20)
    with server.connect() as c:
        c.ask(set_command("k", most), b"STORED\r\n")
        c.send(set_command("k", most + b"x") + b"get k\r\n")
        c.expect(b"SERVER_ERROR object too large for cache\r\n" + value_reply("k", most) +
                 b"END\r\n")
        c.send(set_command("k", most + b"x", noreply=True) + b"version\r\n")
        assert c.line().startswith(b"VERSION")
        c.ask(b"append k 0 0 1\r\nx\r\n", b"SERVER_ERROR object too large for cache\r\n")
        assert harness.mc_get(c, "k")[0] == most
    assert int(server.stats()["store_too_large"]) >= 3


def test_a_huge_announced_length_costs_nothing(shared_server):
    """2 GB are announced and a little is sent: the connection swallows, others are served."""
    with shared_server.connect() as a, shared_server.connect() as b:
        a.send(b"set k 0 0 2147483645\r\n" + b"x" * 100000)
        b.ask(set_command("k", b"v"), b"STORED\r\n")
        a.close()
        assert harness.mc_get(b, "k")[0] == b"v"


def test_big_values(shared_server):
    with shared_server.connect() as c:
        for size in [16 * 1024 - 1, 16 * 1024, 64 * 1024, 1 << 20, (1 << 20) + 1, 5 << 20,
                     64 << 20]:
            value = (b"%d|" % size) * (size // 4)
            value = value[:size]
            c.ask(set_command("big", value, flags=9), b"STORED\r\n")
            got = harness.mc_get(c, "big")
            assert got[1] == 9 and got[0] == value, size
        c.ask(b"delete big\r\n", b"DELETED\r\n")


def test_stats(shared_server):
    before = shared_server.stats()
    with shared_server.connect() as c:
        c.ask(set_command("s", b"x") + b"get s none\r\n",
              b"STORED\r\n" + value_reply("s", b"x") + b"END\r\n")
        for arg in [b"settings", b"items", b"slabs"]:
            c.send(b"stats %s\r\n" % arg)
            for line in c.until(b"END\r\n").split(b"\r\n")[:-2]:
                assert line.startswith(b"STAT "), line
    after = shared_server.stats()
    grown = {name: int(after[name]) - int(before[name])
             for name in ("cmd_get", "cmd_set", "get_hits", "get_misses", "total_connections")}
    assert grown == {"cmd_get": 2, "cmd_set": 1, "get_hits": 1, "get_misses": 1,
                     "total_connections": 2}
    for name in ["pid", "uptime", "time", "version", "pointer_size", "rusage_user",
                 "rusage_system", "max_connections", "curr_connections", "rejected_connections",
                 "cmd_flush", "cmd_touch", "delete_hits", "delete_misses", "incr_hits",
                 "incr_misses", "decr_hits", "decr_misses", "cas_hits", "cas_misses", "cas_badval",
                 "touch_hits", "touch_misses", "bytes_read", "bytes_written", "threads",
                 "curr_items"]:
        assert name in after, name
    assert int(after["pid"]) == shared_server.pid
