#!/usr/bin/env bash
# Names everything that this machine lacks to build and test DeepNode, each with the way to get it, before anything is
# built. Quick, and quiet where all is there. What CometBFT and the model need, their own scripts know.
set -euo pipefail
cd "$(dirname "$0")/.."

problems=0
report() { echo "doctor: $*" >&2; problems=$((problems + 1)); }

rust_needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
rust_hint="Get Rust >= $rust_needed with rustup: https://rustup.rs (or 'rustup update stable')"
for program in "${CARGO:-cargo}" rustc; do
  if ! command -v "$program" >/dev/null; then
    report "$program is missing. $rust_hint"
  fi
done
if command -v rustc >/dev/null; then
  rust_found=$(rustc --version | cut -d ' ' -f 2)
  if [[ $(printf '%s\n' "$rust_needed" "${rust_found%%-*}" | sort -V | head -n 1) != "$rust_needed" ]]; then
    report "Rust ${rust_found:-of unknown version} is too old. $rust_hint"
  fi
fi
if ! command -v "${CC:-cc}" >/dev/null; then
  report "the C compiler '${CC:-cc}' is missing. Get one from your package manager (Debian: apt-get install gcc libc6-dev; macOS: xcode-select --install)"
fi
if ! command -v "${CXX:-c++}" >/dev/null; then
  report "the C++ compiler '${CXX:-c++}' is missing, which compiles the CUDA kernels for the tests' emulator. Get one from your package manager (Debian: apt-get install g++; macOS: xcode-select --install)"
fi
tools/install-cometbft.sh --check || problems=$((problems + 1))
tools/fetch-model.sh --check || problems=$((problems + 1))

[[ $problems == 0 ]]
