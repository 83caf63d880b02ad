"""Run folders for tests of what looks at them: as a training writes them, without the training."""

import json
from pathlib import Path

import numpy as np
import torch

from alexnet import files
from alexnet.data.sources import Data, open_data
from alexnet.errors import BadImage
from alexnet.evaluation.predictions import write_predictions
from alexnet.evaluation.score import Answers
from alexnet.network.build import build
from alexnet.network.kernels import PLAIN
from alexnet.ranks import precision_of
from alexnet.training import again, start
from alexnet.training.start import Asked
from alexnet.weights.run import Run, preprocess_of
from tests.pictures import write_folder


def answers(data: Data, *, seed: int, sure: float = 1.0, bad: tuple[int, ...] = ()) -> Answers:
    """What a network of some skill might say of the held-out pictures: its probabilities are softmaxes."""
    assert data.val is not None
    labels, classes = data.val.label, len(data.classes)
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(len(labels), classes)) + sure * np.eye(classes)[labels]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    faults = {row: BadImage(data.val.key(row), "broken") for row in bad}
    return Answers(p.astype(np.float32), labels, data.val.keys(), faults, 1)


def write_run(
    folder: Path, pictures: Path, *, variant: str = "tiny", seed: int = 0, set: tuple[str, ...] = (), epochs: int = 4,
    said: Answers | None = None, data: Data | None = None,
) -> Run:  # fmt: skip
    """The folder of a run on `pictures`, with a log, predictions and kernels that chance has made."""
    asked = Asked(data=str(pictures), variant=variant, seed=seed, set=set, epochs=epochs)
    chosen, origin = start.resolve(asked)
    data = data or open_data(str(pictures), seed=seed)
    assert data.val is not None
    run, model = Run(folder), build(variant, classes=len(data.classes), seed=seed)
    folder.mkdir(parents=True)
    each = 10
    steps = {"value": epochs * each, "origin": "--epochs"}
    record = {
        "classes": data.classes.to_json(),
        "data": {
            "source": data.source, "split": data.split, "fingerprint": data.fingerprint,
            "train_fingerprint": data.train.fingerprint(), "val_fingerprint": data.val.fingerprint(),
            "val_sizes": data.val.size.tolist() if "val_names" in data.split else [], "content": data.train.content,
            "train": len(data.train), "val": len(data.val),
        },
        "environment": again.environment(torch.device("cpu"), 2, PLAIN),
        "recipe": start.resolved(asked, chosen, origin, workers=2, precision=precision_of("auto", torch.device("cpu")),
                                 steps=steps),
    }  # fmt: skip
    start.begin_run(run, record, preprocess_of(model.variant),
                    np.full((preprocess_of(model.variant).stored,) * 2 + (3,), 120, np.float32))  # fmt: skip
    said = said or answers(data, seed=seed)
    write_predictions(run.predictions, said)
    top1 = float((said.ranks() < 1).mean())
    draw = np.random.default_rng(seed)
    lines = []
    for step in range(5, epochs * each + 1, 5):
        share = step / (epochs * each)
        lines.append({"step": step, "epoch": step / each, "split": "train", "loss": 2 - 1.4 * share + 0.1 * draw.normal(),
                      "top1": 0.2 + 0.5 * share, "lr": 0.01 * (1.05 - share), "images_per_second": 40.0, "seconds": 4.0,
                      "seconds_waiting": 0.4, "seconds_augment": 0.2, "seconds_read": 0.1, "seconds_decode": 1.0})  # fmt: skip
        if step % each == 0:
            lines.append({"step": step, "epoch": step / each, "split": "val", "loss": 1.9 - 1.1 * share, "count": len(said.labels),
                          "top1": top1 * (0.4 + 0.6 * share), "top5": 1.0, "bad_images": len(said.bad)})  # fmt: skip
            files.append_array(run.kernels, model.get_parameter("conv1.weight").detach().numpy(), at=step // each - 1)
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


# what ends a script and begins another, and what JavaScript once took for the end of a line
EVIL = "</script><script>alert(1)</script><!--\u2028"


def strange_pictures(folder: Path) -> Path:
    """Three classes, one of a name that a spreadsheet would compute, and pictures with names that are HTML."""
    write_folder(folder, classes=3, each=60, side=24)
    (folder / "class1").rename(folder / "=1+1")
    for path in (folder / "class2").glob("*.png"):
        path.rename(path.with_name(f"<img src=x onerror=alert(1)>{path.name}"))
    return folder


def strange_run(folder: Path, pictures: Path) -> Run:
    """A run on them; the words of one of its classes would end a script."""
    run = write_run(folder, pictures)
    classes = json.loads((folder / "classes.json").read_text())
    classes[2]["words"] = EVIL
    files.write_json(folder / "classes.json", classes)
    return run
