#!/bin/bash
#
# lint.sh [--format] - format, warnings as errors by gcc and by clang, clang-tidy, shell syntax (`make lint`).
# --format writes the format instead of checking it. Everything is run; exit 1 if anything was found.
set -u
cd "$(dirname "$0")/.." || exit 1
scripts/setup.sh build lint || exit 1

mapfile -t c_files < <(git ls-files '*.c' '*.h')
found=0

step()
{
    echo "lint: $1"
    shift
    "$@" || {
        found=1
        echo "lint: ^^^ $1 failed"
    }
}

# Builds with warnings as errors; $1 names the compiler and the directory.
build_strictly()
{
    local dir=build/lint-$1

    if ! [ -e "$dir/build.ninja" ]; then
        CC=$1 meson setup "$dir" -Dwerror=true "${@:2}" >"$dir.log" 2>&1 || {
            cat "$dir.log"
            return 1
        }
    fi
    ninja --quiet -C "$dir"
}

check_lengths()
{
    local file lines rc=0

    for file in "${c_files[@]}"; do
        lines=$(wc -l <"$file")
        [ "$lines" -le 1000 ] || {
            echo "$file: $lines lines; a file has one topic and at most 1000"
            rc=1
        }
    done
    grep -nE '^.{101,}$' "${c_files[@]}" && {
        echo "lines longer than 100 columns"
        rc=1
    }
    return $rc
}

check_scripts()
{
    local file rc=0

    for file in scripts/*.sh bench/*.sh; do
        [ ! -e "$file" ] || bash -n "$file" || rc=1
    done
    /usr/bin/python3 - $(git ls-files '*.py') <<'EOF' || rc=1
import ast, sys
for name in sys.argv[1:]:
    ast.parse(open(name, encoding="utf-8").read(), name)
EOF
    return $rc
}

run_tidy()
{
    # What the lint build compiles, by its compile commands.
    printf '%s\n' "${c_files[@]}" | grep -E '^(src|tests/unit)/.*\.c$' |
        xargs -P "$(nproc)" -n 4 clang-tidy --quiet -p build/lint-clang 2>/dev/null
}

mkdir -p build
if [ "${1-}" = --format ]; then
    clang-format -i "${c_files[@]}"
    exit
fi
step "format" clang-format --dry-run -Werror "${c_files[@]}"
step "lengths" check_lengths
step "scripts" check_scripts
step "gcc, warnings as errors" build_strictly gcc
step "clang, warnings as errors" build_strictly clang -Dfuzz=true -Db_lundef=false
step "clang-tidy" run_tidy
[ $found -eq 0 ] && echo "lint: nothing found"
exit $found
