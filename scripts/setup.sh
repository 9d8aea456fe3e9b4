#!/bin/bash
#
# setup.sh - the one list of what ttserver needs from the system, and its installation on Debian.
#
#   scripts/setup.sh [--check] PURPOSE...     purposes: build test bench lint, or all
#
# Everything is looked for first as a command, header, library or module, whoever installed it; only what is not
# there is installed as a Debian package, by apt-get, as root or through sudo. --check names what is missing and
# installs nothing. Exit: 0 all is there, 1 something is missing, 2 wrong usage.
#
# Services that come with packages (nginx, memcached, redis) are not started, now or at the next boot: tests start
# their own.
set -u

# purpose  package  how to see that it is there
requirements='
build  gcc                 command gcc
build  libc6-dev           header stdio.h
build  meson               command meson
build  ninja-build         command ninja
build  pkg-config          command pkg-config
build  liblmdb-dev         library lmdb
build  libxxhash-dev       library libxxhash
build  liburing-dev        library liburing
build  libcurl4-openssl-dev  library libcurl
build  curl                command curl
build  node-llhttp         file /usr/share/llhttp/llhttp.c
test   libcmocka-dev       library cmocka
test   python3             command /usr/bin/python3
test   python3-pytest      python pytest
test   python3-pytest-timeout  python pytest_timeout
test   python3-pymemcache  python pymemcache
test   python3-pylibmc     python pylibmc
test   python3-requests    python requests
test   python3-pil         python PIL
test   python3-xxhash      python xxhash
test   python3-lmdb        python lmdb
test   php-cli             command php
test   php-memcached       php memcached
test   php-memcache        php memcache
test   php-gd              php gd
test   nginx               command nginx
test   memcached           command memcached
test   libmemcached-tools  command memccapable
test   clang               command clang
test   llvm                command llvm-symbolizer
test   libclang-rt-dev     fuzzer -
bench  memcached           command memcached
bench  redis-server        command redis-server
bench  nginx               command nginx
bench  python3             command /usr/bin/python3
lint   clang               command clang
lint   clang-format        command clang-format
lint   clang-tidy          command clang-tidy
lint   cppcheck            command cppcheck
lint   libcmocka-dev       library cmocka
'
services='nginx memcached redis-server'
root=${SETUP_ROOT-} # tests put another directory in front
policy=$root/usr/sbin/policy-rc.d
policy_saved=$policy.saved-by-ttserver
policy_mark='# made by ttserver scripts/setup.sh for the time of an installation'

die()
{
    echo "setup: $*" >&2
    exit 1
}

# Daemons live in sbin, which is not in every user's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

is_there()
{
    case $1 in
    command) command -v "$2" >/dev/null ;;
    file) [ -e "$2" ] ;;
    header) [ -e "/usr/include/$2" ] || [ -e "/usr/local/include/$2" ] ;;
    library) pkg-config --exists "$2" 2>/dev/null ;;
    python) /usr/bin/python3 -c "import $2" 2>/dev/null ;;
    php) php -r "exit(extension_loaded('$2') ? 0 : 1);" >/dev/null 2>&1 ;;
    fuzzer)
        echo 'int LLVMFuzzerTestOneInput(const char *d, long n) { return d == 0 && n; }' |
            clang -fsanitize=fuzzer,address -x c - -o /dev/null 2>/dev/null
        ;;
    *) die "no such check: $1" ;;
    esac
}

# Package names of what the given purposes miss, one a line.
missing_packages()
{
    local purposes=" $* " purpose package kind what

    while read -r purpose package kind what; do
        [ -n "$purpose" ] || continue
        [[ $purposes == *" $purpose "* || $purposes == *" all "* ]] || continue
        is_there "$kind" "$what" || echo "$package"
    done <<<"$requirements" | sort -u
}

# ---- the part that runs as root ----

put_policy_back()
{
    if [ -e "$policy_saved" ] || [ -L "$policy_saved" ]; then
        mv -f "$policy_saved" "$policy"
    elif grep -qsF "$policy_mark" "$policy"; then
        rm -f "$policy"
    fi
}

# While it stands, package scripts start and restart no service (exit 101: "forbidden by policy"). A file that is
# there already is set aside, and put back whatever happens; after a kill -9 the next run does that.
forbid_services()
{
    put_policy_back
    trap 'put_policy_back' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    if [ -e "$policy" ] || [ -L "$policy" ]; then
        mv "$policy" "$policy_saved" || die "cannot set $policy aside"
    fi
    printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" >"$policy" && chmod 755 "$policy" ||
        die "cannot write $policy"
}

# Packages enable their services for the next boot; those that came just now are disabled again.
disable_new_services()
{
    local service

    command -v systemctl >/dev/null || return 0
    for service in "$@"; do
        systemctl --quiet disable "$service.service" 2>/dev/null &&
            echo "setup: $service is installed, but not enabled as a service" >&2
    done
    return 0
}

is_installed()
{
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

install_as_root()
{
    local service new_services=() rc

    exec 9>"$root/run/lock/ttserver-setup.lock" && flock 9 # two checkouts at once
    for service in $services; do
        is_installed "$service" || new_services+=("$service")
    done
    export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 APT_LISTCHANGES_FRONTEND=none
    forbid_services
    # One source out of order must not stop us: what counts is whether the packages can be had.
    apt-get -q -o DPkg::Lock::Timeout=300 update || echo "setup: apt-get update had errors; going on" >&2
    apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold \
        --no-install-recommends install "$@"
    rc=$?
    for service in "${new_services[@]}"; do
        is_installed "$service" && disable_new_services "$service"
    done
    return $rc
}

# ---- the part of whoever called ----

install_packages()
{
    echo "setup: installing: $*" >&2
    if [ "$(id -u)" -eq 0 ]; then
        bash "$0" --as-root "$@"
    else
        sudo --preserve-env=http_proxy,https_proxy,no_proxy bash "$0" --as-root "$@"
    fi
}

main()
{
    local check_only=no purpose missing

    if [ "${1-}" = --as-root ]; then
        shift
        install_as_root "$@"
        return
    fi
    if [ "${1-}" = --check ]; then
        check_only=yes
        shift
    fi
    [ $# -gt 0 ] || set -- all
    for purpose in "$@"; do
        case $purpose in
        all | build | test | bench | lint) ;;
        *)
            echo "usage: scripts/setup.sh [--check] [all|build|test|bench|lint]..." >&2
            return 2
            ;;
        esac
    done

    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    missing=${missing//$'\n'/ }
    if [ $check_only = yes ]; then
        echo "missing (as Debian packages): $missing" >&2
        return 1
    fi
    command -v apt-get >/dev/null ||
        die "this is not Debian: please install what these Debian packages hold: $missing"
    [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null ||
        die "neither root nor sudo: please have these Debian packages installed: $missing"
    # shellcheck disable=SC2086 # a list of words
    install_packages $missing || die "could not install: $missing"
    missing=$(missing_packages "$@")
    [ -z "$missing" ] || die "still missing after installation: ${missing//$'\n'/ }"
}

main "$@"
