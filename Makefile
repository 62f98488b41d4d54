.PHONY: help lint test
help:
	@echo "make lint   formatting and clippy"
	@echo "make test   the tests"
lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
test:
	cargo test --workspace --locked
