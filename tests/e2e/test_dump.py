"""ttctl dump, load, rebuild-index: what goes out comes in again, from and to servers and directories."""

import base64
import os
import shutil
import subprocess
import time

import pytest

import harness
from harness import mc_get, read_response, set_command
from test_format import Mix, http, quote
from test_tools import ctl, done, fails, verified


def dump(server, *words):
    status, out, err = raw("-port", str(server.port), "dump", *words)
    assert (status, err) == (0, ""), err
    return out


def raw(*words, stdin=b""):
    """(exit status, standard output as bytes, messages)"""
    result = subprocess.run([harness.TTCTL, *map(str, words)], input=stdin, capture_output=True,
                            timeout=harness.WAIT_S * 4)
    assert b"runtime error" not in result.stderr and b"Sanitizer" not in result.stderr, \
        result.stderr.decode()
    return result.returncode, result.stdout, result.stderr.decode()


def load(server, text, *words):
    return raw("-port", server.port, "load", *words, stdin=text)


def load_all(server, text, *words):
    status, out, err = load(server, text, *words)
    assert (status, err) == (0, ""), (out, err)
    return out.decode()


def decode_line(line):
    """(key, fields, value) of a line of a dump."""
    key, fields, value = line.split(b"\t")
    value = base64.b64decode(value[2:], validate=True) if value[:2] == b"b:" else \
        unquote(value[2:])
    return unquote(key), fields.decode(), value


def unquote(text):
    parts = text.split(b"%")
    return parts[0] + b"".join(bytes([int(part[:2], 16)]) + part[2:] for part in parts[1:])


@pytest.fixture
def mixed(new_server):
    """A running server with records of every kind."""
    server = new_server("--segment-size", "4m").start()
    mix = Mix(server, harness.test_seed())
    mix.steps(500)
    with server.connect() as h:
        for key in (b"", b"a b\tc", bytes(range(256)), b"l" * 60_000, b"-/hidden", b"#no-comment"):
            if key.startswith(b"-/"):
                assert http(h, b"PUT", b"/-/record?key=" + quote(key), b"secret").status == 201
            else:
                mix.put(h, key, b"text with \t tab, %, \xc3\xbc and a line\n")
        mix.put(h, b"big binary", mix.random.randbytes(3 << 20))
        mix.put(h, b"big text", b"all of this is text. " * 100_000)
        mix.put(h, b"text that turns", b"a" * 2000 + bytes(range(256)))
        mix.put(h, b"cut in a character", b"a" * 1023 + "ü".encode() * 5)
    return server


def test_a_dump_has_every_record_with_all_that_it_has(mixed):
    shown = served_all(mixed)
    lines = dump(mixed).split(b"\n")
    assert lines[0] == b"#ttdump 1" and lines[-1] == b""
    found = {}
    for line in lines[1:-1]:
        key, fields, value = decode_line(line)
        assert key not in found
        found[key] = value
        fields = dict((field.split("=") + [""])[:2] for field in fields.split() if field != "-")
        assert int(fields.get("flags", 0)) == shown[key][1], key
        assert unquote(fields.get("type", "").encode()) == shown[key][2], key
    assert found == {key: value for key, (value, *_) in shown.items()}
    keys = [decode_line(line)[0] for line in lines[1:-1]]
    assert keys == sorted(keys)


def served_all(server):
    """key -> (value, flags, type, expires) by /-/record."""
    found = {}
    with server.connect() as h:
        after = b""
        while True:
            lines = http(h, b"GET", b"/-/keys?limit=100" + after).body.split(b"\n")[:-1]
            for line in lines:
                head, value = http(h, b"GET", b"/-/record?key=" + line).body.split(b"\n", 1)
                fields = dict(field.split(b"=") for field in head.split(b"&"))
                attrs = unquote(fields[b"attributes"])
                kind = attrs[3:] if attrs[:1] == b"\1" else b""
                found[unquote(line)] = (value, int(fields[b"flags"]), kind,
                                        int(fields[b"expires"]))
            if not lines:
                return found
            after = b"&after=" + lines[-1]


def test_a_dump_that_is_loaded_is_the_same_dump(mixed, new_server):
    text = dump(mixed)
    other = new_server().start()
    out = load_all(other, text)
    assert out == f"stored: {len(text.splitlines()) - 1}, kept: 0, failed: 0\n"
    assert dump(other) == text
    assert served_all(other) == served_all(mixed)
    other.restart()
    assert dump(other) == text


