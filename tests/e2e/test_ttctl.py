"""ttctl against a running server: bytes, exit statuses, messages."""

import os
import socket
import subprocess
import threading

import pytest

import harness
from harness import free_port


def ctl(server, *words, stdin=b""):
    """(exit status, standard output, messages)"""
    done = subprocess.run([harness.TTCTL, "-port", str(server.port), *words], input=stdin,
                          capture_output=True, timeout=harness.WAIT_S)
    return done.returncode, done.stdout, done.stderr.decode()


def done(server, *words, **more):
    """The output of a command that must succeed without a word."""
    status, out, err = ctl(server, *words, **more)
    assert (status, err) == (0, "")
    return out


def fails(server, *words, **more):
    """The one line of a command that must fail."""
    status, out, err = ctl(server, *words, **more)
    assert (status, out) == (1, b"")
    assert err.count("\n") == 1 and err.startswith("ttctl: "), err
    return err


ALL_BYTES = bytes(range(256)) * 5 + b"\r\nEND\r\n"


@pytest.mark.parametrize("key", [
    "plain", "with blank", "a/b?c#d&e=f+g%41", "..", "../..", "a//b", "/", "ümläut/ß",
    "line\nfeed", "-x", "*",
])
def test_a_key_of_any_text_is_put_got_listed_and_deleted(server, key):
    assert done(server, "put", key, "--", "-v-") == b""
    assert done(server, "get", key) == b"-v-"
    assert done(server, "list") == key.encode() + b"\n"
    assert done(server, "out", key) == b""
    assert "no such key" in fails(server, "get", key)
    assert "no such key" in fails(server, "out", key)
    assert done(server, "list") == b""


def test_keys_of_any_bytes_are_reached_percent_encoded(server):
    key = b"".join(b"%%%02x" % byte for byte in range(256)).decode()
    done(server, "-e", "put", key, "v")
    listed = done(server, "-e", "list").decode().rstrip("\n")
    assert done(server, "-e", "get", listed) == b"v"
    assert done(server, "-e", "get", key) == b"v"
    done(server, "-e", "out", key)
    assert done(server, "list") == b""
    assert "percent-encoded" in fails(server, "-e", "get", "%4")


def test_the_empty_key_is_a_key(server):
    done(server, "put", "", "nothing")
    assert done(server, "get", "") == b"nothing"


def test_values_come_from_arguments_files_and_the_standard_input(server, tmp_path):
    path = tmp_path / "value"
    path.write_bytes(ALL_BYTES)
    done(server, "put", "file", "-f", str(path))
    done(server, "put", "input", stdin=ALL_BYTES)
    done(server, "put", "dash", "-", stdin=ALL_BYTES)
    done(server, "put", "argument", "text")
    done(server, "put", "empty", "")
    for key in ("file", "input", "dash"):
        assert done(server, "get", key) == ALL_BYTES
    assert done(server, "get", "argument") == b"text"
    assert done(server, "get", "empty") == b""


def test_a_value_of_megabytes_passes_from_a_file_and_a_pipe(server, tmp_path):
    value = os.urandom(1 << 20) * 5
    path = tmp_path / "value"
    path.write_bytes(value)
    done(server, "put", "file", "-f", str(path))
    done(server, "put", "pipe", stdin=value)
    assert done(server, "get", "file") == value
    assert done(server, "get", "pipe") == value


def test_a_list_of_many_pages_is_complete_and_in_order(server):
    keys = [f"key{n:05}" for n in range(3500)]
    with server.connect() as c:
        for key in keys:
            c.send(f"set {key} 0 0 1 noreply\r\nv\r\n".encode())
        c.ask(b"get key03499\r\n", b"VALUE key03499 0 1\r\nv\r\nEND\r\n")
    assert done(server, "list").decode().splitlines() == keys
    assert done(server, "list", "key0001").decode().splitlines() == keys[10:20]
    assert done(server, "list", "nothing") == b""


def test_stat_and_ping_speak_of_the_server(server):
    stat = dict(line.split(" ", 1) for line in done(server, "stat").decode().splitlines())
    assert stat["pid"] == str(server.pid)
    assert "curr_connections" in stat
    assert done(server, "ping").startswith(b"alive, answered in ")


