#!/usr/bin/env bash
# OpenAI's Python SDK, unmodified, against a gateway with the real model: worker/tests/openai/test_sdk.py. The SDK comes
# from PyPI into .tools/, once; the program and the model have been made before (make programs).
set -euo pipefail
cd "$(dirname "$0")/.."

package=openai==3.57.0
sdk=.tools/openai-sdk
stamp=$sdk/.deepnode-version
worker=target/debug/deepnode-worker
models=${DEEPNODE_MODELS:-.models}

fail() { echo "test-openai: $*" >&2; exit 1; }

[[ -x $worker ]] || fail "$worker is missing: make programs"
python3 -m pip --version >/dev/null 2>&1 ||
  fail "Python 3 with pip is missing. Get it from your package manager (Debian: apt-get install python3-pip)"
python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [[ ! -f $stamp || $(<"$stamp") != "$package python$python" ]]; then
  rm -rf "$sdk"
  mkdir -p "$sdk"
  # Into a folder of its own: a virtual environment is a package more on Debian.
  python3 -m pip install --quiet --disable-pip-version-check --no-input --root-user-action ignore --target "$sdk" \
    "$package" >"$sdk/.log" 2>&1 || { cat "$sdk/.log" >&2; fail "cannot get $package from PyPI"; }
  echo "$package python$python" >"$stamp"
fi

# What an earlier test imported, or the file that it is imported from.
model=$(find "$models" -maxdepth 1 -name '*.dnm' 2>/dev/null | sort | head -n 1)
[[ $model ]] || model=$(find "$models" -maxdepth 1 -name '*.gguf' 2>/dev/null | sort | head -n 1)
[[ $model ]] || fail "there is no model in $models: make model"
PYTHONPATH=$PWD/$sdk PYTHONDONTWRITEBYTECODE=1 python3 worker/tests/openai/test_sdk.py "$worker" "$model"
