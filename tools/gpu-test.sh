#!/usr/bin/env bash
# `make gpu-test`: puts the test of CUDA cards, already built, into one folder that runs on any Linux machine with NVIDIA's
# driver, and runs it here where there is one.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=target/gpu-test
rm -rf "$folder"
mkdir -p "$folder"
strip -o "$folder/gpu-test" target/debug/examples/gpu-test
"$folder/gpu-test" --write "$folder/digests.toml"
cat >"$folder/run.sh" <<'RUN'
#!/bin/sh
# Fails where a card gives other bits than the CPU that wrote digests.toml; docs/kernels.md says how to read what it prints.
cd "$(dirname "$0")" && exec ./gpu-test digests.toml
RUN
chmod +x "$folder/run.sh"

size=$(du -sm "$folder" | cut -f 1)
if ((size >= 60)); then
  echo "$folder takes $size MB, must be below 60" >&2
  exit 1
fi
echo "$folder: $size MB. Copy it to a machine with a card, and start run.sh there."
if command -v nvidia-smi >/dev/null; then
  "$folder/run.sh"
else
  echo "This machine has no NVIDIA driver: nothing was run on a card."
fi
