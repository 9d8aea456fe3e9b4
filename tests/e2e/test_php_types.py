"""PHP's values come back with the type and the value they had, through both of its extensions."""

import pathlib
import subprocess

import pytest

import harness

CLIENTS = ["memcached", "memcache"]
TYPES_SCRIPT = pathlib.Path(__file__).with_name("php_types.php")
TYPES = 31

CONNECT = {
    "memcached": '$m = new Memcached(); $m->addServer("127.0.0.1", (int)$argv[1]);'
                 'function put($m, $k, $v, $ttl) { return $m->set($k, $v, $ttl); }',
    "memcache": '$m = new Memcache(); $m->connect("127.0.0.1", (int)$argv[1], 5);'
                'function put($m, $k, $v, $ttl) { return $m->set($k, $v, 0, $ttl); }',
}


def php(server, client, code):
    """Runs code with $m connected; returns what it prints."""
    done = subprocess.run(["php", "-d", "display_errors=stderr", "-r", CONNECT[client] + code, "--",
                           str(server.port)], capture_output=True, timeout=harness.WAIT_S)
    assert done.returncode == 0 and done.stderr == b"", done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture(params=CLIENTS)
def client(request):
    return request.param


def test_every_type_comes_back(shared_server, client):
    done = subprocess.run(["php", TYPES_SCRIPT, client, str(shared_server.port)], text=True,
                          capture_output=True, timeout=2 * harness.WAIT_S)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith("ok ")] == []
    assert len(lines) == TYPES


def test_null_of_memcache_is_stored_as_null(shared_server):
    """php-memcache gives false for null; what the server holds is null all the same."""
    assert php(shared_server, "memcache", 'echo (int)put($m, "null", null, 0);') == "1"
    with shared_server.connect() as c:
        value, _, _ = harness.mc_get(c, "null")
    assert value == b"N;"


def test_types_survive_a_crash(server, client):
    stored = 'foreach ([[1, 2.5, null], true, 7, "x"] as $i => $v) echo (int)put($m, "k$i", $v, 0);'
    assert php(server, client, stored) == "1111"
    server.kill()
    server.start()
    read = 'for ($i = 0; $i < 4; $i++) echo json_encode($m->get("k$i")), ";";'
    assert php(server, client, read) == '[1,2.5,null];true;7;"x";'


def test_one_second_expires(shared_server, client):
    assert php(shared_server, client, 'echo (int)put($m, "short", [1], 1);'
                                      'echo (int)put($m, "long", [1], 3600);') == "11"
    harness.eventually(lambda: php(shared_server, client, 'echo json_encode($m->get("short"));') ==
                       "false", "expiry of one second", 10)
    assert php(shared_server, client, 'echo json_encode($m->get("long"));') == "[1]"


def test_a_key_that_expires_was_there_before(shared_server, client):
    assert php(shared_server, client,
               'put($m, "k", "v", 60); echo $m->get("k");'
               'put($m, "k", "v", time() - 100); echo json_encode($m->get("k"));'
               'put($m, "k", "v", time() + 60); echo $m->get("k");') == "vfalsev"


def test_counters_and_conditions(shared_server, client):
    assert php(shared_server, client,
               '$m->delete("n"); put($m, "n", 40, 0);'
               'echo $m->increment("n", 2), ",", $m->decrement("n", 50), ",";'
               'echo json_encode($m->get("n")), ",", json_encode($m->increment("absent")),'
               '",", json_encode($m->add("n", 1)), json_encode($m->replace("absent", 1)),'
               'json_encode($m->delete("absent")), json_encode($m->delete("n"));') == \
        "42,0,0,false,falsefalsefalsetrue"


def test_memcached_sees_cas_and_many_keys(shared_server):
    assert php(shared_server, "memcached", '''
        $m->setMulti(["a" => [1], "b" => 2.5, "c" => "x"]);
        echo json_encode($m->getMulti(["a", "b", "none", "c"]));
        $one = $m->get("a", null, Memcached::GET_EXTENDED);
        echo json_encode($m->cas($one["cas"], "a", [2]));
        echo json_encode($m->cas($one["cas"], "a", [3]));
        echo json_encode($m->get("a")), json_encode($m->touch("a", 100)), json_encode($m->get("a"));
        $m->setOption(Memcached::OPT_COMPRESSION, false);
        $m->set("s", "b"); $m->append("s", "c"); $m->prepend("s", "a");
        echo $m->get("s");
    ''') == '{"a":[1],"b":2.5,"c":"x"}truefalse[2]true[2]abc'


def test_memcache_reads_many_keys(shared_server):
    assert php(shared_server, "memcache", '''
        $m->set("a", [1]); $m->set("b", 2.5); $m->set("c", "x");
        echo json_encode($m->get(["a", "b", "none", "c"]));
    ''') == '{"a":[1],"b":2.5,"c":"x"}'


def test_sessions_live_in_the_server(shared_server, client):
    """PHP's session handlers of both extensions, which lock, read, write and touch."""
    path = {"memcached": f"127.0.0.1:{shared_server.port}",
            "memcache": f"tcp://127.0.0.1:{shared_server.port}"}[client]

    def session(code):
        done = subprocess.run(
            ["php", "-d", f"session.save_handler={client}", "-d", f"session.save_path={path}",
             "-d", "memcached.sess_binary_protocol=Off", "-d", "display_errors=stderr", "-r",
             f'session_id("e2e{client}"); session_start(); {code} session_write_close();'],
            capture_output=True, timeout=harness.WAIT_S)
        assert done.returncode == 0 and done.stderr == b"", done.stderr.decode()
        return done.stdout.decode()

    session('$_SESSION["user"] = ["name" => "x", "roles" => [1, 2]];')
    assert session('echo json_encode($_SESSION["user"]);') == '{"name":"x","roles":[1,2]}'
