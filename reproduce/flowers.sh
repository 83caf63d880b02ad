#!/usr/bin/env bash
# Recipe fast for twenty minutes beside torchvision's AlexNet for twenty minutes, two seeds each. Two hours on two cores.
#     reproduce/flowers.sh FLOWERS OUT        FLOWERS holds train/ and val/: `alexnet data get flowers`, then bench/flowers_split.sh
set -euo pipefail
PATH="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH" # what `make demo` and `make test` set up, if they did
python "$(dirname "$0")/../bench/flowers.py" "$1" --out "$2" --minutes 20 --seeds 0 1 --lr 0.01 0.02