def test_a_unix_socket_serves_as_well(new_server, tmp_path):
    path = tmp_path / "socket"
    server = new_server("--unix", path).start()
    for words, expected in ((["put", "k", "v"], b""), (["get", "k"], b"v")):
        out = subprocess.run([harness.TTCTL, "--unix", path, *words], stdout=subprocess.PIPE,
                             timeout=harness.WAIT_S, check=True).stdout
        assert out == expected
    subprocess.run([harness.TTCTL, "--unix", path, "stat"], stdout=subprocess.DEVNULL,
                   timeout=harness.WAIT_S, check=True)
    server.stop()


def test_what_cannot_be_done_is_one_line(new_server, tmp_path):
    server = new_server("--max-value", "1000").start()
    assert "--max-value" in fails(server, "put", "k", "v" * 1001)
    assert "-/" in fails(server, "get", "-/live")
    assert "is a directory" in fails(server, "put", "k", "-f", str(tmp_path))
    assert "No such file" in fails(server, "put", "k", "-f", str(tmp_path / "none"))
    assert "no such key" in fails(server, "get", "k")


def test_a_full_output_is_noticed(server):
    done(server, "put", "k", "v")
    with open("/dev/full", "wb") as full:
        status = subprocess.run([harness.TTCTL, "-port", str(server.port), "get", "k"], stdout=full,
                                stderr=subprocess.PIPE, timeout=harness.WAIT_S).returncode
    assert status == 1


class Nobody:
    """No server."""
    port = free_port()


@pytest.mark.parametrize("words", [["ping"], ["get", "k"], ["put", "k", "v"], ["list"], ["stat"]])
def test_without_a_server_it_says_so(words):
    assert f"no server answers at 127.0.0.1 port {Nobody.port}" in fails(Nobody, *words)


@pytest.mark.parametrize("words, said", [
    ([], "no command given"),
    (["frobnicate"], "unknown command frobnicate"),
    (["get"], "ttctl get KEY"),
    (["get", "a", "b"], "ttctl get KEY"),
    (["put", "k", "a", "b"], "expected a VALUE"),
    (["put", "k", "-x"], "expected a VALUE"),
    (["--color", "ping"], "unknown option --color"),
    (["-port", "0", "ping"], "from 1 to 65535"),
    (["--timeout", "x", "ping"], "from 1 to 86400"),
    (["-host"], "needs an argument"),
])
def test_wrong_usage_has_status_2(words, said):
    status, out, err = ctl(Nobody, *words)
    assert (status, out) == (2, b"")
    assert said in err


def test_help_names_every_command():
    status, out, err = ctl(Nobody, "--help")
    assert (status, err) == (0, "")
    for name in ("get", "put", "out", "list", "stat", "ping", "dump", "load", "compact", "backup",
                 "restore", "log", "verify", "repair", "rebuild-index", "doctor"):
        assert f"\n  {name} ".encode() in out


# What is no ttserver, or breaks off: (what it answers, the command, a word of the message)
@pytest.mark.parametrize("answer, words, said", [
    (b"", ["get", "k"], "Empty reply"),
    (b"220 mail.example ESMTP\r\n", ["get", "k"], ""),
    (b"220 mail.example ESMTP\r\n", ["stat"], ""),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", ["put", "k", "v"], "bytes remaining"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nno line", ["list"], "not understood"),
    (b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\noops", ["list"], "500: oops"),
    (b"STAT pid 1\r\n", ["stat"], ""),
])
def test_a_server_of_another_kind_is_a_failure_and_no_hang(answer, words, said):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        class Other:
            port = listener.getsockname()[1]

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert said in fails(Other, *words)
        thread.join(harness.WAIT_S)


def test_a_value_that_breaks_off_is_a_failure():
    """The bytes that came were written; the status says that they are not all."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

        class Other:
            port = listener.getsockname()[1]

        threading.Thread(target=serve, daemon=True).start()
        status, out, err = ctl(Other, "get", "k")
    assert (status, out) == (1, b"half")
    assert err.startswith("ttctl: ")
