#!/usr/bin/env bash
# Builds llama.cpp's llama-bench and llama-batched-bench, the peers of `make bench-engine`, llama-quantize, which makes
# their quantised models, and llama-logits, a small program of ours on its library, into .tools/bin: from the source
# package of llama-cpp-python on PyPI, for this processor. Does nothing where they are there. Needs some minutes, once.
set -euo pipefail
cd "$(dirname "$0")/.."

package=llama-cpp-python==0.3.36
package_sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
programs=(llama-bench llama-batched-bench llama-quantize llama-logits)
bin=$PWD/.tools/bin
stamp=$PWD/.tools/llama-bench.version
built="$package ${programs[*]} $(cat tools/llama-logits/* | sha256sum)"

fail() { echo "install-llama-bench: $*" >&2; exit 1; }

if [[ -f $stamp && $(<"$stamp") == "$built" ]] && (cd "$bin" && ls "${programs[@]}" >/dev/null 2>&1); then
  echo "${programs[*]} of $package: $bin"
  exit 0
fi
python3 -m pip --version >/dev/null 2>&1 ||
  fail "Python 3 with pip is missing. Get it from your package manager (Debian: apt-get install python3-pip)"
command -v "${CXX:-c++}" >/dev/null ||
  fail "a C++ compiler is missing. Get it from your package manager (Debian: apt-get install g++)"
pip() { python3 -m pip --quiet --disable-pip-version-check --no-input "$@"; }

mkdir -p .tools/bin
work=$(mktemp -d .tools/llama-XXXXXX)
work=$PWD/$work
trap 'rm -rf "$work"' EXIT
echo "$package --hash=sha256:$package_sha256" >"$work/requirements.txt"
echo "fetching $package (77 MB)"
pip download --no-deps --no-binary llama-cpp-python --require-hashes --dest "$work" --requirement "$work/requirements.txt" ||
  fail "cannot download $package from PyPI"
mkdir "$work/source"
tar -xzf "$work"/*.tar.gz -C "$work/source" --strip-components 1
cmake=$(command -v cmake || true)
if [[ ! $cmake ]]; then
  echo "fetching cmake"
  pip install --target "$work/cmake" cmake || fail "cannot get cmake from PyPI; install it from your package manager"
  export PYTHONPATH=$work/cmake
  cmake=$work/cmake/bin/cmake
fi
echo "building ${programs[*]} for this processor (some minutes)"
"$cmake" -S tools/llama-logits -DLLAMA="$work/source/vendor/llama.cpp" -B "$work/build" -DCMAKE_BUILD_TYPE=Release \
  -DGGML_NATIVE=ON -DLLAMA_BUILD_COMMON=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF \
  -DLLAMA_BUILD_TOOLS=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF >"$work/log" 2>&1 || { tail -n 30 "$work/log" >&2; fail "cmake failed"; }
# What it compiles is its progress; its warnings are not ours.
"$cmake" --build "$work/build" --target "${programs[@]}" --parallel "$(getconf _NPROCESSORS_ONLN)" 2>"$work/log" | grep --line-buffered '^\[' ||
  { tail -n 30 "$work/log" >&2; fail "the build failed"; }
for program in "${programs[@]}"; do mv "$work/build/bin/$program" "$bin/$program"; done
echo "$built" >"$stamp"
echo "${programs[*]} of $package: $bin"
