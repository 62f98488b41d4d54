#!/usr/bin/env bash
# `make test-neon`: the engine's tests on aarch64, which qemu emulates where the machine is another. What is missing for
# that comes from Debian into .tools/neon: no root, and nothing on the machine changes but Rust's target, which rustup adds.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
target=aarch64-unknown-linux-gnu
tools=$PWD/.tools/neon
fail() { echo "test-neon: $*" >&2; exit 1; }

# Package files from Debian's archive with what they depend on, as far as the machine lacks it, unpacked into .tools/neon.
unpack() {
  command -v apt-get >/dev/null || fail "aarch64-linux-gnu-gcc, aarch64-linux-gnu-g++ or qemu-aarch64 is missing: install them"
  local apt=(-o Dir::State::Lists="$tools/apt/lists" -o Dir::Cache="$tools/apt/cache" -o APT::Sandbox::User=root -qq) packages
  echo "unpacking a cross compiler and qemu into .tools/neon (130 MB from Debian)"
  rm -rf "$tools"
  mkdir -p "$tools"/apt/{lists,cache/archives}/partial "$tools/debs"
  apt-get "${apt[@]}" update || fail "apt-get update failed"
  packages=$(apt-get "${apt[@]}" -s install --no-install-recommends "$@" | awk '/^Inst/ { print $2 }')
  # shellcheck disable=SC2086 # one word each
  (cd "$tools/debs" && apt-get "${apt[@]}" download $packages 2>/dev/null) || fail "apt-get download failed"
  for package in "$tools"/debs/*.deb; do dpkg -x "$package" "$tools"; done
  rm -r "$tools/debs" "$tools/apt"
  find "$tools/usr/bin" -name 'qemu-*' ! -name 'qemu-aarch64-static' -delete
  touch "$tools/complete"
}

# The first of these programs that there is.
first() {
  local name
  for name; do command -v "$name" && return; done
}

if [[ $(uname -m) != aarch64 ]]; then
  std=$(rustc --print target-libdir --target $target)
  if [[ ! -d $std ]]; then
    echo "adding Rust's target $target"
    rustup target add $target ||
      fail "no standard library in $std: get it with 'rustup target add $target', or from your distribution (Debian: libstd-rust-dev:arm64)"
  fi
  have() { first "$@" >/dev/null; }
  if ! have aarch64-linux-gnu-gcc || ! have aarch64-linux-gnu-g++ || ! have qemu-aarch64-static qemu-aarch64; then
    [[ -e $tools/complete ]] || unpack gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
    PATH=$tools/usr/bin:$PATH
    # The cross assembler's and linker's.
    export LD_LIBRARY_PATH=$tools/usr/lib/$(uname -m)-linux-gnu
  fi
  export CARGO_BUILD_TARGET=$target CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/neon
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
  # Static, so that qemu needs no libraries of the other architecture.
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static"
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$(first qemu-aarch64-static qemu-aarch64)
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER
fi

run() { "$cargo" test --locked -p deepnode-worker "$@"; }

# The first ARMv8, which has no arithmetic on halves: what uses it anyway stops with an illegal instruction.
export QEMU_CPU=cortex-a57
run --lib -- canon:: cpu:: engine:: model::dequant::
run --test bits --test engine --test batching --test goldens --test encoders
# All that qemu knows, where libraries choose other instructions.
QEMU_CPU=max run --test goldens
