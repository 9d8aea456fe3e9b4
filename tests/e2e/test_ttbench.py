"""ttbench against a running server: it verifies every value that it reads, so it is a test too."""

import json
import subprocess

import pytest

import harness


def bench(server, *options):
    """Runs ttbench and returns its figures; a mismatch, a miss or an error is a failure."""
    done = subprocess.run([harness.TTBENCH, "--port", str(server.port), "--json", *options],
                          capture_output=True, text=True, timeout=2 * harness.WAIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert figures["errors"] == figures["mismatches"] == figures["misses"] == 0
    return figures


@pytest.mark.tsan
@pytest.mark.parametrize("protocol", ["memcached", "http"])
def test_many_connections_read_what_they_wrote(server, protocol):
    """Each connection has keys of its own and must see exactly its last write."""
    figures = bench(server, "--protocol", protocol, "--connections", "20", "--pipeline", "4",
                    "--requests", "6000", "--duration", "60", "--keys", "400", "--read", "60",
                    "--value-size", "10,1k,20k,100k", "--own-keys", "--fill", "--pid",
                    str(server.pid))
    assert figures["completed"] >= 6000
    server.kill()
    server.start()
    bench(server, "--protocol", protocol, "--requests", "2000", "--keys", "400", "--value-size",
          "10,1k,20k,100k", "--connections", "10", "--duration", "60")


def test_an_open_loop_keeps_its_rate(server):
    figures = bench(server, "--fill", "--keys", "100", "--rate", "200", "--requests", "300",
                    "--duration", "60", "--read", "50")
    assert figures["completed"] >= 300


def test_wrong_values_are_found(server):
    """A record that somebody else has changed is not the one that ttbench knows."""
    bench(server, "--fill-only", "--keys", "10")
    with server.connect() as c:
        c.ask(harness.set_command("key-0000000003", b"x" * 1024), b"STORED\r\n")
    done = subprocess.run([harness.TTBENCH, "--port", str(server.port), "--keys", "10", "--json",
                           "--requests", "500", "--duration", "60"],
                          capture_output=True, text=True, timeout=2 * harness.WAIT_S)
    assert done.returncode == 1
    assert json.loads(done.stdout)["mismatches"] > 0, done.stdout