@pytest.mark.parametrize("end", ["stop", "kill", "no index"])
def test_a_directorys_dump_is_that_of_its_server(mixed, end):
    text = dump(mixed)
    mixed.kill() if end == "kill" else mixed.stop()
    if end == "no index":
        shutil.rmtree(mixed.data / "index")
    before = tree(mixed.data)
    status, out, err = raw("dump", "--dir", mixed.data)
    assert (status, err) == (0, "")
    # Keys of more than 494 bytes stand at the end, in the index's order.
    assert sorted(out.splitlines()) == sorted(text.splitlines())
    short = lambda dump: [line for line in dump.splitlines()
                          if len(unquote(line.split(b"\t")[0])) <= 494]
    assert short(out) == short(text)
    assert tree(mixed.data) == before


def tree(path):
    return {str(file): file.stat().st_mtime_ns for file in sorted(path.rglob("*"))}


def test_an_index_that_makes_no_sense_is_not_used(mixed):
    text = dump(mixed)
    mixed.stop()
    path = mixed.data / "index" / "data.mdb"
    data = path.read_bytes()
    path.write_bytes(data[:8192] + os.urandom(len(data) - 8192))
    status, out, err = raw("dump", "--dir", mixed.data)
    assert status == 0 and err.count("\n") == 1 and "is not used" in err
    assert sorted(out.splitlines()) == sorted(text.splitlines())


def test_a_directorys_dump_follows_what_came_after_the_last_checkpoint(new_server):
    server = new_server().start()
    with server.connect() as c:
        for n in range(200):
            c.ask(set_command(f"k{n:03}", b"old"), b"STORED\r\n")
    server.restart()
    with server.connect() as c:
        for n in range(0, 200, 3):
            c.ask(set_command(f"k{n:03}", b"new"), b"STORED\r\n")
        for n in range(1, 200, 3):
            c.ask(b"touch k%03d 5000\r\n" % n, b"TOUCHED\r\n")
        c.ask(b"delete k002\r\n", b"DELETED\r\n")
        c.ask(set_command("k0005", b"between"), b"STORED\r\n")
    text = dump(server)
    server.kill()
    assert raw("dump", "--dir", server.data) == (0, text, "")
    server.start()
    with server.connect() as c:
        c.ask(b"flush_all\r\n", b"OK\r\n")
        c.ask(set_command("alone", b"x"), b"STORED\r\n")
    server.kill()
    assert raw("dump", "--dir", server.data)[1] == b"#ttdump 1\nalone\t-\tt:x\n"


@pytest.mark.parametrize("prefix, least", [("k", 10), ("k1", 3), ("yy", 1), ("none", 0)])
def test_a_prefix_chooses(mixed, prefix, least):
    everything = dump(mixed).splitlines()
    chosen = [line for line in everything[1:] if line.startswith(prefix.encode())]
    assert len(chosen) >= least
    assert dump(mixed, "--prefix", prefix).splitlines()[1:] == chosen
    mixed.stop()
    status, out, _ = raw("dump", "--dir", mixed.data, "--prefix", prefix)
    assert status == 0 and sorted(out.splitlines()[1:]) == sorted(chosen)
    assert raw("-e", "dump", "--dir", mixed.data, f"--prefix={'%6b' if prefix == 'k' else prefix}") \
        == (0, out, "")


def test_expiry_and_flags_come_through_to_the_millisecond(server, new_server):
    with server.connect() as h:
        at = int(time.time() * 1000) + 1_000_123
        target = b"/-/record?key=k&flags=4294967295&expires=%d&attributes=%%09%%03%%00a%%00c" % at
        assert http(h, b"PUT", target, b"v").status == 201
    text = dump(server)
    assert text == b"#ttdump 1\nk\tflags=4294967295 expires=%d attribute-9=a%%00c\tt:v\n" % at
    other = new_server().start()
    load_all(other, text)
    assert dump(other) == text


def test_big_values_and_counters_keep_what_they_have(server, new_server):
    with server.connect() as c:
        c.ask(set_command("big", os.urandom(2 << 20), 9, 1000), b"STORED\r\n")
        c.ask(set_command("n", b"5", 3), b"STORED\r\n")
        c.ask(b"incr n 18446744073709551615\r\n", b"4\r\n")
        c.ask(b"decr n 9\r\n", b"0\r\n")
        c.ask(b"incr n 7\r\n", b"7\r\n")
    text = dump(server)
    assert b"\nn\tflags=3\tt:7\n" in text and b"\nbig\tflags=9 expires=" in text
    other = new_server().start()
    load_all(other, text)
    assert dump(other) == text
    with other.connect() as c:
        c.ask(b"incr n 1\r\n", b"8\r\n")
    server.stop()
    assert raw("dump", "--dir", server.data) == (0, text, "")


