#!/bin/bash
#
# run.sh PORT DATA - builds what is to be built and serves on 127.0.0.1:PORT until Ctrl-C (`make run`).
set -u

port=$1
data=$2

# Prints the first port from $1 on that can be bound on 127.0.0.1; nothing when there is none.
first_free_port()
{
    /usr/bin/python3 - "$1" <<'EOF'
import socket, sys
for port in range(int(sys.argv[1]), 65536):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            continue
        print(port)
        break
EOF
}

if ! [[ $port =~ ^[0-9]{1,5}$ ]] || [ "$port" -lt 1 ] || [ "$port" -gt 65535 ]; then
    echo "PORT=$port is not a port number (1 to 65535)" >&2
    exit 2
fi

# Without a word when all is up to date.
mkdir -p build
if ! [ -e build/ttserver ]; then
    echo "building ttserver (log: build/build.log) ..." >&2
fi
if ! "${MAKE:-make}" --no-print-directory -s all >build/build.log 2>&1; then
    cat build/build.log >&2
    echo "the build failed" >&2
    exit 1
fi

free=$(first_free_port "$port")
if [ "$free" != "$port" ]; then
    echo "port $port of 127.0.0.1 is taken${free:+; this one is free: make run PORT=$free}" >&2
    exit 1
fi

# At a terminal, job control puts ttserver into the foreground alone: Ctrl-C reaches it and not make, so that a clean
# stop is exit 0 of make too. Should this shell be killed, the kernel ends ttserver.
[ -t 0 ] && set -m
setpriv --pdeathsig TERM build/ttserver -host 127.0.0.1 -port "$port" "$data"
exit $?
