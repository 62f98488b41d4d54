#!/usr/bin/env bash
# `make test`: all tests of the workspace, then the network's tour, and a table of where the time went.
# V=1 shows all output; otherwise the output of what passed stays hidden, and failures come whole.
set -euo pipefail
shopt -s extglob
cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
verbose=${V:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CARGO_TERM_COLOR=never

began=$SECONDS
failed=0
total=0

now() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); } # milliseconds
clock() { printf '%02d:%02d' $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60)); }
progress() { printf '[%s] %s\n' "$(clock)" "$*"; }

# row NAME MILLISECONDS RESULT: a line of the table.
row() { printf '%-44s %8d.%d  %s\n' "$1" $(($2 / 1000)) $(($2 % 1000 / 100)) "$3" >>"$work/table"; }

# step NAME COMMAND...: a step whose output is its progress; nothing after it makes sense if it fails.
step() {
  local name=$1 from
  from=$(now)
  shift
  progress "$name"
  "$@" || { echo "$name failed" >&2; exit 1; }
  row "$name" $(($(now) - from)) ""
}

# quiet NAME FILTER COMMAND...: a step whose output is shown on failure; FILTER is what of its lines shows its progress.
quiet() {
  local name=$1 filter=$2 from result=ok
  from=$(now)
  shift 2
  progress "$name"
  if [[ $verbose ]]; then
    "$@" || result=FAILED
  else
    { "$@" 2>&1 || : >"$work/failed"; } | tee "$work/output" | while IFS= read -r line; do
      [[ $line =~ $filter ]] && progress "  ${line//$'\e'\[*([0-9])m/}"
    done || true
    if [[ -e $work/failed ]]; then
      rm "$work/failed"
      cat "$work/output"
      result=FAILED
    fi
  fi
  [[ $result == ok ]] || failed=1
  row "$name" $(($(now) - from)) "$result"
}

##### The programs and the tests, in one set of features (see the Makefile)

# The package of each test program, which cargo names in its JSON only.
compile() {
  make --no-print-directory programs &&
    "$cargo" test --workspace --locked --no-run --message-format=json-render-diagnostics >"$work/built" &&
    python3 - "$work/built" >"$work/packages" <<'PYTHON'
import json, os, sys
for line in open(sys.argv[1]):
    built = json.loads(line) if line.startswith("{") else {}
    if built.get("executable") and built["profile"]["test"]:
        print(os.path.basename(built["executable"]), os.path.basename(os.path.dirname(built["manifest_path"])))
PYTHON
}

##### The test programs

declare -A package
name="" from=0 result=""

# Ends the row of the test program that ran until now. What it said is shown if it failed.
close() {
  [[ $name ]] || return 0
  [[ $result ]] || { result="no result" failed=1; }
  [[ $verbose || $result != *"no result"* && $result != *FAILED* ]] || cat "$work/said"
  row "$name" $(($(now) - from)) "$result"
  name="" result=""
}

# open NAME: a test program starts.
open() {
  close
  name=$1 from=$(now)
  : >"$work/said"
  progress "$name"
}

# Reads what `cargo test` says, line by line.
watch() {
  local line program
  while IFS= read -r line; do
    case $line in
      "     Running "*)
        program=${line##*/}
        program=${program%)}
        line=${line#*Running }
        line=${line#unittests }
        open "${package[$program]:-$program} ${line%% (*}"
        ;;
      "   Doc-tests "*) open "${line#*Doc-tests } examples in documentation" ;;
      "test result: "*)
        [[ $line =~ ^"test result: "(ok|FAILED)". "([0-9]+)" passed; "([0-9]+)" failed; "([0-9]+)" ignored" ]] || continue
        total=$((total + BASH_REMATCH[2]))
        result="${BASH_REMATCH[2]} passed"
        [[ ${BASH_REMATCH[3]} == 0 ]] || result+=", ${BASH_REMATCH[3]} FAILED"
        [[ ${BASH_REMATCH[4]} == 0 ]] || result+=", ${BASH_REMATCH[4]} ignored"
        [[ ${BASH_REMATCH[1]} == ok ]] || failed=1
        ;;
      # #[ignore = "make TARGET"] says what runs it.
      "test "*" ... ignored"*)
        echo "$name: ${line#test }" >>"$work/ignored"
        [[ $line =~ ", make "[a-z-]+ ]] || { echo "ignored, and no make target is named: $line" >&2; failed=1; }
        ;;
      "test "*" has been running for over "*) progress "  $line" ;;
      "error"*) echo "$line" ;;
      *) if [[ $verbose ]]; then echo "$line"; else echo "$line" >>"$work/said"; fi ;;
    esac
  done
  close
}

run_tests() {
  local program folder status=0
  while read -r program folder; do package[$program]=$folder; done <"$work/packages"
  progress "${#package[@]} test programs"
  # Not a pipe into `watch`: it counts in this shell.
  watch < <("$cargo" test --workspace --locked --no-fail-fast 2>&1 || echo $? >"$work/status")
  [[ ! -e $work/status ]] || status=$(<"$work/status")
  [[ $status == 0 ]] || failed=1
}

: >"$work/table"
: >"$work/ignored"
: >"$work/said"
step "check of what the machine has" eval 'tools/doctor.sh && tools/test-openai.sh --check'
step "compiling programs and tests" compile
quiet "tools/test-doctor.sh" '^$' tools/test-doctor.sh
run_tests
# OpenAI's SDKs, unmodified.
quiet "tools/test-openai.sh" '^ok ' tools/test-openai.sh
# A real network of 4 validators and 3 workers, and its tour.
quiet "deepnode-localnet --demo" '== ' target/debug/deepnode-localnet --demo

printf '\n%-44s %10s  %s\n' step seconds tests
cat "$work/table"
if [[ -s $work/ignored ]]; then
  printf '\nignored, with what runs them:\n'
  cat "$work/ignored"
fi
printf '\n%d tests passed in %s' "$total" "$(clock)"
if [[ $failed != 0 ]]; then
  echo "; FAILED: see above"
  exit 1
fi
echo
