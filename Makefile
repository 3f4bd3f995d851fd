# SPDX-License-Identifier: Apache-2.0
# Short names for what meson and tools/ do. PREFIX and DESTDIR as usual; BUILD names the build tree.
BUILD ?= build
PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
MESON_FLAGS ?=

.PHONY: all setup check unit fuzz demo bench format install uninstall clean help

all: $(BUILD)/build.ninja
	ninja -C $(BUILD) -j $(JOBS)

$(BUILD)/build.ninja: | setup
	meson setup $(BUILD) --prefix $(PREFIX) $(MESON_FLAGS)

# Installs missing Debian packages (does nothing when none is missing).
setup:
	@tools/setup.sh test

# Everything: unit tests, fuzzers for a short time, end-to-end tests, rules about source and docs.
check: setup all
	tools/run-tests --build $(BUILD)

unit: all
	tools/run-tests --build $(BUILD) unit

# Fuzz each codec for FUZZ_SECONDS under ASan and UBSan, in a build tree of its own, with other
# inputs each time.
FUZZ_SECONDS ?= 60
FUZZ_SEED ?= random
fuzz: setup
	test -e $(BUILD)-fuzz/build.ninja || meson setup $(BUILD)-fuzz -Db_sanitize=address,undefined
	ninja -C $(BUILD)-fuzz -j $(JOBS)
	FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_SEED=$(FUZZ_SEED) tools/run-tests --build $(BUILD)-fuzz fuzz

demo: setup all
	demo/run.sh

# 77: what a part needs is missing, which it has said.
bench: setup all
	bench/run.sh
	bench/lazyfs.sh || [ $$? = 77 ]
	bench/lazyfs-far.sh 5 || [ $$? = 77 ]

format:
	tools/check-format.sh --fix

install: all
	meson configure $(BUILD) --prefix $(PREFIX)
	meson install -C $(BUILD)

uninstall:
	ninja -C $(BUILD) uninstall

clean:
	rm -rf $(BUILD) $(BUILD)-fuzz

help:
	@echo 'make            build build/src/cmd/ferry'
	@echo 'make check      run every test; ends with "N passed, N failed, N skipped"'
	@echo 'make unit       run the unit tests only'
	@echo 'make fuzz       fuzz each codec for FUZZ_SECONDS (60) under ASan and UBSan'
	@echo 'make demo       move a running program between two hosts made of namespaces, as root'
	@echo 'make bench      measure dump, restore, the gap and lazy files, beside CRIU and sshfs'
	@echo 'make format     rewrite the sources in the format that the check wants'
	@echo 'make install    PREFIX=/usr/local, DESTDIR='
