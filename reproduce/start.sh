#!/usr/bin/env bash
# How the recipes as published begin on a small set, with their own initial values: when the loss leaves chance, if it does.
#     reproduce/start.sh FLOWERS OUT        about three hours on two cores
set -euo pipefail
PATH="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH" # what `make demo` and `make test` set up, if they did
python "$(dirname "$0")/../bench/start.py" "$1" --out "$2"
