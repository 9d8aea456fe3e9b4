# The face of the build; meson does the work. `make help` lists what there is.

PORT = 1978
DATA = ./data
PREFIX = /usr/local
FUZZ_SECONDS = 60
TORTURE_SECONDS = 3600

bin = $(DESTDIR)$(PREFIX)/bin
programs = ttserver ttctl ttbench
ninja_files = build/release/build.ninja

all: $(ninja_files)
	@ninja -C build/release
	@ln -sf $(programs:%=release/%) build/

build/release/build.ninja:
	@scripts/setup.sh --check build || { echo "run: make deps"; exit 1; }
	@meson setup build/release --buildtype=release -Db_lto=true -Dtests=disabled

# Only what building needs is installed; the rest of the output is ttserver's own.
run:
	@scripts/setup.sh build
	@exec scripts/run.sh "$(PORT)" "$(DATA)"

deps:
	@scripts/setup.sh all

test:
	@scripts/test.sh

asan:
	@scripts/test.sh asan

tsan:
	@scripts/test.sh tsan

fuzz:
	@FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/test.sh fuzz

torture:
	@TORTURE_SECONDS=$(TORTURE_SECONDS) scripts/test.sh torture

lint:
	@scripts/lint.sh

format:
	@scripts/lint.sh --format

bench: all
	@scripts/setup.sh bench
	@bench/run.sh

install: all
	install -d $(bin)
	install -m 755 $(programs:%=build/release/%) $(bin)/

uninstall:
	rm -f $(programs:%=$(bin)/%)

clean:
	rm -rf build

help:
	@echo 'make                        build/ttserver, build/ttctl, build/ttbench (release)'
	@echo 'make run [PORT=] [DATA=]    build and serve on 127.0.0.1:$(PORT), data in $(DATA)'
	@echo 'make deps                   install all that building, testing, measuring need'
	@echo 'make test                   all tests; last line: N passed, N failed'
	@echo 'make asan | tsan            the tests of one sanitizer build'
	@echo 'make fuzz [FUZZ_SECONDS=]   every fuzz target for so many seconds ($(FUZZ_SECONDS))'
	@echo 'make torture [TORTURE_SECONDS=] [TORTURE_SEED=]'
	@echo '                            kill -9, power cuts and the like for so long ($(TORTURE_SECONDS))'
	@echo 'make lint | format          check everything by tools | format the C code'
	@echo 'make bench                  measure against memcached, redis and nginx'
	@echo 'make install | uninstall    to DESTDIR/PREFIX/bin (PREFIX=$(PREFIX))'
	@echo 'make clean                  remove build/ (not the data)'

.PHONY: all run deps test asan tsan fuzz torture lint format bench install uninstall clean help
