#!/usr/bin/env bash
# Every figure of docs/figures.md, from a run of the paper's network on photographs of five flowers, into docs/figures/.
#     reproduce/figures.sh FLOWERS [RUN]     FLOWERS holds train/ and val/: `alexnet data get flowers`, bench/flowers_split.sh
# A RUN that is there is taken as it is; else it is trained first, 25 epochs: 1,348 s on two cores of an Intel Xeon with
# AVX-512, as docs/figures.md has it.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
PATH="$root/.venv/bin:$PATH" # what `make demo` and `make test` set up, if they did
flowers="$1"
run="${2:-runs/flowers-fast-paper}"
out="$root/docs/figures"
mkdir -p "$out"
[ -e "$run/best" ] || alexnet train "$flowers" --recipe fast --variant paper --epochs 25 --run "$run"

draw() { alexnet figure "$@" --dpi 100; }
picture="$flowers/val/sunflowers/1022552036_67d33d5bd8_n.jpg"
draw network paper --out "$out/network.png"
draw network torchvision --out "$out/network-torchvision.png"
draw filters "$run" --out "$out/filters.png"
draw filters "$run" --over-time --out "$out/film.png"
draw predictions "$run" --out "$out/predictions.png"
draw neighbours "$run" --out "$out/neighbours.png"
draw curves "$run" --out "$out/curves.png"
draw views "$run" "$picture" --out "$out/views.png"
draw augment "$run" "$picture" --out "$out/augment.png"
draw maps "$run" "$picture" --out "$out/maps.png"
draw units "$run" --out "$out/units.png"
draw confusion "$run" --out "$out/confusion.png"

# Photographs as WebP, a fifth of the size: a page is not to weigh megabytes.
python - "$out" <<'PYTHON'
import sys
from pathlib import Path
from PIL import Image
for name in ("predictions", "neighbours", "views", "augment", "maps", "units"):
    path = Path(sys.argv[1]) / f"{name}.png"
    with Image.open(path) as image:
        image.convert("RGB").save(path.with_suffix(".webp"), quality=80, method=6)
    path.unlink()
PYTHON