RECORD = b"/-/record?key=k"


@pytest.mark.parametrize("method, target, status", [
    (b"GET", b"/-/record", 400),
    (b"GET", b"/-/record?key=%4", 400),
    (b"GET", RECORD, 404),
    (b"GET", b"/-/record?key=", 404),
    (b"DELETE", RECORD, 405),
    (b"POST", RECORD, 405),
    (b"OPTIONS", RECORD, 200),
    (b"PUT", b"/-/record", 400),
    (b"PUT", RECORD + b"&flags=", 400),
    (b"PUT", RECORD + b"&flags=-1", 400),
    (b"PUT", RECORD + b"&flags=4294967296", 400),
    (b"PUT", RECORD + b"&expires=never", 400),
    (b"PUT", RECORD + b"&if=present", 400),
    (b"PUT", RECORD + b"&attributes=%zz", 400),
    (b"PUT", RECORD + b"&attributes=%01", 400),
    (b"PUT", RECORD + b"&attributes=%01%02%00x", 400),
    (b"PUT", RECORD + b"&attributes=%05%01%00x", 400),
    (b"PUT", RECORD + b"&attributes=" + b"%01%ff%ff" + b"x" * 65535, 400),
])
def test_what_is_asked_wrongly_of_a_record_is_refused(shared_server, method, target, status):
    with shared_server.connect() as h:
        body = b"value" if method in (b"PUT", b"POST") else b""
        assert http(h, method, target, body).status == status
        # The connection goes on behind it.
        assert http(h, b"GET", RECORD).status == 404


def test_a_record_shows_all_that_it_has(server):
    with server.connect() as h:
        target = RECORD + b"&flags=7&expires=-5"
        assert http(h, b"PUT", target, b"over").status == 201
        assert http(h, b"GET", RECORD).status == 404
        target = RECORD + b"&flags=7&attributes=%01%01%00x%05%08%00ABCDEFGH"
        assert http(h, b"PUT", target, b"value").status == 201
        assert http(h, b"PUT", target + b"&if=absent", b"other").status == 409
        reply = http(h, b"GET", RECORD)
        assert reply.body == b"flags=7&expires=0&attributes=%01%01%00x%05%08%00ABCDEFGH\nvalue"
        assert reply.headers["cache-control"] == "no-store"
        h.send(b"HEAD " + RECORD + b" HTTP/1.1\r\nHost: h\r\n\r\n")
        assert read_response(h, head=True).headers["content-length"] == str(len(reply.body))
    with server.connect() as c:
        cas = int.from_bytes(b"ABCDEFGH", "little")
        assert mc_get(c, "k") == (b"value", 7, cas)
    server.restart()
    with server.connect() as c:
        assert mc_get(c, "k") == (b"value", 7, cas)
    assert b"cas=%d" % cas in dump(server)
    server.stop()
    verified(server.data)


def test_a_full_disk_behind_the_output_is_noticed(mixed):
    with open("/dev/full", "wb") as full:
        words = [harness.TTCTL, "-port", str(mixed.port), "dump"]
        result = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, timeout=harness.WAIT_S)
        assert result.returncode == 1 and b"cannot write the output" in result.stderr
        mixed.stop()
        for words in (["dump", "--dir", mixed.data], ["verify", mixed.data], ["log", mixed.data]):
            result = subprocess.run([harness.TTCTL, *words], stdout=full, stderr=subprocess.PIPE,
                                    timeout=harness.WAIT_S)
            assert result.returncode == 1 and b"cannot write the output" in result.stderr


def test_load_keeps_what_is_there_if_told(server):
    with server.connect() as c:
        c.ask(set_command("a", b"mine"), b"STORED\r\n")
    text = b"#ttdump 1\n# a comment\n\na\t-\tt:theirs\nb\t-\tt:new\n"
    assert load_all(server, text, "--if-absent") == "stored: 1, kept: 1, failed: 0\n"
    with server.connect() as c:
        assert mc_get(c, "a")[0] == b"mine"
    assert load_all(server, text) == "stored: 2, kept: 0, failed: 0\n"
    with server.connect() as c:
        assert mc_get(c, "a")[0] == b"theirs"


