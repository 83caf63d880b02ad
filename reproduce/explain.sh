#!/usr/bin/env bash
# The pictures and the table of docs/explain.md: the paper's network on the flowers, four maps, and whether they hold.
#     reproduce/explain.sh FLOWERS OUT        FLOWERS holds train/ and val/: `alexnet data get flowers`, then bench/flowers_split.sh
set -euo pipefail
PATH="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH" # what `make demo` and `make test` set up, if they did
run="$2/run"
alexnet train "$1" --variant paper --recipe fast --run "$run"
of() { alexnet explain "$run" "$1/val/$2" --by "$3" --out "$4.png" "${@:5}"; }
