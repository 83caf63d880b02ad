"""`alexnet train DATA --recipe fast --max-time 20m` beside torchvision's AlexNet in the same time.

Each run is a process of its own, one after another, on all cores; a run that stands in OUT already is not run again.
Both sides are judged by their last state, never by their best, with 1 and 10 views; `DATA/val` decides
nothing but the peer's rate, in its favour.

    python bench/flowers.py DATA --out flowers-bench --minutes 20 --seeds 0 1 --lr 0.01 0.02
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from alexnet.evaluation.paired import mcnemar
from alexnet.evaluation.predictions import read_predictions
from alexnet.evaluation.score import wilson

HERE = Path(__file__).parent


def peer(data: Path, out: Path, *, lr: float, seed: int, minutes: float) -> Path:
    folder = out / f"peer-lr{lr:g}-seed{seed}"
    if not (folder / "result.json").exists():
        command = [sys.executable, str(HERE / "flowers_peer.py"), str(data), "--lr", str(lr), "--seed", str(seed),
                   "--minutes", str(minutes), "--out", str(folder)]  # fmt: skip
        subprocess.run(command, check=True)
    return folder


def ours(data: Path, out: Path, *, seed: int, minutes: float) -> Path:
    folder = out / f"fast-seed{seed}"
    if not (folder / "val-10.json").exists():
        train = [sys.executable, "-m", "alexnet", "train", str(data), "--recipe", "fast", "--max-time", f"{minutes:g}m",
                 "--seed", str(seed), "--run", str(folder)]  # fmt: skip
        subprocess.run(train, check=True)
        last = folder / "checkpoints" / (folder / "last").read_text().strip()
        for views in (1, 10):
            judge = [sys.executable, "-m", "alexnet", "eval", str(last), "--views", str(views), "--json",
                     "--save-predictions", str(folder / f"val-{views}.parquet")]  # fmt: skip
            said = subprocess.run(judge, check=True, capture_output=True, text=True).stdout
            (folder / f"val-{views}.json").write_text(said)
    return folder


def right(folder: Path, views: int) -> dict[str, bool]:
    """key -> whether the likeliest class was the true one."""
    if (folder / "val.npz").exists():
        with np.load(folder / "val.npz", allow_pickle=False) as saved:
            p = saved["one" if views == 1 else "ten"]
            hits, keys = p.argmax(1) == saved["label"], saved["key"]
        return dict(zip(keys.tolist(), hits.tolist(), strict=True))
    said = read_predictions(folder / f"val-{views}.parquet")
    return dict(zip(said.keys, said.right().tolist(), strict=True))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=Path)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--minutes", type=float, default=20.0)
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    p.add_argument("--lr", type=float, nargs="+", default=[0.01, 0.02], help="the peer's rates; the better one counts")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)

    firsts = {lr: peer(a.data, a.out, lr=lr, seed=a.seeds[0], minutes=a.minutes) for lr in a.lr}
    # chosen on the very pictures that judge, in the peer's favour
    best = max(a.lr, key=lambda lr: np.mean([*right(firsts[lr], 1).values()]))
    theirs = [peer(a.data, a.out, lr=best, seed=seed, minutes=a.minutes) for seed in a.seeds]
    mine = [ours(a.data, a.out, seed=seed, minutes=a.minutes) for seed in a.seeds]

    rows, means = [], {}
    for who, folders in ((f"torchvision, lr {best:g}", theirs), ("alexnet fast", mine)):
        for views in (1, 10):
            shares = []
            for seed, folder in zip(a.seeds, folders, strict=True):
                hits = [*right(folder, views).values()]
                low, high = wilson(sum(hits), len(hits))
                shares.append(100 * np.mean(hits))
                rows.append({"who": who, "seed": seed, "views": views, "top1": round(shares[-1], 2),
                             "interval": [round(100 * low, 1), round(100 * high, 1)], "count": len(hits)})  # fmt: skip
                print(
                    f"{who:24} seed {seed}  {views:2} views  {shares[-1]:6.2f} %  [{100 * low:.1f}, {100 * high:.1f}]"
                )
            means[who, views] = float(np.mean(shares))
            print(f"{who:24} mean    {views:2} views  {means[who, views]:6.2f} %")
    for views in (1, 10):
        for seed, t, m in zip(a.seeds, theirs, mine, strict=True):
            there, here = right(t, views), right(m, views)
            pair = mcnemar(np.array([*here.values()]), np.array([there[Path(k).as_posix()] for k in here]))
            print(
                f"seed {seed}, {views:2} views: only ours right {pair.only_first}, only theirs {pair.only_second}, "
                f"p = {pair.p:.2g}"
            )
    for views in (1, 10):
        ahead = means["alexnet fast", views] - means[f"torchvision, lr {best:g}", views]
        print(f"{views:2} views: ours ahead by {ahead:.2f} points on the mean of {len(a.seeds)} seeds")
    (a.out / "table.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
