#!/usr/bin/env bash
# Installs CometBFT into .tools/bin, or checks the one that COMETBFT names. Does nothing where the right one is there.
# With --check nothing is installed: it says what is missing for that.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.38.26
go_needed=1.23

say() { [[ ${check:-} ]] || echo "$*"; }
fail() { echo "install-cometbft: $*" >&2; exit 1; }

# The version that a binary reports, without the commit that some builds append; empty where it cannot be run.
version_of() { "$1" version 2>/dev/null | head -n 1 | sed 's/^v//; s/[+-].*//' || true; }

[[ ${1:-} == --check ]] && check=1

if [[ -n ${COMETBFT:-} ]]; then
  [[ -x $COMETBFT ]] || fail "COMETBFT=$COMETBFT is not an executable file"
  found=$(version_of "$COMETBFT")
  [[ $found == 0.38.* ]] || fail "COMETBFT=$COMETBFT is version ${found:-unknown}; 0.38.x is needed"
  say "CometBFT $found: $COMETBFT (from COMETBFT)"
  exit 0
fi

target=$PWD/.tools/bin/cometbft
if [[ -x $target && $(version_of "$target") == "$version" ]]; then
  say "CometBFT $version: $target"
  exit 0
fi

hint="Get Go >= $go_needed from https://go.dev/dl/ or your package manager (Debian: apt-get install golang-go),
or point COMETBFT at a cometbft 0.38.x binary (https://github.com/cometbft/cometbft/releases)."
command -v go >/dev/null || fail "Go is missing. $hint"
go_found=$(go env GOVERSION | sed 's/^go//; s/[^0-9.].*//')
[[ $(printf '%s\n' "$go_needed" "$go_found" | sort -V | head -n 1) == "$go_needed" ]] ||
  fail "Go $go_found is too old. $hint"
[[ ${check:-} ]] && exit 0

mkdir -p .tools/bin
echo "installing CometBFT $version into .tools/bin (one or two minutes)"
GOBIN=$PWD/.tools/bin CGO_ENABLED=0 go install "github.com/cometbft/cometbft/cmd/cometbft@v$version" ||
  fail "go install failed: it needs proxy.golang.org (or the GOPROXY you set), or set COMETBFT to a 0.38.x binary"
found=$(version_of "$target")
[[ $found == "$version" ]] || fail "$target reports version ${found:-unknown}, not $version"
echo "CometBFT $version: $target"
