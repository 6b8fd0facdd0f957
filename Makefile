# SPDX-License-Identifier: BSD-3-Clause
# A thin front for Meson. `make help` lists what there is.

PREFIX  ?= /usr/local
DESTDIR ?=
LISTEN  ?= 127.0.0.1:3260
BUILD   ?= build
SEEDS   ?= 20000
export LISTEN

.DEFAULT_GOAL := all
.PHONY: all help serve check check-long fuzz sim-long recovery-long vm bench faults install clean distclean deps

all: deps $(BUILD)/build.ninja
	ninja -C $(BUILD)

$(BUILD)/build.ninja:
	meson setup --buildtype=release -Dtests=false --prefix=$(PREFIX) $(BUILD)

deps:
	@tools/deps.sh build

help:
	@sed -n 's/^#: //p' Makefile

#: make            build the optimized programs in build/
#: make serve      build, then serve a RAM disk and a file disk on 127.0.0.1:3260 (LISTEN=ADDR:PORT)
#: make check      build and run every test (.ci/run is this)
#: make check-long the same with long simulation, fuzzing and all guest scenarios
#: make fuzz       libFuzzer on every target (FUZZ_SECONDS=60 each)
#: make sim-long   many more simulated seeds (SEEDS=20000)
#: make recovery-long  thousands of faults between initiator and server, over the wire (FAULTS=500 of each kind and direction)
#: make vm         a real Linux initiator in a QEMU guest: all scenarios
#: make bench      side by side with a lower bound and tgt
#: make faults     plant twenty faults, list which test catches each (docs/faults.md)
#: make install    PREFIX=/usr/local DESTDIR=
#: make clean      remove build folders

serve: all
	@tools/serve.sh $(BUILD)

check:
	@tools/deps.sh build test
	@tools/deps.sh vm || echo "The guest scenarios will be skipped."
	@tests/run

check-long: check
	$(MAKE) sim-long fuzz vm

fuzz:
	@tools/deps.sh build test
	@tests/run fuzz

sim-long:
	@tools/deps.sh build test
	@LUNETTE_SIM_SEEDS=$(SEEDS) tests/run sim

recovery-long: all
	@for level in 1 2; do LUNETTED=$(BUILD)/src/lunetted/lunetted tests/system/recovery.py --level $$level \
		--faults $(or $(FAULTS),500) || exit 1; done

vm:
	@tools/deps.sh build test vm
	@tests/run vm

bench: all
	@tools/deps.sh build bench
	@bench/run.sh $(BUILD)

faults:
	@tools/deps.sh build test
	@tools/mutate.py

install: all
	DESTDIR='$(DESTDIR)' meson install -C $(BUILD) --no-rebuild

clean:
	rm -rf build build-test build-asan build-tsan build-clang build-fuzz build-faults build-bench
distclean: clean
