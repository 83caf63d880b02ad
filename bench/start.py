"""How the recipes as published begin on a small image folder: when the loss leaves chance, if it does.

Each recipe is run as it stands, only the number of steps (and the batch size stated) given. Reported are the step at
which the smoothed training loss is 5 % under its value at chance, or that it never was, and the norms of gradients and
activations a layer at a few steps.

    python bench/start.py DATA --out start
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np

# recipe, steps, batch size
RUNS = (("paper", 800, 128), ("caffe", 800, 128), ("article", 2000, 10), ("article-printed", 2000, 10))
SMOOTH = 0.9  # of the last smoothed loss kept at each line of metrics.jsonl, that is every ten steps
SHOWN = (0, 200, 400, 800, 1200, 2000)


def left_chance(lines: list[dict], level: float) -> int | None:
    """The first step at which the smoothed loss is 5 % under `level`."""
    smoothed = None
    for line in lines:
        if line["split"] != "train":
            continue
        smoothed = line["loss"] if smoothed is None else SMOOTH * smoothed + (1 - SMOOTH) * line["loss"]
        if smoothed < 0.95 * level:
            return line["step"]
    return None


def report(run: Path, title: str) -> None:
    """Prints what a run folder says of its beginning."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    classes = len(json.loads((run / "classes.json").read_text()))
    level = math.log(classes)  # of uniform probabilities, for the article's softmax of a softmax too
    at = left_chance(lines, level)
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    if not losses:
        print(f"\n## {title}: the loss was not finite within ten steps")
        return
    print(f"\n## {title}: chance is {level:.4f}")
    print(f"loss of the first ten steps {losses[0]:.4f}, of the last {losses[-1]:.4f}, least {min(losses):.4f}")
    print(f"5 % under chance at step {at}" if at else "the smoothed loss was never 5 % under chance")
    layers = [line for line in lines if line["split"] == "layers"]
    near = {min(range(len(layers)), key=lambda i: abs(layers[i]["step"] - 1 - s)) for s in SHOWN}
    for what in ("activation_rms", "gradient_norm", "update_ratio"):
        print(f"\n{what}")
        names = [name for name in layers[0][what] if name.startswith(("conv", "fc"))]
        print("step    " + " ".join(f"{name:>9}" for name in names))
        for i in sorted(near):
            print(f"{layers[i]['step'] - 1:<7} " + " ".join(f"{layers[i][what][name]:9.2e}" for name in names))
    value = [line for line in lines if line["split"] == "val"]
    if value:
        print(f"\nvalidation at the end: top-1 {np.round(100 * value[-1]['top1'], 2)} %")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=Path)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--recipes", nargs="+", default=[run[0] for run in RUNS])
    a = p.parse_args()
    for recipe, steps, batch in RUNS:
        if recipe not in a.recipes:
            continue
        run = a.out / recipe
        command = [sys.executable, "-m", "alexnet", "train", str(a.data), "--recipe", recipe, "--run", str(run),
                   "--max-steps", str(steps), "--batch-size", str(batch), "--set", "validate_epochs=100"]  # fmt: skip
        done = subprocess.run(command, check=False)
        if done.returncode not in (0, 5):  # 5: the loss was not finite, which is an answer
            sys.exit(done.returncode)
        report(run, f"{recipe}, {steps} steps of {batch}")


if __name__ == "__main__":
    main()
