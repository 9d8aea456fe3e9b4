"""Runs the long tests of what must never be lost, again and again with other seeds (called by `make torture`).

Parts of about a minute are drawn from a table until TORTURE_SECONDS are over: kill -9, power cuts, crashes in the middle
of a call, changed files, many threads. TORTURE_SEED, printed first, gives their order and the seed of each; the log of a
part, in build/torture-logs, begins with the command that repeats it. The last line is the sum of all counts.
"""

import os
import random
import sys
import threading
import time

import run_tests
from run_tests import BUILD, PYTEST

LOGS = os.path.join(BUILD, "torture-logs")
SECONDS = int(os.environ.get("TORTURE_SECONDS") or 3600)
PART_LIMIT = 1200  # a part that takes so long hangs

# What is run on: with sanitizers, and as fast as users have it.
BUILDS = {
    "asan": ["-Dbuildtype=debug", "-Doptimization=1", "-Db_sanitize=address,undefined"],
    "release-tests": ["--buildtype=release"],
}

# name, how often, test (tests/e2e/NAME.py, or a unit test's name), sizes
PARTS = [
    ("kill -9", 5, "test_crash.py", {"CRASH_ROUNDS": "30"}),
    ("power cuts", 5, "test_power.py", {"POWER_ROUNDS": "8", "POWER_STATES": "30"}),
    ("slow disk", 1, "test_slow_disk.py", {}),
    ("death in a call", 3, "logstore_crash", {"CRASH_ROUNDS": "200"}),
    ("changed files", 2, "logstore_mutations", {"TEST_ROUNDS": "1000"}),
    ("threads", 3, "logstore_threads", {"TEST_OPERATIONS": "40000"}),
    ("failing calls", 1, "logstore_sweep", {"TORTURE": "1"}),
]


class Draw:
    """Which part comes next; by whichever lane asks."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.lock = threading.Lock()
        self.count = 0

    def next(self):
        """(number, part, build, seed)"""
        with self.lock:
            self.count += 1
            part = self.rng.choices(PARTS, [part[1] for part in PARTS])[0]
            return self.count, part, self.rng.choice(sorted(BUILDS)), self.rng.randrange(2**31)


def run_part(number, part, build, seed):
    name, _, test, sizes = part
    title = f"{number:04} {name}, {build}"
    settings = [f"{key}={value}" for key, value in {"TEST_SEED": seed, **sizes}.items()]
    if test.endswith(".py"):
        junit = os.path.join(LOGS, f"{number:04}.xml")
        settings += [f"{key}={path}" for key, path in run_tests.program_paths(build).items()]
        command = ["env", *settings, *PYTEST, "--junitxml=" + junit, os.path.join("tests", "e2e", test)]
        run_tests.run_part(title, [command], PART_LIMIT, run_tests.count_junit, run_tests.SANITIZER_OPTIONS,
                           junit=junit)
    else:
        program = os.path.join(BUILD, build, "tests", "unit", "test_" + test)
        run_tests.run_part(title, [["env", *settings, program]], PART_LIMIT, env=run_tests.SANITIZER_OPTIONS)


def run_lane(draw, end):
    while True:
        run_part(*draw.next())
        if time.monotonic() >= end:
            return


def main():
    seed = os.environ.get("TORTURE_SEED") or str(random.SystemRandom().randrange(2**31))
    print(f"TORTURE_SEED={seed}", flush=True)
    run_tests.LOGS = LOGS
    run_tests.begin(LOGS)
    if all(run_tests.build(name, options, {"CC": "gcc"}) for name, options in BUILDS.items()):
        draw = Draw(seed)
        end = time.monotonic() + SECONDS
        lanes = [threading.Thread(target=run_lane, args=(draw, end), daemon=True) for _ in range(os.cpu_count() or 1)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
    return run_tests.end()


if __name__ == "__main__":
    sys.exit(main())