def test_load_begins_where_it_is_told(server, tmp_path):
    lines = [b"#ttdump 1"] + [b"k%d\t-\tt:v" % n for n in range(2, 8)]
    path = tmp_path / "dump"
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert done("-port", server.port, "load", "--from", 5, path).startswith("stored: 3,")
    assert dump(server).splitlines()[1:] == lines[4:]


BAD = [
    (b"a", "a column is missing"),
    (b"a\t-", "a column is missing"),
    (b"a\t-\t", "the value begins neither"),
    (b"a\t-\tx", "the value begins neither"),
    (b"a\t-\tt", "the value begins neither"),
    (b"a%4\t-\tt:", "the key is not percent-encoded"),
    (b"a" * 70_000 + b"\t-\tt:", "the key is not percent-encoded, or too long"),
    (b"a" * 300_000 + b"\t-\tt:", "a column is too long"),
    (b"a\tflags=x\tt:", "flags is no number"),
    (b"a\tflags=4294967296\tt:", "flags is no number"),
    (b"a\texpires=soon\tt:", "expires is no number"),
    (b"a\tcas=\tt:", "cas is no number"),
    (b"a\tcolor=red\tt:", "no known name"),
    (b"a\tattribute-0=x\tt:", "no known name"),
    (b"a\tattribute-256=x\tt:", "no known name"),
    (b"a\ttype=%\tt:", "malformed or too long"),
    (b"a\t \tt:", "no known name"),
    (b"a\t-\tt:50%", "no two digits"),
    (b"a\t-\tt:50%4", "no two digits"),
    (b"a\t-\tt:50%zz", "no two digits"),
    (b"a\t-\tt:a\tb", "a control byte"),
    (b"a\t-\tt:a\r", "a control byte"),
    (b"a\t-\tb:A", "no base64"),
    (b"a\t-\tb:AAA", "no base64"),
    (b"a\t-\tb:A===", "no base64"),
    (b"a\t-\tb:AA==AAAA", "no base64"),
    (b"a\t-\tb:AA=A", "no base64"),
    (b"a\t-\tb:AA!A", "no base64"),
    (b"a\t-\tt:" + b"x" * 300_000 + b"%", "no two digits"),
    (b"a\t-\tb:" + b"AAAA" * 100_000 + b"A", "no base64"),
]


def test_lines_that_are_no_records_are_told_and_passed_over(server):
    text = b"#ttdump 1\nfirst\t-\tt:1\n" + b"".join(line + b"\nk%d\t-\tt:v\n" % n
                                                    for n, (line, _) in enumerate(BAD))
    status, out, err = load(server, text)
    assert status == 1
    assert out.decode() == f"stored: {len(BAD) + 1}, kept: 0, failed: {len(BAD)}\n"
    told = err.splitlines()
    assert len(told) == len(BAD)
    for n, ((_, said), line) in enumerate(zip(BAD, told)):
        assert line.startswith(f"ttctl: line {3 + 2 * n}: ") and said in line
    with server.connect() as c:
        assert mc_get(c, "a") is None
        assert mc_get(c, f"k{len(BAD) - 1}")[0] == b"v"


def test_a_dump_that_was_cut_off_is_noticed(server):
    text = b"#ttdump 1\na\t-\tt:1\nb\tflags=7\tt:%41" + b"2" * 600_000
    for cut in (*range(18, 40), len(text)):
        status, out, err = load(server, text[:cut])
        assert status == 1 and "line 3: the line is cut off" in err or cut in (18, 19), (cut, err)
    with server.connect() as c:
        assert mc_get(c, "b") is None


def test_what_the_server_refuses_is_told_by_its_line(new_server):
    server = new_server("--max-value", "1000").start()
    text = b"#ttdump 1\na\t-\tt:1\nb\t-\tt:" + b"x" * 1001 + b"\nc\t-\tt:" + b"y" * 2_000_000 + \
        b"\nd\t-\tt:4\n"
    status, out, err = load(server, text)
    assert (status, out) == (1, b"stored: 2, kept: 0, failed: 2\n")
    assert "line 3: the value is too large" in err and "line 4: the value is too large" in err


class Nobody:
    port = harness.free_port()


