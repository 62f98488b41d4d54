#!/usr/bin/env bash
# OpenAI's SDKs for Python and JavaScript, unmodified, against a gateway with the real model, and against one in front of
# a chain: worker/tests/openai/. They come from PyPI and npm into .tools/, once; the program and the model have been made
# before (make programs). With --check nothing is fetched: it says what is missing for that.
set -euo pipefail
cd "$(dirname "$0")/.."

python_package=openai==3.57.0
# The newest for Node 20; later ones need 22.
node_package=openai@6.49.0
node_needed=20
tests=$PWD/worker/tests/openai
worker=$PWD/target/debug/deepnode-worker
models=${DEEPNODE_MODELS:-.models}

fail() { echo "test-openai: $*" >&2; exit 1; }

python3 -m pip --version >/dev/null 2>&1 ||
  fail "Python 3 with pip is missing. Get it from your package manager (Debian: apt-get install python3-pip)"
node_found=$(node --version 2>/dev/null || true)
node_hint="Get Node.js >= $node_needed with npm from https://nodejs.org (Debian: apt-get install nodejs npm)"
[[ $node_found ]] || fail "node is missing. $node_hint"
major=${node_found#v}
((${major%%.*} >= node_needed)) || fail "node $node_found is too old. $node_hint"
command -v npm >/dev/null || fail "npm is missing. $node_hint"
[[ ${1:-} != --check ]] || exit 0

[[ -x $worker ]] || fail "$worker is missing: make programs"

# fetch FOLDER WHAT COMMAND...: has COMMAND fill the folder, unless WHAT is there already.
fetch() {
  local folder=$1 what=$2
  shift 2
  [[ ! -f $folder/.deepnode-version || $(<"$folder/.deepnode-version") != "$what" ]] || return 0
  rm -rf "$folder"
  mkdir -p "$folder"
  "$@" >"$folder/.log" 2>&1 || { cat "$folder/.log" >&2; fail "cannot get $what"; }
  echo "$what" >"$folder/.deepnode-version"
}
mkdir -p .tools
python_sdk=$PWD/.tools/openai-sdk
node_sdk=$PWD/.tools/openai-sdk-node
python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# Into folders of their own: a virtual environment is a package more on Debian.
fetch "$python_sdk" "$python_package python$python" python3 -m pip install --quiet --disable-pip-version-check \
  --no-input --root-user-action ignore --target "$python_sdk" "$python_package"
fetch "$node_sdk" "$node_package" npm install --silent --no-audit --no-fund --prefix "$node_sdk" "$node_package"

# What an earlier test imported, or the file that it is imported from.
model=$(find -L "$models" -maxdepth 1 -name '*.dnm' 2>/dev/null | sort | head -n 1)
[[ $model ]] || model=$(find -L "$models" -maxdepth 1 -name '*.gguf' 2>/dev/null | sort | head -n 1)
[[ $model ]] || fail "there is no model in $models: make model"
encoder=$models/all-MiniLM-L6-v2
[[ -d $encoder ]] || fail "there is no encoder in $models: make model"
PYTHONPATH=$python_sdk PYTHONDONTWRITEBYTECODE=1 python3 "$tests/test_sdk.py" "$worker" "$model" "$encoder"
# Node looks for packages beside the file that imports them.
cp "$tests/test_sdk.mjs" "$node_sdk/"
node "$node_sdk/test_sdk.mjs" "$worker" "$model" "$encoder"

# And against a gateway in front of a chain, with real workers: --workspace, as all tests were compiled, or cargo compiles most
# crates anew for the features of one package.
cp "$tests/test_chain.mjs" "$node_sdk/"
PYTHONPATH=$python_sdk PYTHONDONTWRITEBYTECODE=1 DEEPNODE_SDK_PYTHON="python3 $tests/test_chain.py" \
  DEEPNODE_SDK_NODE="node $node_sdk/test_chain.mjs" \
  "${CARGO:-cargo}" test -q --workspace --test gateway --locked unmodified_sdks_buy_answers -- --ignored --nocapture
