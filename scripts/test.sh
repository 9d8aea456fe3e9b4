#!/bin/bash
#
# test.sh [asan|tsan|fuzz|release]... - installs what tests need and runs them, all of them without arguments.
# The last line is `N passed, N failed`; logs lie in build/test-logs. FUZZ_SECONDS= bounds each fuzz target.
set -eu
cd "$(dirname "$0")/.."
scripts/setup.sh build test
exec /usr/bin/python3 scripts/run_tests.py "$@"
