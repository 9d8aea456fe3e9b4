"""Runs the parts of `make test` and counts (called by test.sh, which sees to the set-up).

Parts are commands with a time limit, in lanes that run side by side: a lane is one build and its tests, in order. A
part that fails does not stop the others, but without its build a lane cannot go on. Every part leaves a log in
build/test-logs; the last line of the output is the sum of all counts.
"""

import ctypes
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree

BUILD = os.path.abspath("build")
LOGS = os.path.join(BUILD, "test-logs")
PYTEST = ["/usr/bin/python3", "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider"]
FUZZ_SECONDS = int(os.environ.get("FUZZ_SECONDS", "5"))
PR_SET_CHILD_SUBREAPER = 36

print_lock = threading.Lock()
running = set()  # groups of processes to end when we are interrupted
totals = {"passed": 0, "failed": 0, "skipped": 0}
failed_logs = []


def say(text):
    with print_lock:
        print(text, flush=True)


def kill_group(pid, sig):
    try:
        os.killpg(pid, sig)
    except ProcessLookupError:
        pass


def run_command(args, log, limit, env):
    """Exit code of args, None when it outlived its limit. Output goes to the file log."""
    with open(log, "ab") as out:
        out.write(("$ " + " ".join(args) + "\n").encode())
        out.flush()
        try:
            proc = subprocess.Popen(
                args,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                start_new_session=True,
            )
        except OSError as error:
            out.write(f"{error}\n".encode())
            return 127
    running.add(proc.pid)
    try:
        return proc.wait(limit)
    except subprocess.TimeoutExpired:
        kill_group(proc.pid, signal.SIGTERM)
        try:
            proc.wait(10)
        except subprocess.TimeoutExpired:
            pass
        return None
    finally:
        kill_group(proc.pid, signal.SIGKILL)  # what the part left behind
        proc.wait()
        running.discard(proc.pid)


def count_exit_code(_where):
    """A part that is one test."""
    return 1, 0, 0, []


def count_nothing(_where):
    """A build: it counts when it fails only."""
    return 0, 0, 0, []


def count_meson(where):
    """The cmocka tests of each unit test program, from cmocka's lines in meson's own log."""
    passed = failed = skipped = 0
    names, excerpts = [], []
    with open(os.path.join(where["build"], "meson-logs", "testlog.json"), encoding="utf-8") as lines:
        for line in lines:
            test = json.loads(line)
            text = (test.get("stdout") or "") + (test.get("stderr") or "")
            bad = sorted(set(re.findall(r"^\[  FAILED  \] (?!\d+ test)(\S+)", text, re.M)))
            passed += len(re.findall(r"^\[       OK \] ", text, re.M))
            skipped += len(set(re.findall(r"^\[  SKIPPED \] (?!\d+ test)(\S+)", text, re.M)))
            if test["result"] not in ("OK", "SKIP") and not bad:
                bad = [f"{test['result']}, exit code {test.get('returncode')}"]  # a crash, a leak, the time limit
            failed += len(bad)
            names += [f"{test['name']}: {name}" for name in bad]
            if bad:
                excerpts.append(f"\n-- {test['name']}\n" + "\n".join(text.splitlines()[-30:]))
    with open(where["log"], "a", encoding="utf-8") as log:
        log.write("\n".join(excerpts) + "\n")
    return passed, failed, skipped, names


def count_junit(where):
    """What pytest wrote."""
    passed = failed = skipped = 0
    names = []
    for case in ElementTree.parse(where["junit"]).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
            names.append(f"{case.get('classname')}::{case.get('name')}")
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped, names


def run_part(name, commands, limit, count=count_exit_code, env=None, **where):
    """Runs the commands one after the other; counts; says how it went. True when all was well."""
    log = os.path.join(LOGS, name.replace(" ", "-") + ".log")
    started = time.monotonic()
    problem = None
    for args in commands:
        code = run_command(args, log, limit, env or {})
        if code != 0:
            problem = f"not done after {limit} s" if code is None else f"exit code {code}"
            break
    try:
        passed, failed, skipped, names = count({**where, "log": log})
    except (OSError, ValueError, ElementTree.ParseError) as error:
        passed, failed, skipped, names = 0, 0, 0, []
        problem = problem or f"no counts: {error}"
    if count is count_exit_code and problem:
        passed = 0
    if problem and failed == 0:
        failed = 1
        names.append(problem)
    finish_part(name, passed, failed, skipped, names, log, time.monotonic() - started)
    return failed == 0


def finish_part(name, passed, failed, skipped, names, log, seconds):
    counts = [f"{passed} passed"] if passed else []
    counts += [f"{failed} failed"] if failed else []
    counts += [f"{skipped} skipped"] if skipped else []
    lines = [f"{name:<18} {', '.join(counts) or 'done'} ({seconds:.0f} s)"]
    lines += [f"    FAILED {text}" for text in names]
    say("\n".join(lines))
    with print_lock:
        totals["passed"] += passed
        totals["failed"] += failed
        totals["skipped"] += skipped
        if failed:
            failed_logs.append(log)


def build(name, options, env=None):
    """Configures build/NAME where that was not done yet, and builds it."""
    path = os.path.join(BUILD, name)
    commands = [["ninja", "-C", path]]
    if not os.path.exists(os.path.join(path, "build.ninja")):
        commands.insert(0, ["meson", "setup", path] + options)
    return run_part(name + " build", commands, 900, count_nothing, env)


