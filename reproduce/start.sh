#!/usr/bin/env bash
# How the recipes as published begin on a small set, with their own initial values: when the loss leaves chance, if it does.
#     reproduce/start.sh FLOWERS OUT        about three hours on two cores
set -euo pipefail
python "$(dirname "$0")/../bench/start.py" "$1" --out "$2"
