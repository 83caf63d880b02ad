"""Fine-tuning a run that was trained on other pictures, beside training from scratch in the same time.

Two questions, each with 10, 50 and all training pictures a class, judged on held-out ones that decide nothing:
`stamps`: a run trained on photographs of other things (Debian's tuxpaint-stamps-default) -> the five flowers;
`flowers`: a run trained on three of the five flowers -> the other two: other pictures and classes, but the same kind.

The same time is the same number of pictures through the same network, again and again where there are few: a number
of updates that no busy minute changes; the seconds are printed. Each run is a process of its own, one after another,
on all cores; a run that stands in OUT already is not run again. The first training, made once, is not counted: it is
what a given run has cost somebody else.

    python bench/finetune.py FLOWERS STAMPS --out finetune --pictures 6000 --first 30000 --seeds 0 1

FLOWERS holds train/ and val/. STAMPS is the package's folder usr/share/tuxpaint/stamps.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from flowers import right

from alexnet.evaluation.paired import mcnemar
from alexnet.evaluation.score import wilson

# the package's folders of photographs; drawings (in folders called cartoon), symbols and flowers are left out
STAMPS = {
    "mammals": "animals/mammals", "birds": "animals/birds", "fish": "animals/fish", "insects": "animals/insects",
    "fruit": "food/fruit", "vegetables": "food/vegetables", "vehicles": "vehicles", "household": "household",
    "music": "hobbies/music", "sports": "sports",
    "planets": "space/planets",
}  # fmt: skip
LEAST = 8  # photographs of a class
FIRST = ("daisy", "dandelion", "roses")  # the three flowers of the first training
SIZES = (10, 50, None)  # pictures a class; None: all
# validations and the saves that come with them only at the end
ONCE = ["--val-fraction", "0", "--set", "validate_epochs=1000000"]
# what is trained, and its batch
ARMS = {
    "from scratch": (["--recipe", "fast"], 32),
    "recipe finetune": (["--recipe", "finetune"], 64),
    "recipe fast, new fc8": (["--recipe", "fast", "--set", "replace_head=true"], 32),
}


def alexnet(*words: object) -> str:
    command = [sys.executable, "-m", "alexnet", *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def stamps(package: Path, out: Path) -> Path:
    """The photographs of the package in class folders."""
    if not out.exists():
        for name, place in STAMPS.items():
            found = [path for path in sorted((package / place).rglob("*.png")) if "cartoon" not in path.parts]
            if len(found) < LEAST:
                continue
            (out / name).mkdir(parents=True)
            for number, path in enumerate(found):
                shutil.copy(path, out / name / f"{number:03d}-{path.name}")
    return out


def some(source: Path, out: Path, *, each: int | None, seed: int, classes: list[str]) -> Path:
    """`each` pictures a class of a folder, drawn by `seed`; all of them where it is None."""
    for name in classes:
        if (out / name).exists():
            continue
        (out / name).mkdir(parents=True)
        found = sorted((source / name).iterdir())
        draw = np.random.default_rng([seed, len(name)]).permutation(len(found))
        for row in draw[:each]:
            shutil.copy(found[row], out / name / found[row].name)
    return out


def trained(data: Path, run: Path, *, steps: int, seed: int, words: list[str]) -> Path:
    if not (run / "result.json").exists():
        said = alexnet("train", data, *words, *ONCE, "--max-steps", steps, "--seed", seed, "--run", run, "--json")
        (run / "result.json").write_text(said)
    return run


def judged(run: Path, data: Path) -> dict:
    if not (run / "val-1.json").exists():
        said = alexnet("eval", run / "last", data, "--json", "--save-predictions", run / "val-1.parquet")
        (run / "val-1.json").write_text(said)
    return json.loads((run / "val-1.json").read_text())


def rows_of(question: str, base: Path, data: Path, val: Path, a: argparse.Namespace) -> list[dict]:
    """Every arm of a question, each size and seed."""
    classes, rows = sorted(path.name for path in val.iterdir()), []
    for seed in a.seeds:
        for each in SIZES:
            size = "all" if each is None else str(each)
            part = some(data, a.out / "pictures" / f"{question}-{size}-{seed}", each=each, seed=seed, classes=classes)
            count = sum(1 for _ in part.rglob("*.*"))
            runs = {}
            for arm, (words, batch) in ARMS.items():
                given = [] if arm == "from scratch" else ["--weights", str(base / "last")]
                name = f"{question}-{size}-{arm.replace(' ', '-').replace(',', '')}-seed{seed}"
                steps = a.pictures // batch
                runs[arm] = trained(part, a.out / name, steps=steps, seed=seed, words=[*words, *given])
                said = judged(runs[arm], val)
                result = json.loads((runs[arm] / "result.json").read_text())
                hits, theirs = right(runs[arm], 1), right(runs["from scratch"], 1)
                low, high = wilson(sum(hits.values()), len(hits))
                pair = mcnemar(np.array([*hits.values()]), np.array([theirs[key] for key in hits]))
                rows.append(
                    {
                        "question": question, "arm": arm, "each": size, "pictures": count, "seed": seed,
                        "steps": result["last"]["step"], "seconds": round(result["seconds"], 1),
                        "top1": said["top1"], "interval": [low, high], "count": len(hits),
                        "mcnemar": None if arm == "from scratch" else (pair.only_first, pair.only_second, pair.p),
                    }
                )  # fmt: skip
                print(line(rows[-1]), flush=True)
    return rows


def line(row: dict) -> str:
    low, high = row["interval"]
    against = ""
    if row["mcnemar"]:
        only, other, p = row["mcnemar"]
        against = f"  only it right {only}, only scratch {other}, p = {p:.2g}"
    return (
        f"{row['question']:8} {row['each']:>4} a class ({row['pictures']:>4})  seed {row['seed']}  {row['arm']:22}"
        f"{row['steps']:6} steps {row['seconds']:6.1f} s  {100 * row['top1']:5.1f} % "
        f"[{100 * low:.1f}, {100 * high:.1f}] of {row['count']}{against}"
    )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("flowers", type=Path)
    p.add_argument("stamps", type=Path)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--pictures", type=int, default=6000, help="that pass in each training that is compared")
    p.add_argument("--first", type=int, default=30_000, help="that pass in the first training of each question")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    p.add_argument("--questions", nargs="+", default=["stamps", "flowers"], choices=["stamps", "flowers"])
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    flowers = sorted(path.name for path in (a.flowers / "val").iterdir())
    others = [name for name in flowers if name not in FIRST]

    rows = []
    if "stamps" in a.questions:
        first = stamps(a.stamps, a.out / "pictures" / "stamps")
        print("stamps: " + ", ".join(f"{one.name} {len(list(one.iterdir()))}" for one in sorted(first.iterdir())))
        base = trained(first, a.out / "first-stamps", steps=a.first // 32, seed=0, words=["--recipe", "fast"])
        rows += rows_of("stamps", base, a.flowers / "train", a.flowers / "val", a)
    if "flowers" in a.questions:
        three = some(a.flowers / "train", a.out / "pictures" / "three", each=None, seed=0, classes=list(FIRST))
        base = trained(three, a.out / "first-flowers", steps=a.first // 32, seed=0, words=["--recipe", "fast"])
        val = some(a.flowers / "val", a.out / "pictures" / "two-val", each=None, seed=0, classes=others)
        rows += rows_of("flowers", base, a.flowers / "train", val, a)

    columns = [(question, size) for question in a.questions for size in ("10", "50", "all")]
    print("\nmean over the seeds, top-1 in %")
    print(f"{'':22}" + "".join(f"{' '.join(column):>14}" for column in columns))
    for arm in ARMS:
        means = [
            np.mean([r["top1"] for r in rows if (r["question"], r["each"], r["arm"]) == (*c, arm)]) for c in columns
        ]
        print(f"{arm:22}" + "".join(f"{100 * mean:14.1f}" for mean in means))
    (a.out / "table.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
