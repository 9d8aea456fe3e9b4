"""Fixtures: each makes programs on demand and sees to their end."""

import os
import shutil

import pytest

pytest.register_assert_rewrite("harness", "pictures")

import harness  # noqa: E402 (behind the line that makes its assertions tell more)


_passed = pytest.StashKey()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.stash[_passed] = outcome.get_result().passed


def _maker(request, tmp_path, make):
    """(function that makes, function that finishes all that were made)"""
    made = []

    def factory(*args, **kwargs):
        directory = tmp_path / f"{make.__name__.lower()}{len(made)}"
        made.append(make(directory, *args, **kwargs))
        return made[-1]

    def finish():
        errors = []
        for process in reversed(made):
            try:
                process.finish()
            except AssertionError as error:
                errors.append(str(error))
            finally:
                process.kill()
        assert not errors, "\n".join(errors)
        # Files are kept where somebody will want to look at them; all of them would be gigabytes.
        if request.node.stash.get(_passed, False):
            for process in made:
                shutil.rmtree(process.directory)

    return factory, finish


@pytest.fixture
def new_server(request, tmp_path):
    """new_server(*options) -> harness.Server, not yet started."""
    factory, finish = _maker(request, tmp_path, harness.Server)
    yield factory
    finish()


@pytest.fixture
def server(new_server):
    """A running ttserver with default options."""
    return new_server().start()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory):
    """One running ttserver for the tests of a file that do not disturb each other."""
    one = harness.Server(tmp_path_factory.mktemp("shared")).start()
    yield one
    try:
        one.finish()
    finally:
        one.kill()
    shutil.rmtree(one.data)


@pytest.fixture(scope="module")
def shared_memcached(tmp_path_factory):
    """Debian's memcached: what holds for both servers proves the test."""
    one = harness.Memcached(tmp_path_factory.mktemp("memcached")).start()
    yield one
    one.finish()


@pytest.fixture
def new_nginx(request, tmp_path):
    factory, finish = _maker(request, tmp_path, harness.Nginx)
    yield factory
    finish()


@pytest.fixture
def new_php(request, tmp_path):
    factory, finish = _maker(request, tmp_path, harness.PhpServer)
    yield factory
    finish()


def pytest_sessionstart():
    for program in (harness.TTSERVER, harness.TTCTL, harness.TTBENCH):
        if not os.access(program, os.X_OK):
            pytest.exit(f"there is no program {program}: build it (make), or name another place by "
                        "TTSERVER, TTCTL, TTBENCH", returncode=4)
