"""ttctl on data directories: log, verify, repair, doctor. Damage is made on purpose and must be named."""

import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading

import pytest
import xxhash

import harness
from harness import mc_get, set_command

sys.path.insert(0, str(harness.ROOT / "tools"))

import read_store  # noqa: E402 (behind the line that says where it is)


def ctl(*words, stdin=b"", env=None):
    """(exit status, standard output as text, messages)"""
    done = subprocess.run([harness.TTCTL, *map(str, words)], input=stdin, capture_output=True,
                          timeout=harness.WAIT_S * 4, env={**os.environ, **(env or {})})
    assert "runtime error" not in done.stderr.decode() and "Sanitizer" not in done.stderr.decode(), \
        done.stderr.decode()
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def done(*words):
    status, out, err = ctl(*words)
    assert (status, err) == (0, ""), (out, err)
    return out


def fails(*words):
    """The one line of a command that must fail."""
    status, out, err = ctl(*words)
    assert (status, out) == (1, ""), (status, out, err)
    assert err.count("\n") == 1 and err.startswith("ttctl: "), err
    return err


def verified(data):
    out = done("verify", data)
    assert out.endswith("problems: 0\n"), out
    return out


def broken(data):
    """What `verify` says of a directory that is not right."""
    status, out, err = ctl("verify", data)
    assert (status, err) == (1, ""), (status, out, err)
    assert not out.endswith("problems: 0\n")
    return out


