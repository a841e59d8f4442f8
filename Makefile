# What people run: a demo, the tests, the lints, the benchmarks. `make help` lists them.

CARGO ?= cargo

.PHONY: help demo test faults lint doc bench fuzz tsan neon clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: ## A hub and one real agent on this machine, a first command, and what to try next
	$(CARGO) run --quiet --bin muster -- demo

test: ## Everything that must be true: lints, unit and property tests, whole-system tests
	./scripts/test.sh

faults: ## Every fault at full length, about half an hour: a ledger's verdict on each, and which goals were met
	./scripts/servers.sh
	$(CARGO) build --bin muster
	MUSTER_TEST_LONG=1 $(CARGO) test --package muster-tests --test faults -- --test-threads=1

lint: ## Formatting, clippy, and the docs' links
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --quiet

doc: ## The crates' documentation, under target/doc
	$(CARGO) doc --workspace --no-deps

bench: ## The benchmarks, about a quarter of an hour; results in benches/results, explained in benches/README.md
	$(CARGO) build --release --package muster
	$(CARGO) build --release --package muster-benches
	./target/release/muster-load all
	$(CARGO) bench --package muster-benches --bench core
	./target/release/muster-load core
	-./benches/strip-peers/install.sh # without it the runtimes' rows say that they were not found
	$(CARGO) bench --package muster-benches --bench peers -- growth
	$(CARGO) bench --package muster-benches --bench peers

fuzz: ## Each fuzz target for SECONDS (60): the stripper, the views, the codec, uploads
	./scripts/fuzz.sh $(or $(SECONDS),60)

tsan: ## The core's concurrent tests under ThreadSanitizer (needs a nightly toolchain)
	./scripts/tsan.sh

neon: ## The stripper's NEON code in an emulator (needs qemu-user)
	./scripts/neon.sh

clean: ## Remove what was built
	$(CARGO) clean