def program_paths(name):
    path = os.path.join(BUILD, name)
    return {
        "TTSERVER": os.path.join(path, "ttserver"),
        "TTCTL": os.path.join(path, "ttctl"),
        "TTBENCH": os.path.join(path, "ttbench"),
    }


SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "second_deadlock_stack=1",
}


def run_unit(build_name, part, args=(), prefix=()):
    path = os.path.join(BUILD, build_name)
    command = list(prefix) + ["meson", "test", "-C", path, "--no-rebuild", "--print-errorlogs", "-t", "3"]
    run_part(part, [command + list(args)], 600, count_meson, SANITIZER_OPTIONS, build=path)


def run_pytest(build_name, part, args, limit, prefix=()):
    junit = os.path.join(LOGS, part.replace(" ", "-") + ".xml")
    command = list(prefix) + PYTEST + ["--junitxml=" + junit] + args
    env = {**program_paths(build_name), **SANITIZER_OPTIONS}
    run_part(part, [command], limit, count_junit, env, junit=junit)


def lane_asan():
    options = ["-Dbuildtype=debug", "-Doptimization=1", "-Db_sanitize=address,undefined"]
    if build("asan", options, {"CC": "gcc"}):
        run_unit("asan", "asan unit")
        run_pytest("asan", "asan e2e", ["tests/e2e"], 1200)


def lane_tsan():
    options = ["-Dbuildtype=debug", "-Doptimization=1", "-Db_sanitize=thread"]
    if build("tsan", options, {"CC": "gcc"}):
        # ThreadSanitizer of gcc 12 cannot live with the widest address randomisation of newer kernels.
        fixed = ["setarch", "-R"]
        if subprocess.call(fixed + ["true"], stderr=subprocess.DEVNULL) != 0:
            fixed = []
        run_unit("tsan", "tsan unit", ["--suite", "concurrent"], fixed)
        run_pytest("tsan", "tsan e2e", ["-m", "tsan", "tests/e2e"], 900, fixed)


def lane_fuzz():
    options = ["-Dbuildtype=debug", "-Doptimization=1", "-Dfuzz=true", "-Dtests=disabled", "-Db_lundef=false"]
    if not build("fuzz", options, {"CC": "clang"}):
        return
    for source in sorted(glob.glob("tests/fuzz/fuzz_*.c")):
        run_fuzz_target(os.path.basename(source)[len("fuzz_"):-len(".c")])


def run_fuzz_target(name):
    """New inputs are kept in build/, findings beside the logs; the corpus in the repository is only read."""
    program = os.path.join(BUILD, "fuzz", "tests", "fuzz", "fuzz_" + name)
    found = os.path.join(BUILD, "fuzz-corpus", name)
    os.makedirs(found, exist_ok=True)
    command = [program, f"-max_total_time={FUZZ_SECONDS}", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]
    command += [f"-artifact_prefix={LOGS}/fuzz-{name}-"]
    words = os.path.join("tests", "fuzz", name + ".dict")
    if os.path.isfile(words):
        command.append(f"-dict={words}")
    corpus = os.path.join("tests", "fuzz", "corpus", name)
    command += [found] + ([corpus] if os.path.isdir(corpus) else [])
    run_part("fuzz " + name, [command], FUZZ_SECONDS + 120)


def lane_release():
    """What users build, by the commands they use."""
    if run_part("release build", [["make"]], 900, count_nothing):
        run_pytest("release", "set-up", ["tests/setup"], 300)


LANES = {"asan": [lane_asan], "tsan": [lane_tsan], "fuzz": [lane_fuzz], "release": [lane_release]}


def run_lanes(names):
    """Two at a time at most: the first beside all others, because it is the longest."""

    def run_all(lanes):
        for lane in lanes:
            lane()

    lanes = [lane for name in names for lane in LANES[name]]
    threads = [threading.Thread(target=run_all, args=(some,), daemon=True) for some in (lanes[:1], lanes[1:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def end_children():
    """Servers that outlived their test have become our children (subreaper)."""
    for stat in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(stat, encoding="utf-8", errors="replace") as file:
                pid, rest = int(stat.split("/")[2]), file.read().rpartition(")")[2].split()
            if int(rest[1]) == os.getpid():
                os.kill(pid, signal.SIGKILL)
        except (OSError, ValueError):
            pass


def show_failures():
    for log in failed_logs:
        print(f"\n---- the end of {os.path.relpath(log)}")
        with open(log, encoding="utf-8", errors="replace") as file:
            print("".join(file.readlines()[-100:]), end="")


def on_signal(number, _frame):
    for pid in list(running):
        kill_group(pid, signal.SIGKILL)
    end_children()
    os._exit(128 + number)


def begin(logs):
    """Before the first part: whatever ends us ends our children too; an empty directory for logs."""
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        os.environ.pop(name, None)  # tests that call make are no part of the make that called us
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    shutil.rmtree(logs, ignore_errors=True)
    os.makedirs(logs)


def end():
    """After the last part: the sum. The exit status."""
    end_children()
    show_failures()
    text = f"{totals['passed']} passed, {totals['failed']} failed"
    if totals["skipped"]:
        text += f", {totals['skipped']} skipped"
    print(text, flush=True)
    return 1 if totals["failed"] or not totals["passed"] else 0


def main():
    names = sys.argv[1:] or list(LANES)
    for name in names:
        if name not in LANES:
            sys.exit(f"usage: scripts/test.sh [{'|'.join(LANES)}]...")
    begin(LOGS)
    run_lanes(names)
    return end()


if __name__ == "__main__":
    sys.exit(main())
