#!/usr/bin/env bash
# The pictures and the table of docs/explain.md: the paper's network on the flowers, four maps, and whether they hold.
#     reproduce/explain.sh FLOWERS OUT        FLOWERS holds train/ and val/: `alexnet data get flowers`, then bench/flowers_split.sh
set -euo pipefail
PATH="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH" # what `make demo` and `make test` set up, if they did
run="$2/run" out="$2" pictures="$1/val"
alexnet train "$1" --variant paper --recipe fast --epochs 25 --run "$run"
small() { python -c 'import sys; from PIL import Image
picture = Image.open(sys.argv[1]).convert("RGB")
picture.thumbnail((900, 900), Image.Resampling.LANCZOS)
picture.save(sys.argv[2], quality=85)' "$1" "$2"; }
of() {  # PICTURE METHOD NAME
  alexnet explain "$run" "$pictures/$1" --by "$2" --out "$out/$3.png"
  small "$out/$3.png" "$out/$3.jpg"
}
of sunflowers/1022552036_67d33d5bd8_n.jpg gradcam sunflowers-gradcam
of dandelion/10477378514_9ffbcec4cf_m.jpg occlusion dandelion-occlusion
of daisy/10172379554_b296050f82_n.jpg integrated-gradients daisy-integrated-gradients
of roses/12045735155_42547ce4e9_n.jpg guided roses-guided
of tulips/10094731133_94a942463c.jpg occlusion tulips-occlusion
python "$(dirname "$0")/../bench/deletion.py" "$run" "$1"
