"""ttctl backup and restore: a copy of a store under load, its renewal, and a store as of a moment."""

import random
import subprocess
import threading
import time

import pytest

import harness
from test_ttctl import ctl, done, fails

SEGMENTS = ("--segment-size", "4m")


def tool(*words):
    """ttctl without a server: (exit status, output, messages)"""
    run = subprocess.run([harness.TTCTL, *map(str, words)], capture_output=True, text=True,
                         timeout=4 * harness.WAIT_S)
    return run.returncode, run.stdout, run.stderr


def put(connection, key, value, flags=0):
    connection.ask(b"set %s %d 0 %d\r\n%s\r\n" % (key.encode(), flags, len(value), value),
                   b"STORED\r\n")


def get(connection, key):
    found = harness.mc_get(connection, key)
    return None if found is None else found[0]


def restored(new_server, backup, tmp_path, *words):
    """A running server on what was restored from a backup."""
    data = tmp_path / f"restored-{time.monotonic_ns()}"
    status, out, err = tool("restore", backup, "--to", data, *words)
    assert status == 0, err
    harness.check_directory(data)
    return new_server(*SEGMENTS, data=data).start()


def fill(connection, count, rng, model, values=2000):
    for _ in range(count):
        key = f"k{rng.randrange(500)}"
        value = rng.randbytes(rng.randrange(values))
        put(connection, key, value)
        model[key] = value


def test_a_backup_is_the_store_at_its_moment(new_server, tmp_path):
    rng = random.Random(harness.test_seed())
    server = new_server(*SEGMENTS).start()
    model = {}
    with server.connect() as c:
        fill(c, 3000, rng, model)
        for i in range(3):
            model[f"big{i}"] = rng.randbytes((2 + i) << 20)
            put(c, f"big{i}", model[f"big{i}"], flags=i)
        c.ask(b"delete k1\r\n", b"DELETED\r\n" if "k1" in model else b"NOT_FOUND\r\n")
        c.ask(b"incr none 1\r\n", b"NOT_FOUND\r\n")
        model.pop("k1", None)
        done(server, "backup", str(tmp_path / "b"))
        fill(c, 1000, rng, {})
        put(c, "big0", b"overwritten")
        copy = restored(new_server, tmp_path / "b", tmp_path)
        with copy.connect() as r:
            assert {key: get(r, key) for key in model} == model
            assert get(r, "k1") is None
            assert int(copy.stats()["curr_items"]) == len(model)
            put(r, "new", b"value")
        assert get(c, "new") is None


def test_a_backup_is_renewed_by_what_is_new(new_server, tmp_path):
    """Nothing but the big value is overwritten: compaction leaves the segments as they are."""
    rng = random.Random(harness.test_seed())
    server = new_server(*SEGMENTS).start()
    backup = tmp_path / "b"
    model = {}

    def add(name):
        for i in range(10):
            model[f"{name}-{i}"] = rng.randbytes(1_000_000)
            put(c, f"{name}-{i}", model[f"{name}-{i}"])

    with server.connect() as c:
        add("first")
        model["big"] = rng.randbytes(3 << 20)
        put(c, "big", model["big"])
        done(server, "backup", str(backup))
        before = {path.name: path.stat().st_ino for path in backup.glob("*/*")}
        add("second")
        model["big"] = b"not big"
        put(c, "big", model["big"])
        harness.eventually(lambda: not list((server.data / "big").glob("*.val")),
                           "the superseded value's file is gone")
        done(server, "backup", str(backup))
        after = {path.name: path.stat().st_ino for path in backup.glob("*/*")}
        names = {path.name for path in server.data.glob("log/*.seg")}
    assert {name for name in after if name.endswith(".seg")} == names
    assert not any(name.endswith(".val") for name in after)
    # The newest segment of the first backup was copied, and is linked by now.
    closed = sorted(name for name in before if name.endswith(".seg"))[:-1]
    assert closed and all(before[name] == after[name] for name in closed)
    copy = restored(new_server, backup, tmp_path)
    with copy.connect() as r:
        assert {key: get(r, key) for key in model} == model


