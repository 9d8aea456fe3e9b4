#!/bin/sh
# Measures build/ttserver beside memcached, redis and nginx; see bench/README.md.
exec /usr/bin/python3 -B "$(dirname "$0")/run.py" "$@"
