"""A disk that refuses: after a failed sync nothing is written until a restart, reads go on, and it
is said everywhere; other failing calls refuse the write that met them and no other.

tests/faults/faults.c stands between the server and its disk."""

import json
import pathlib

import pytest

import harness

EIO, ENOSPC = 5, 28


def _library():
    """It is built with the unit tests."""
    beside = pathlib.Path(harness.TTSERVER).parent / "tests" / "faults" / "faults.so"
    for path in (beside, harness.ROOT / "build/asan/tests/faults/faults.so"):
        if path.exists():
            return path
    pytest.skip(f"{beside} is not built")


@pytest.fixture
def faulty(new_server, tmp_path):
    """faulty(*options) -> a running server; server.rules(...) makes its calls fail."""
    def make(*options):
        server = new_server(*options)
        rules = tmp_path / "faults"
        server.more_environment = {"LD_PRELOAD": str(_library()), "FAULTS_FILE": str(rules)}

        def set_rules(*lines):
            if lines:
                rules.with_suffix(".new").write_text("".join(f"{line}\n" for line in lines))
                rules.with_suffix(".new").rename(rules)
            else:
                rules.unlink(missing_ok=True)

        server.rules = set_rules
        return server.start()

    return make


def _ask(server, request):
    with server.connect() as c:
        c.send(request)
        return c.line()


def _set(server, key, value):
    return _ask(server, b"set %s 0 0 %d\r\n%s\r\n" % (key, len(value), value))


def _get(server, key):
    with server.connect() as c:
        c.send(b"get %s\r\n" % key)
        reply = c.until(b"END\r\n")
    return reply.split(b"\r\n")[1] if reply != b"END\r\n" else None


def _health(server, page):
    with server.connect() as c:
        c.send(b"GET /-/%s HTTP/1.0\r\n\r\n" % page.encode())
        head, _, body = c.rest().partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


@pytest.mark.parametrize("error, words", [(EIO, "Input/output error"),
                                          (ENOSPC, "No space left on device")])
def test_after_a_failed_sync_nothing_is_written_until_a_restart(faulty, error, words):
    server = faulty()
    assert _set(server, b"a", b"1") == b"STORED\r\n"
    server.rules(f"fdatasync .seg {error}")
    assert _set(server, b"b", b"2").startswith(b"SERVER_ERROR ")
    # The disk is well again: what it has lost it has lost.
    server.rules()
    assert _set(server, b"c", b"3").startswith(b"SERVER_ERROR ")
    assert _ask(server, b"delete a\r\n").startswith(b"SERVER_ERROR ")
    with server.connect() as c:
        c.send(b"PUT /d HTTP/1.0\r\nContent-Length: 1\r\n\r\nx")
        assert c.line().startswith(b"HTTP/1.1 503 ")
    assert _get(server, b"a") == b"1"

    assert _health(server, "ready")[0] == 200
    status, body = _health(server, "ready?for=write")
    assert status == 503
    state = json.loads(body)["state"]
    assert state.startswith("read-only: cannot sync ") and state.endswith(words), state
    assert words in _ask(server, b"ready write\r\n").decode()
    assert _ask(server, b"ready\r\n") == b"READY weight=100 lag_ms=0\r\n"
    assert server.stats()["read_only"] == "1"
    assert b"\nttserver_ready_for_write 0\n" in _health(server, "metrics")[1]
    assert server.log().count("no more writes are taken until a restart") == 1
    assert words in server.log()

    assert server.terminate() != 0
    server.check_sanitizers()
    server.start()
    assert _get(server, b"a") == b"1"
    assert _get(server, b"c") is None
    assert _set(server, b"c", b"4") == b"STORED\r\n"
    assert _health(server, "ready?for=write")[0] == 200
    assert "begins history" in server.log()


@pytest.mark.parametrize("call", ["write", "open"])
def test_a_failed_call_refuses_its_write_and_no_other(faulty, call):
    """An append that fails, and a segment that cannot be begun."""
    server = faulty("--segment-size", "4m")
    value = b"x" * 1000000
    with server.connect() as c:
        c.send(b"set a 0 0 1\r\n1\r\n")
        c.expect(b"STORED\r\n")
        server.rules(f"{call} .seg {EIO}")
        answers = set()
        for i in range(6):
            c.send(b"set b%d 0 0 %d\r\n%s\r\n" % (i, len(value), value))
            answers.add(c.line())
        assert any(answer.startswith(b"SERVER_ERROR ") for answer in answers), answers
        server.rules()
        c.send(b"set c 0 0 1\r\n3\r\n")
        c.expect(b"STORED\r\n")
    server.restart()
    assert _get(server, b"a") == b"1"
    assert _get(server, b"c") == b"3"


def test_an_index_that_cannot_be_written_costs_nothing(faulty):
    server = faulty()
    server.rules(f"write data.mdb {ENOSPC}")
    assert _set(server, b"a", b"1") == b"STORED\r\n"
    server.stop()
    assert "no last checkpoint" in server.log() and "No space left on device" in server.log()
    server.rules()
    server.start()
    assert _get(server, b"a") == b"1"