def test_a_backup_under_load_is_consistent(new_server, tmp_path):
    """Every connection writes its keys in rounds: in a copy a key may be at most one round ahead of
    the ones behind it, and nothing that was answered before the backup is missing."""
    server = new_server(*SEGMENTS).start()
    keys, stop = 40, threading.Event()
    answered = [0, 0]

    def write(name):
        with server.connect() as c:
            number = 0
            while not stop.is_set():
                number += 1
                for i in range(keys):
                    put(c, f"{name}-{i}", b"%d " % number + bytes(3000))
                answered[name] = number

    threads = [threading.Thread(target=write, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(3):
            harness.eventually(lambda: min(answered) > 3 * (turn + 1), "both write")
            floor = list(answered)
            done(server, "backup", str(tmp_path / "b"))
            copy = restored(new_server, tmp_path / "b", tmp_path)
            with copy.connect() as r:
                for name in range(2):
                    rounds = [int(get(r, f"{name}-{i}").split()[0]) for i in range(keys)]
                    assert min(rounds) >= floor[name]
                    assert sorted(rounds, reverse=True) == rounds
                    assert rounds[0] - rounds[-1] <= 1
            copy.stop()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_restore_to_a_moment(new_server, tmp_path):
    server = new_server(*SEGMENTS, "--keep-history", "1h").start()
    moments = []
    with server.connect() as c:
        for i in range(6):
            put(c, "key", b"%d" % i)
            put(c, "big", b"%d" % i + bytes(2 << 20))
            if i == 3:
                c.ask(b"flush_all\r\n", b"OK\r\n")
            put(c, f"only-{i}", b"x")
            # The moment itself is a millisecond of which nothing else is part.
            time.sleep(0.005)
            moments.append(time.time())
            time.sleep(0.005)
        done(server, "backup", str(tmp_path / "b"))
    for i, moment in enumerate(moments):
        copy = restored(new_server, tmp_path / "b", tmp_path, "--until", f"{moment:.3f}")
        with copy.connect() as r:
            if i == 3:
                assert get(r, "key") is None and get(r, "big") is None
            else:
                assert get(r, "key") == b"%d" % i
                assert get(r, "big") == b"%d" % i + bytes(2 << 20)
            first = 0 if i < 3 else 3
            expected = {f"only-{n}" for n in range(first, i + 1)}
            assert {f"only-{n}" for n in range(6) if get(r, f"only-{n}")} == expected
            put(r, "goes-on", b"there")
        copy.restart()
        with copy.connect() as r:
            assert get(r, "goes-on") == b"there"
        copy.stop()


def test_restore_refuses_a_moment_that_is_gone_and_names_the_earliest(new_server, tmp_path):
    rng = random.Random(harness.test_seed())
    server = new_server(*SEGMENTS).start()
    with server.connect() as c:
        put(c, "big", b"1" + bytes(2 << 20))
        time.sleep(0.005)
        moment = time.time()
        time.sleep(0.005)
        put(c, "big", b"2" + bytes(2 << 20))
        harness.eventually(lambda: len(list((server.data / "big").glob("*.val"))) == 1,
                           "the superseded value's file is gone")
        done(server, "backup", str(tmp_path / "b"))
    status, out, err = tool("restore", tmp_path / "b", "--to", tmp_path / "r", "--until",
                            f"{moment:.3f}")
    assert status == 1 and "the earliest time" in err, err
    assert not (tmp_path / "r").exists()
    earliest = err.split(" is ")[1].strip()
    copy = restored(new_server, tmp_path / "b", tmp_path, "--until", earliest)
    with copy.connect() as r:
        assert get(r, "big")[:1] == b"2"


def test_a_damaged_backup_is_not_restored(new_server, tmp_path):
    server = new_server(*SEGMENTS).start()
    with server.connect() as c:
        for i in range(100):
            put(c, f"k{i}", bytes(1000))
        done(server, "backup", str(tmp_path / "b"))
    segment = next((tmp_path / "b" / "log").glob("*.seg"))
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    status, out, err = tool("restore", tmp_path / "b", "--to", tmp_path / "r")
    assert status == 1 and str(segment) in err and "repair" in err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("words, message", [
    ((), "an argument is missing"),
    (("b",), "expected --to"),
    (("b", "--to", "r", "--until", "yesterday"), "is no time"),
    (("b", "--to", "r", "--until", "12:00"), "is no time"),
    (("b", "--to", "r", "--until", "2026-01-01T00:00:00X"), "is no time"),
])
def test_wrong_words_for_restore(tmp_path, words, message):
    status, out, err = tool("restore", *words)
    assert status == 2 and message in err


def test_what_is_no_backup_is_not_restored_and_nothing_is_overwritten(new_server, tmp_path):
    (tmp_path / "empty").mkdir()
    assert tool("restore", tmp_path / "empty", "--to", tmp_path / "r")[0] == 1
    assert tool("restore", tmp_path / "missing", "--to", tmp_path / "r")[0] == 1
    server = new_server().start()
    with server.connect() as c:
        put(c, "key", b"value")
    done(server, "backup", str(tmp_path / "b"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    status, out, err = tool("restore", tmp_path / "b", "--to", tmp_path / "full")
    assert status == 1 and "not empty" in err


def test_a_backup_goes_only_where_it_belongs(new_server, tmp_path):
    first, second = new_server().start(), new_server().start()
    done(first, "backup", str(tmp_path / "b"))
    assert "another store" in fails(second, "backup", str(tmp_path / "b"))
    assert "data directory" in fails(first, "backup", str(first.data))
    first.stop()
    assert ctl(first, "backup", str(tmp_path / "c"))[0] == 1
    assert not (tmp_path / "c").exists()


def test_a_backup_begins_while_the_only_thread_of_the_pool_removes_files(new_server):
    server = new_server("--io-threads", "1", "--sync", "interval").start()
    with server.connect() as c, server.connect() as http:
        for _ in range(5):
            for i in range(20):
                put(c, f"big{i}", bytes(1_100_000))
            c.send(b"".join(b"delete big%d\r\n" % i for i in range(20)))
            c.expect(b"DELETED\r\n")
            http.send(b"POST /-/backup HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
            reply = harness.read_response(http)
            assert reply.status == 200
            http.send(b"POST /-/backup/end?token=%s HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
                      % reply.body.split()[1])
            assert harness.read_response(http).status == 200
            c.expect(b"DELETED\r\n" * 19)


def test_leases_end_and_are_bounded(server):
    with server.connect() as c:
        def post(target):
            c.send(b"POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n" % target.encode())
            return harness.read_response(c)

        tokens = []
        for _ in range(4):
            reply = post("/-/backup?lease=3600")
            assert reply.status == 200
            tokens.append(reply.body.split()[1].decode())
        assert post("/-/backup").status == 503
        assert post(f"/-/backup/renew?token={tokens[0]}&lease=10").status == 200
        for token in tokens:
            assert post(f"/-/backup/end?token={token}").status == 200
            assert post(f"/-/backup/end?token={token}").status == 404
            assert post(f"/-/backup/renew?token={token}").status == 404
        token = post("/-/backup?lease=1").body.split()[1].decode()
        harness.eventually(lambda: post(f"/-/backup/end?token={token}").status == 404 or
                           "was not renewed" in server.log(), "the lease ends")
        for target in ("/-/backup?lease=0", "/-/backup?lease=x", "/-/backup/end",
                       "/-/backup/end?token=0", "/-/backup/renew?token=x"):
            assert post(target).status == 400, target
        c.send(b"GET /-/backup HTTP/1.1\r\nHost: h\r\n\r\n")
        assert harness.read_response(c).status == 405
