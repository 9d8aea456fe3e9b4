"""scripts/setup.sh against a make-believe system: commands of its own before the real ones, and another root."""

import os
import pathlib
import signal
import stat
import subprocess

import pytest

SETUP = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "setup.sh"
OLD_POLICY = "#!/bin/sh\n# the administrator's\nexit 0\n"

# Notes how it was called and which policy-rc.d stood at that moment.
APT_GET = """#!/bin/sh
echo "$*" >>"$SETUP_ROOT/calls"
echo "$DEBIAN_FRONTEND" >"$SETUP_ROOT/frontend"
cp "$SETUP_ROOT/usr/sbin/policy-rc.d" "$SETUP_ROOT/policy-during"
case $* in
*install*) %s ;;
esac
"""


class System:
    """A PATH of links to all real commands but sudo, with some replaced; a root of its own."""

    def __init__(self, path):
        self.root = path / "root"
        self.bin = path / "bin"
        self.bin.mkdir(parents=True)
        for directory in ("usr/sbin", "run/lock"):
            (self.root / directory).mkdir(parents=True)
        for name in os.listdir("/usr/bin"):
            if name not in ("sudo", "apt-get"):
                (self.bin / name).symlink_to(f"/usr/bin/{name}")
        self.command("id", "#!/bin/sh\necho 0\n")
        self.command("apt-get", APT_GET % "true")
        self.command("systemctl", "#!/bin/sh\nexit 0\n")

    def command(self, name, text):
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def lose_php_modules(self):
        """php is there, but knows no memcache: two packages are missing."""
        self.command("php", '#!/bin/sh\ncase $* in *"\'memcache"*) exit 1 ;; esac\n')

    def install_by(self, action):
        self.command("apt-get", APT_GET % action)

    @property
    def policy(self):
        return self.root / "usr/sbin/policy-rc.d"

    @property
    def calls(self):
        calls = self.root / "calls"
        return calls.read_text().splitlines() if calls.exists() else []

    def start(self, *args):
        env = {**os.environ, "PATH": str(self.bin), "SETUP_ROOT": str(self.root)}
        return subprocess.Popen([SETUP, *args], env=env, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, start_new_session=True)

    def run(self, *args):
        process = self.start(*args)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output


@pytest.fixture
def system(tmp_path):
    return System(tmp_path)


def test_installs_nothing_when_all_is_there(system):
    assert system.run("build", "test") == (0, "")
    assert system.calls == []


def test_check_names_what_is_missing_and_installs_nothing(system):
    system.lose_php_modules()
    code, output = system.run("--check", "test")
    assert (code, system.calls) == (1, [])
    assert output == "missing (as Debian packages): php-memcache php-memcached\n"


def test_what_another_purpose_needs_is_not_missed(system):
    system.lose_php_modules()
    assert system.run("--check", "build") == (0, "")


def test_installs_only_what_is_missing_and_says_what_still_is(system):
    system.lose_php_modules()
    code, output = system.run("test")
    assert [call.split()[-1] for call in system.calls] == ["update", "php-memcached"]
    assert "--no-install-recommends install php-memcache php-memcached" in system.calls[1]
    assert (system.root / "frontend").read_text() == "noninteractive\n"
    assert code == 1 and "still missing after installation: php-memcache php-memcached" in output


def test_an_installation_that_helps_is_success(system):
    system.lose_php_modules()
    system.install_by(f"rm {system.bin}/php; ln -s /usr/bin/php {system.bin}/php")
    assert system.run("test")[0] == 0


@pytest.mark.parametrize("action", ["true", "exit 100"], ids=["success", "failure"])
@pytest.mark.parametrize("old", [None, OLD_POLICY], ids=["none before", "one before"])
def test_no_service_may_start_during_installation_and_the_policy_is_put_back(system, old, action):
    if old:
        system.policy.write_text(old)
    system.lose_php_modules()
    system.install_by(action)
    assert system.run("test")[0] == 1
    during = system.root / "policy-during"
    assert stat.S_IMODE(during.stat().st_mode) & 0o111
    assert subprocess.run([during], check=False).returncode == 101
    assert (system.policy.read_text() if system.policy.exists() else None) == old
    assert [path.name for path in system.policy.parent.iterdir()] == ([system.policy.name] if old else [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_policy_is_put_back_after_a_signal(system, number):
    system.policy.write_text(OLD_POLICY)
    system.lose_php_modules()
    # Everything in the session gets the signal, as at a terminal; the installation says when it has begun.
    system.install_by("echo begun; exec tail -f /dev/null")
    process = system.start("test")
    for line in process.stdout:
        if line == "begun\n":
            break
    os.killpg(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert system.policy.read_text() == OLD_POLICY


def test_a_policy_left_by_a_killed_run_is_mended_by_the_next(system):
    system.lose_php_modules()
    system.run("test")
    (system.root / "policy-during").rename(system.policy)
    saved = system.policy.with_name("policy-rc.d.saved-by-ttserver")
    saved.write_text(OLD_POLICY)
    system.run("test")
    assert system.policy.read_text() == OLD_POLICY and not saved.exists()


def test_neither_root_nor_sudo_is_said_with_what_is_missing(system):
    system.command("id", "#!/bin/sh\necho 1000\n")
    system.lose_php_modules()
    code, output = system.run("test")
    assert (code, system.calls) == (1, [])
    assert "neither root nor sudo" in output and "php-memcache php-memcached" in output


def test_sudo_is_used_when_not_root(system):
    system.command("id", "#!/bin/sh\necho 1000\n")
    system.command("sudo", '#!/bin/sh\necho by sudo\nshift\nexec "$@"\n')
    system.lose_php_modules()
    assert "by sudo" in system.run("test")[1]
    assert len(system.calls) == 2


def test_another_system_than_debian_is_said_with_what_is_missing(system):
    (system.bin / "apt-get").unlink()
    system.lose_php_modules()
    code, output = system.run("test")
    assert code == 1 and "not Debian" in output and "php-memcache php-memcached" in output


def test_an_unknown_purpose_is_refused(system):
    code, output = system.run("tests")
    assert code == 2 and output.startswith("usage:")
