#!/bin/bash
#
# test.sh [asan|tsan|fuzz|release]... - installs what tests need and runs them, all of them without arguments.
# The last line is `N passed, N failed`; logs lie in build/test-logs. FUZZ_SECONDS= bounds each fuzz target.
#
# test.sh torture - the long tests, drawn at random until TORTURE_SECONDS (3600) are over; logs lie in
# build/torture-logs. TORTURE_SEED= repeats the choices of an earlier run.
set -eu
cd "$(dirname "$0")/.."
scripts/setup.sh build test
if [ "${1-}" = torture ]; then
    exec /usr/bin/python3 scripts/torture.py
fi
exec /usr/bin/python3 scripts/run_tests.py "$@"
