#!/usr/bin/env bash
# Fine-tuning a run trained on other pictures beside training from scratch in the same time, at three sizes of the training set,
# two seeds. About three quarters of an hour on two cores with bf16.
#     reproduce/finetune.sh FLOWERS STAMPS OUT        FLOWERS as for flowers.sh; STAMPS: usr/share/tuxpaint/stamps of Debian's
#                                                     package tuxpaint-stamps-default (`apt-get download`, `dpkg -x`)
set -euo pipefail
PATH="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH" # what `make demo` and `make test` set up, if they did
python "$(dirname "$0")/../bench/finetune.py" "$1" "$2" --out "$3" --pictures 6000 --first 30000 --seeds 0 1
