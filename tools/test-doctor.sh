#!/usr/bin/env bash
# Tests of tools/doctor.sh on machines that lack something: a copy of tools/ with a PATH of our own making.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r Cargo.toml tools "$work"
failures=0

# Puts a machine together that has the named programs; "name=text" is one that prints the text.
machine() {
  rm -rf "${work:?}/bin"
  mkdir "$work/bin"
  local program
  for program in bash env cut sed sort head dirname basename "$@"; do
    case $program in
      *=*) printf '#!/bin/sh\necho "%s"\n' "${program#*=}" >"$work/bin/${program%%=*}" ;;
      *) ln -s "$(command -v "$program")" "$work/bin/$program" ;;
    esac
  done
  chmod +x "$work"/bin/*
}

# What the doctor says there; with extra VAR=value arguments in its environment.
doctor() { env -i "PATH=$work/bin" "$@" "$work/tools/doctor.sh" 2>&1; }

# Runs the doctor and expects it to refuse, and to say each of the texts.
refuses() {
  local said text
  if said=$(doctor); then
    echo "test-doctor: nothing was refused, where '$1' was missing"
    failures=$((failures + 1))
  fi
  for text; do
    if [[ $said != *"$text"* ]]; then
      echo "test-doctor: '$text' is not in:"$'\n'"$said"
      failures=$((failures + 1))
    fi
  done
}

good=("rustc=rustc 99.0.0 (x)" "cargo=cargo 99.0.0" "cc=cc" "c++=c++" "go=go1.99.1" "python3=")

machine
refuses "cargo is missing" "rustc is missing" "rustup.rs" "C compiler 'cc' is missing" "C++ compiler 'c++' is missing" "Go is missing" "Python 3 is missing"
machine "${good[@]}" "rustc=rustc 1.70.0 (x)"
refuses "Rust 1.70.0 is too old"
machine "${good[@]}" "go=go1.9"
refuses "Go 1.9 is too old" "COMETBFT"
machine "${good[@]}"
printf '#!/bin/sh\nexit 1\n' >"$work/bin/python3"
refuses "pip is missing"
machine "${good[@]}"
if ! said=$(doctor) || [[ -n $said ]]; then
  echo "test-doctor: a machine that has everything was refused:"$'\n'"$said"
  failures=$((failures + 1))
fi
# A CometBFT of one's own needs no Go, if it is one.
machine "${good[@]}" "comet=v0.38.17+x" "old=0.37.2"
rm "$work/bin/go"
doctor COMETBFT="$work/bin/comet" >/dev/null || { echo "test-doctor: COMETBFT was not taken"; failures=$((failures + 1)); }
if said=$(doctor COMETBFT="$work/bin/old") || [[ $said != *"is version 0.37.2; 0.38.x is needed"* ]]; then
  echo "test-doctor: CometBFT 0.37 was taken: $said"
  failures=$((failures + 1))
fi

[[ $failures == 0 ]] && echo "doctor: ok"
