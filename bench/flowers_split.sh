#!/usr/bin/env bash
# The five flowers, as `alexnet data get flowers` leaves them, divided as the results table has them: 2,934 and 736.
#     bench/flowers_split.sh FLOWERS OUT        writes OUT/train and OUT/val; flowers-val.txt lists the latter
# The pictures of the table had been brought to a shorter side of 256 pixels before, and saved as JPEG again.
set -euo pipefail
list="$(cd "$(dirname "$0")" && pwd)/flowers-val.txt"
mkdir -p "$2/val"
cp -R "$1" "$2/train"
while read -r name; do
    mkdir -p "$2/val/$(dirname "$name")"
    mv "$2/train/$name" "$2/val/$name"
done < "$list"