def test_without_a_server_load_says_where_to_go_on():
    status, out, err = load(Nobody, b"#ttdump 1\na\t-\tt:1\nb\t-\tt:2\n")
    assert status == 1
    assert f"no server answers at 127.0.0.1 port {Nobody.port}" in err or "connect" in err.lower()
    assert "go on with --from 2" in err


@pytest.mark.parametrize("text", [b"", b"a\t-\tt:1\n", b"#ttdump 2\n", b"#ttdump 1"])
def test_what_is_no_dump_is_not_loaded(text):
    status, out, err = load(Nobody, text)
    assert (status, out) == (1, b"") and "this is no dump" in err


def test_memory_stays_flat_with_large_values(server, new_server, tmp_path):
    path = tmp_path / "dump"
    peak_path = tmp_path / "peak"
    value = os.urandom(1 << 20)
    with server.connect() as h:
        for n in range(3):
            assert http(h, b"PUT", b"/big%d" % n, value * 50).status == 201
    with open(path, "wb") as file:
        peak = run_measured(["-port", str(server.port), "dump"], peak_path, stdout=file)
    assert peak < 100 << 20
    other = new_server().start()
    with open(path, "rb") as file:
        peak = run_measured(["-port", str(other.port), "load"], peak_path, stdin=file,
                            stdout=subprocess.DEVNULL)
    assert peak < 100 << 20
    with other.connect() as c:
        assert mc_get(c, "big2")[0] == value * 50
    server.stop()
    with open(tmp_path / "again", "wb") as file:
        peak = run_measured(["dump", "--dir", str(server.data)], peak_path, stdout=file)
    assert peak < 100 << 20
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[2:], check=True)
with open(sys.argv[1], "w") as file:
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=file)
"""


def run_measured(words, where, **files):
    """Peak resident bytes of a ttctl that must succeed. A process begins with its parent's, so the
    parent is a small one."""
    subprocess.run(["/usr/bin/python3", "-S", "-c", MEASURE, where, harness.TTCTL, *words],
                   check=True, timeout=harness.WAIT_S * 4, **files)
    return int(where.read_text()) * 1024


@pytest.mark.parametrize("words, said", [
    (["dump", "x"], "one argument too many: x"),
    (["dump", "--dir"], "option --dir needs an argument"),
    (["load", "--from", "0"], "--from: expected a line's number"),
    (["load", "--if-absent=1"], "takes no argument"),
    (["load", "a", "b"], "one argument too many: b"),
    (["rebuild-index"], "an argument is missing"),
])
def test_wrong_usage_has_status_2(words, said):
    status, out, err = ctl(*words)
    assert (status, out) == (2, "")
    assert said in err and f"try ttctl {words[0]} -h" in err


@pytest.mark.parametrize("name", ["dump", "load", "rebuild-index"])
def test_each_command_explains_itself(name):
    out = done(name, "-h")
    assert out.startswith(f"Usage: ttctl {name} ")
    assert all(len(line) < 80 for line in out.splitlines()), out


def test_what_cannot_be_opened_is_told(tmp_path, server):
    empty = tmp_path / "empty"
    empty.mkdir()
    for directory, said in ((empty, "is no data directory"), (server.data, "is in use")):
        status, out, err = ctl("dump", "--dir", directory)
        assert status == 1 and said in err
        assert said in fails("rebuild-index", directory)
    assert "No such file" in fails("load", tmp_path / "none")
    assert os.listdir(empty) == []


def test_a_dump_tells_what_it_cannot_read(mixed):
    text = dump(mixed)
    mixed.stop()
    big = sorted((mixed.data / "big").iterdir())
    for path in big:
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(data)
    status, out, err = raw("dump", "--dir", mixed.data)
    assert status == 1 and "does not match its checksum" in err and "key big%20binary" in err
    lost = set(text.splitlines()) - set(out.splitlines())
    assert set(out.splitlines()) < set(text.splitlines())
    assert {line.split(b"\t")[0] for line in lost} >= {b"big%20binary", b"big%20text"}


# ---- rebuild-index ----

def test_an_index_is_made_anew(mixed):
    text = dump(mixed)
    mixed.stop()
    path = mixed.data / "index" / "data.mdb"
    path.write_bytes(b"garbage")
    status, out, err = ctl("rebuild-index", mixed.data)
    assert status == 0, err
    count = len(text.splitlines()) - 1
    assert out == f"the index is made, records: {count}\n"
    assert "rebuilding the index" in err
    assert "note" not in verified(mixed.data)
    mixed.start()
    assert dump(mixed) == text