def flip(path, offset, bit=0):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def value(n):
    """Of the n-th write."""
    return b"%d " % n * (20_000 // len(b"%d " % n))


def fill(server, count=300):
    """Several segments; every kind of record in the last one."""
    with server.connect() as c:
        for n in range(count):
            c.send(set_command(f"key{n % 100:03}", value(n), n))
        for n in range(count):
            c.expect(b"STORED\r\n")
        c.ask(set_command("number", b"10"), b"STORED\r\n")
        c.ask(b"incr number 5\r\n", b"15\r\n")
        c.ask(b"touch number 1000\r\n", b"TOUCHED\r\n")
        c.ask(b"delete key099\r\n", b"DELETED\r\n")
        for n in range(3):
            c.ask(set_command(f"big{n}", b"%d" % n * (1 << 20) + b"end"), b"STORED\r\n")


@pytest.fixture
def store(new_server):
    """A stopped server of several segments, all as they were written."""
    server = new_server("--segment-size", "4m", "--keep-history", "1d").start()
    fill(server)
    server.stop()
    return server


def segments(server):
    """By name. Compaction may have made some of them: the newest need not be the last."""
    return sorted((server.data / "log").iterdir())


def newest(server):
    """The segment with which the log ends."""
    _, number, _ = read_store.read_store_file(server.data)
    return server.data / "log" / f"{number:08}.seg"


def closed(server):
    return [path for path in segments(server) if path != newest(server)]


def places(server, path):
    """(offset, record) of every record of a segment, by the Python reader."""
    uuid, *_ = read_store.read_store_file(server.data)
    s = read_store.read_segment(path, uuid)
    offset = s.start
    while True:
        record, length = read_store.read_record(s.data, offset, xxhash.xxh3_64_intdigest(uuid))
        if not record:
            return
        yield offset, length, record
        offset += length


def serves(server, keys):
    """{key: value or None} of a running server."""
    with server.connect() as c:
        found = {key: mc_get(c, key) for key in keys}
    return {key: value and value[0] for key, value in found.items()}


# ---- verify ----

def test_a_stopped_store_is_found_whole(new_server):
    server = new_server().start() # of one segment: nothing of it is compacted
    fill(server)
    server.stop()
    out = verified(server.data)
    assert "put 304, delete 1, counter 1, touch 1, flush 0, marker 1" in out
    assert "big values: 3, bytes: 3145737" in out
    assert "last stop: clean" in out
    assert "index: rows 104, live 103" in out


def test_a_killed_store_is_found_whole(new_server):
    server = new_server("--segment-size", "4m").start()
    fill(server)
    server.kill()
    out = verified(server.data)
    assert "last stop: not clean" in out
    server.start().stop()
    verified(server.data)


def test_a_store_without_an_index_is_whole(store):
    shutil.rmtree(store.data / "index")
    assert "no index" in verified(store.data)


def test_every_changed_byte_of_the_log_is_named_with_its_place(store):
    r = random.Random(harness.test_seed())
    path = r.choice(closed(store))
    offset, length, record = r.choice(list(places(store, path)))
    flip(path, offset + r.randrange(length), r.randrange(8))
    out = broken(store.data)
    assert f"damage: {path} at offset {offset}" in out
    assert f"(record {record.seq})" in out


def test_a_record_whose_value_is_damaged_is_named_by_its_key(store):
    path = segments(store)[1]
    offset, length, record = list(places(store, path))[3]
    flip(path, offset + length - 1)
    out = broken(store.data)
    assert f"damage: {path} at offset {offset}, {length} bytes: " in out
    assert f"(record {record.seq}), key {record.key.decode()}\n" in out


def test_a_damaged_header_a_missing_segment_and_a_damaged_store_file_are_named(store):
    flip(segments(store)[1], 70)
    assert f"damage: {segments(store)[1]}" in broken(store.data)
    flip(segments(store)[1], 70)
    verified(store.data)
    away = store.directory / "away"
    for path in segments(store):
        path.rename(away)
        assert "missing" in broken(store.data), path
        away.rename(path)
    verified(store.data)
    flip(store.data / "STORE", 60)
    assert "STORE: is damaged" in broken(store.data)


def test_a_missing_and_a_damaged_big_value_are_named(store):
    files = sorted((store.data / "big").iterdir())
    flip(files[0], 500_000)
    files[1].unlink()
    out = broken(store.data)
    assert f"damage: {files[0]}" in out and ", key big0\n" in out
    assert f"damage: {files[1]}" in out and ", key big1\n" in out
    assert "problems: 2\n" in out


def test_a_file_that_no_record_names_is_a_note(store):
    shutil.copy(next((store.data / "big").iterdir()), store.data / "big" / "00000000000000ff.val")
    out = verified(store.data)
    assert f"note: {store.data}/big/00000000000000ff.val: no record names it" in out


def test_a_torn_tail_is_no_damage(new_server):
    server = new_server("--segment-size", "4m").start()
    fill(server)
    server.kill()
    last = newest(server)
    offset, length, _ = list(places(server, last))[-1]
    os.truncate(last, offset + length // 2)
    out = verified(server.data)
    assert f"unfinished: {last} at offset {offset}" in out


def test_an_index_that_is_not_the_logs_is_found(store, new_server):
    """Records that the index does not know, and rows that name none."""
    other = new_server("--segment-size", "4m").start()
    fill(other, 100)
    other.stop()
    shutil.rmtree(store.data / "index")
    shutil.copytree(other.data / "index", store.data / "index")
    assert "it belongs to another store" in broken(store.data)


def test_an_index_that_is_behind_the_log_is_no_damage_but_one_ahead_is(new_server):
    server = new_server("--segment-size", "4m").start()
    fill(server)
    server.stop()
    early = server.directory / "early"
    shutil.copytree(server.data, early)
    server.start()
    with server.connect() as c:
        for n in range(50):
            c.ask(set_command(f"key{n:03}", b"newer"), b"STORED\r\n")
            c.ask(b"touch key%03d 1000\r\n" % (50 + n % 10), b"TOUCHED\r\n")
        c.ask(b"delete key060\r\n", b"DELETED\r\n")
        c.ask(b"delete big1\r\n", b"DELETED\r\n")
        c.ask(b"incr number 1\r\n", b"16\r\n")
    server.kill()
    verified(server.data)
    server.start().stop()
    verified(server.data)
    shutil.rmtree(early / "index")
    shutil.copytree(server.data / "index", early / "index")
    assert "the log ends at record 308, but the index stands at 41" in broken(early)


def lmdb_edit(data, change):
    import lmdb
    with lmdb.open(str(data / "index"), max_dbs=8, map_size=1 << 30) as env:
        names = {name: env.open_db(name.encode())
                 for name in ("keys", "segments", "expiry", "big", "meta")}
        with env.begin(write=True) as txn:
            change(txn, names)


def drop_row(txn, names):
    assert txn.delete(b"\x01key005", db=names["keys"])


def move_row(txn, names):
    row = bytearray(txn.get(b"\x01key005", db=names["keys"]))
    row[5] ^= 1  # its offset
    txn.put(b"\x01key005", bytes(row), db=names["keys"])


def swap_rows(txn, names):
    a, b = (txn.get(key, db=names["keys"]) for key in (b"\x01key005", b"\x01key006"))
    txn.put(b"\x01key005", b, db=names["keys"])
    txn.put(b"\x01key006", a, db=names["keys"])


def lose_expiry(txn, names):
    assert txn.drop(names["expiry"], delete=False) is None


def lose_file(txn, names):
    assert txn.delete(struct.pack(">Q", 1), db=names["big"])


def change_sums(txn, names):
    with txn.cursor(names["segments"]) as cursor:
        assert cursor.first()
        cursor.put(cursor.key(), bytes([cursor.value()[0] ^ 1]) + cursor.value()[1:])


def add_row(txn, names):
    txn.put(b"\x01nobody", txn.get(b"\x01key005", db=names["keys"]), db=names["keys"])


@pytest.mark.parametrize("change, said", [
    (drop_row, "the index does not know the key"),
    (move_row, "a row names segment"),
    (swap_rows, "key key005\n"),
    (add_row, "but the record there has another key, key nobody"),
    (lose_expiry, "the table of expiries has 0 records, by the rows 1 expire"),
    (lose_file, "the table of big values has 2 files"),
    (change_sums, " tombstone bytes in the table, "),
])
def test_an_index_with_one_wrong_entry_is_found(store, change, said):
    lmdb_edit(store.data, change)
    assert said in broken(store.data)


def test_an_index_of_garbage_is_found(store):
    path = store.data / "index" / "data.mdb"
    r = random.Random(harness.test_seed())
    data = path.read_bytes()
    # Everything behind the two header pages: no page makes sense.
    path.write_bytes(data[:8192] + r.randbytes(len(data) - 8192))
    broken(store.data)
    path.write_bytes(b"no index")
    assert "the index cannot be used" in broken(store.data)


# ---- repair ----

def test_repair_makes_nothing_where_nothing_is_damaged(store, tmp_path):
    assert "nothing is damaged" in done("repair", store.data, "--to", tmp_path / "new")
    assert "nothing is damaged" in done("repair", store.data, "--backup", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_repair_keeps_all_that_can_be_read_and_says_what_it_dropped(store, tmp_path):
    first = closed(store)[0]
    last = {}
    for path in segments(store):
        for offset, length, record in places(store, path):
            if record.kind in (1, 2) and record.seq > last.get(record.key, (0,))[0]:
                last[record.key] = record.seq, path, offset, length
    seq, path, offset, length = last[b"key050"]
    flip(path, offset + length - 1)
    flip(first, 100)
    big = sorted((store.data / "big").iterdir())
    big[2].unlink()
    before = {path: path.stat().st_mtime_ns for path in segments(store)}
    out = done("repair", store.data, "--to", tmp_path / "new")
    assert f"damage: {path} at offset {offset}, {length} bytes: " in out
    assert f"(record {seq}), key key050\n" in out
    assert f"damage: {first} at offset 0, " in out
    assert f"damage: {big[2]}" in out and ", key big2\n" in out
    assert {path: path.stat().st_mtime_ns for path in segments(store)} == before
    verified(tmp_path / "new")

    repaired = harness.Server(tmp_path / "run", data=tmp_path / "new")
    repaired.start()
    try:
        keys = [f"key{n:03}" for n in range(100)]
        found = serves(repaired, keys + ["big0", "big1", "big2", "number"])
        for n, key in enumerate(keys[:99]):
            if n != 50:
                assert found[key].startswith(b"%d " % (200 + n)), key
        assert found["key050"] is None or not found["key050"].startswith(b"250 ")
        assert found["key099"] is None
        assert found["big0"] == b"0" * (1 << 20) + b"end"
        assert found["big2"] is None
        assert found["number"] == b"15"
        with repaired.connect() as c:
            c.ask(set_command("new", b"value"), b"STORED\r\n")
        repaired.restart()
        assert serves(repaired, ["new", "number"]) == {"new": b"value", "number": b"15"}
        repaired.stop()
    finally:
        repaired.finish()
    verified(tmp_path / "new")
    old = (store.data / "STORE").read_text().splitlines()
    new = (tmp_path / "new" / "STORE").read_text().splitlines()
    field = lambda lines, name: [line for line in lines if line.startswith(name + " ")]
    assert field(old, "uuid") == field(new, "uuid")
    assert field(old, "epoch") < field(new, "epoch")
    assert len(field(new, "history")) == len(field(old, "history")) + 1
    assert field(new, "held-from")


def test_repair_in_place_keeps_the_damaged_directory(store, tmp_path):
    flip(segments(store)[0], 5000)
    files = sorted(path.name for path in segments(store))
    out = done("repair", store.data, "--backup", tmp_path / "old")
    assert f"the damaged store is {tmp_path}/old" in out
    assert sorted(os.listdir(tmp_path / "old" / "log")) == files
    broken(tmp_path / "old")
    verified(store.data)
    store.start().stop()
    verified(store.data)


@pytest.mark.parametrize("what", ["first", "middle", "last", "header", "store"])
def test_repair_mends_what_is_missing(store, tmp_path, what):
    files = segments(store)
    whole = dict((key, value) for key, value, *_ in read_store.read(store.data))
    if what == "store":
        (store.data / "STORE").unlink()
    elif what == "header":
        flip(files[1], 10)
    else:
        files[{"first": 0, "middle": 1, "last": -1}[what]].unlink()
    out = done("repair", store.data, "--to", tmp_path / "new")
    assert "damage: " in out
    verified(tmp_path / "new")
    repaired = {key: value for key, value, *_ in read_store.read(tmp_path / "new")}
    server = harness.Server(tmp_path / "run", data=tmp_path / "new")
    try:
        server.start().stop()
    finally:
        server.finish()
    verified(tmp_path / "new")
    if what in ("header", "store"):
        assert repaired == whole
    assert len(repaired) > 60


def test_an_end_that_only_the_index_knows_is_lost_and_its_numbers_are_not_used_again(store, tmp_path):
    last = newest(store)
    offset, _, record = list(places(store, last))[-5]
    os.truncate(last, offset)
    assert "the index stands at" in broken(store.data)
    out = done("repair", store.data, "--to", tmp_path / "new")
    assert "the end of the log is missing, the index knows of more" in out
    assert f"(records {record.seq} to {record.seq + 3})" in out
    verified(tmp_path / "new")
    server = harness.Server(tmp_path / "run", data=tmp_path / "new")
    try:
        server.start().stop()
    finally:
        server.finish()
    assert done("log", tmp_path / "new").splitlines()[-1].startswith(f"{record.seq + 4} ")


def spoil(r, files):
    """Damages some of the files at random."""
    for _ in range(r.randrange(1, 12)):
        path = r.choice(files)
        size = path.stat().st_size
        kind = r.choice(["flip", "zero", "noise", "cut", "gone"])
        if size == 0 or kind == "gone" and r.random() < 0.7:
            continue
        at = r.randrange(size)
        print(path.name, kind, at)
        if kind == "gone":
            path.unlink()
            files.remove(path)
        elif kind == "cut":
            os.truncate(path, at)
        elif kind == "flip":
            flip(path, at, r.randrange(8))
        else:
            length = min(r.choice([1, 100, 4096, 100_000]), size - at)
            with open(path, "r+b") as file:
                file.seek(at)
                file.write(bytes(length) if kind == "zero" else r.randbytes(length))


@pytest.mark.parametrize("sync, end", [("always", "stop"), ("always", "kill"), ("os", "stop"),
                                       ("interval=1000", "kill")])
def test_random_damage_is_repaired(new_server, tmp_path, sync, end):
    """Whatever is damaged: the repaired store opens, is whole, and has nothing that was never
    written."""
    r = random.Random(harness.test_seed())
    old = new_server("--segment-size", "4m", "--sync", sync).start()
    fill(old)
    old.stop() if end == "stop" else old.kill()
    spoil(r, segments(old) + sorted((old.data / "big").iterdir()))
    status, out, err = ctl("repair", old.data, "--to", tmp_path / "new")
    if (status, err.count("\n")) == (1, 1):
        assert "neither" in err # no header at all is left
        return
    assert (status, err) == (0, ""), (out, err)
    data = tmp_path / "new" if (tmp_path / "new").exists() else old.data
    if data != old.data:
        verified(data)
    server = harness.Server(tmp_path / "run", data=data)
    try:
        server.start("--sync", sync)
        found = serves(server, [f"key{n:03}" for n in range(100)])
        server.stop()
    finally:
        server.finish()
    for n in range(100):
        assert found[f"key{n:03}"] in (None, value(n), value(100 + n), value(200 + n))
    verified(data)


@pytest.mark.parametrize("words, said", [
    (["verify"], "an argument is missing"),
    (["verify", "a", "b"], "one argument too many: b"),
    (["verify", "a", "--fast"], "unknown option --fast"),
    (["repair", "a"], "expected --to NEWDIR or --backup COPYDIR"),
    (["repair", "a", "--to", "b", "--backup", "c"], "expected --to NEWDIR or --backup COPYDIR"),
    (["repair", "a", "--to"], "option --to needs an argument"),
    (["log", "a", "--from", "x"], "--from: expected a record's number"),
    (["doctor", "a", "b"], "one argument too many: b"),
    (["compact", "a", "b"], "one argument too many: b"),
])
def test_wrong_usage_has_status_2(words, said):
    status, out, err = ctl(*words)
    assert (status, out) == (2, "")
    assert said in err and f"try ttctl {words[0]} -h" in err


@pytest.mark.parametrize("name", ["verify", "repair", "log", "doctor", "compact"])
def test_each_command_explains_itself(name):
    for word in ("-h", "--help"):
        out = done(name, word)
        assert out.startswith(f"Usage: ttctl {name} ")
        assert all(len(line) < 80 for line in out.splitlines()), out


@pytest.mark.parametrize("words", [["verify"], ["repair", "--to", "/nowhere/new"], ["log"]])
def test_what_is_no_store_is_refused(words, tmp_path):
    for directory in (tmp_path / "none", tmp_path):
        assert "is no data directory" in fails(words[0], directory, *words[1:])


@pytest.fixture
def forbidden(store):
    """(a directory that its reader may not look into, a way to run ttctl as one who may not)"""
    directory = tempfile.mkdtemp()
    try:
        os.chmod(directory, 0o755)
        program = shutil.copy(harness.TTCTL, directory)
        data = shutil.copytree(store.data, os.path.join(directory, "data"))
        os.chmod(data, 0o755)
        os.chmod(os.path.join(data, "log"), 0)
        user = {"user": "nobody"} if os.geteuid() == 0 else {}
        yield data, lambda *words: subprocess.run(
            [program, *words], capture_output=True, timeout=harness.WAIT_S, text=True, **user)
    finally:
        os.chmod(os.path.join(data, "log"), 0o750)
        shutil.rmtree(directory)


@pytest.mark.parametrize("words", [["verify"], ["repair", "--to", "new"], ["log"]])
def test_without_rights_it_says_so(forbidden, words):
    data, run = forbidden
    result = run(words[0], data, *words[1:])
    assert (result.returncode, result.stdout) == (1, "")
    assert "Permission denied" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["verify"], ["repair", "--to", "new"]])
def test_a_store_in_use_is_left_alone(server, words):
    assert "is in use" in fails(words[0], server.data, *words[1:])


def test_repair_does_not_write_into_a_directory_with_files(store, tmp_path):
    flip(segments(store)[0], 5000)
    (tmp_path / "file").write_text("x")
    status, out, err = ctl("repair", store.data, "--to", tmp_path)
    assert status == 1 and "not empty" in err
    status, out, err = ctl("repair", store.data, "--backup", tmp_path)
    assert status == 1 and "is there already" in err
    assert store.data.exists() and (tmp_path / "file").exists()


# ---- log ----

def test_log_prints_a_line_a_record_beside_a_running_server(new_server):
    server = new_server().start() # of one segment: nothing of it is compacted
    fill(server)
    lines = done("log", server.data).splitlines()
    assert len(lines) == 307
    assert [int(line.split()[0]) for line in lines] == list(range(1, 308))
    words = lines[0].split()
    assert words[2:4] == ["put", "key000"]
    assert any(" delete key099 " in line for line in lines)
    assert any(" counter number " in line and " start=10 slot=+5 " in line for line in lines)
    assert any(" touch number expires=20" in line for line in lines)
    assert any(" put big1 bytes=1048579 file=0000000000000002.val " in line for line in lines)
    assert done("log", server.data, "--from", 300).splitlines() == lines[299:]
    one = done("log", server.data, "--key", "key042").splitlines()
    assert [line.split()[3] for line in one] == ["key042"] * 3
    with server.connect() as c:
        c.ask(b"flush_all 1000\r\n", b"OK\r\n")
    assert " flush * moment=" in done("log", server.data, "--from", 308)


def test_log_beside_a_server_that_writes_and_compacts_finds_no_damage(new_server):
    server = new_server("--segment-size", "4m", "--sync", "os").start()
    stop = threading.Event()

    def write():
        with server.connect() as c:
            n = 0
            while not stop.is_set():
                c.ask(set_command(f"key{n % 50}", value(n)), b"STORED\r\n")
                n += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        last = 0
        while last < 3000:
            status, out, err = ctl("log", server.data)
            assert "damage" not in err and status == 0, err
            seqs = [int(line.split()[0]) for line in out.splitlines()]
            assert seqs == sorted(seqs)
            last = seqs[-1]
    finally:
        stop.set()
        thread.join()


def test_log_tells_damage_and_goes_on(store):
    whole = done("log", store.data).splitlines()
    path = segments(store)[1]
    offset, length, record = list(places(store, path))[3]
    flip(path, offset + length - 1)
    status, out, err = ctl("log", store.data)
    assert status == 1
    assert f"damage: {path} at offset {offset}" in err
    assert out.splitlines() == [line for line in whole if not line.startswith(f"{record.seq} ")]


# ---- compact ----

def log_bytes(server):
    """Without the zeros ahead of the tail."""
    return sum(len(path.read_bytes().rstrip(b"\0")) for path in (server.data / "log").iterdir())


def overwrite(server):
    """Ten segments of records, nearly all of them superseded."""
    with server.connect() as c:
        for n in range(80):
            c.send(set_command(f"key{n % 4}", b"%d " % n * 200_000))
        for n in range(80):
            c.expect(b"STORED\r\n")


def test_a_running_server_compacts_when_asked(new_server):
    server = new_server("--segment-size", "4m").start()
    overwrite(server)
    out = done("-port", server.port, "compact")
    assert out.startswith("compacted, the log has ")
    assert int(out.split()[-2]) < 8 << 20
    assert serves(server, ["key1"])["key1"] == b"77 " * 200_000
    server.stop()
    verified(server.data)


def test_a_stopped_servers_directory_is_compacted(new_server):
    server = new_server("--segment-size", "4m").start()
    overwrite(server)
    server.kill()
    assert done_with_log("compact", server.data).startswith("compacted, ")
    verified(server.data)
    assert log_bytes(server) < 8 << 20
    server.start()
    assert serves(server, ["key1"])["key1"] == b"77 " * 200_000


def done_with_log(*words):
    """Of a command that opens the store: its log lines go to the standard error."""
    status, out, err = ctl(*words)
    assert status == 0 and " error " not in err, (out, err)
    return out


def test_compact_says_why_not(server, tmp_path):
    assert "is in use" in fails("compact", server.data)
    assert "is no data directory" in fails("compact", tmp_path / "none")
    assert "no server answers" in fails("-port", harness.free_port(), "compact")


# ---- doctor ----

def test_doctor_has_a_line_a_question(tmp_path):
    status, out, err = ctl("doctor", tmp_path)
    assert err == ""
    verdicts = {line.split(": ")[0] for line in out.splitlines()}
    assert verdicts <= {"ok", "warn", "bad"}
    assert status == (1 if "bad" in verdicts else 0)
    for word in ("open files", "clock", "io_uring", "file system", "free space", "syncs: "):
        assert word in out
    assert os.listdir(tmp_path) == []
    assert "bad: cannot open" in ctl("doctor", tmp_path / "none")[1]
    assert ctl("doctor", tmp_path / "none")[0] == 1
