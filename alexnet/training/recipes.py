"""How an AlexNet is trained: one row per recipe, plain values, each with its source.

Marks as in `network/variants.py`: [K12] the paper, [CODE12] the 2012 program, [CAFFE] bvlc_alexnet's solver,
[TV] torchvision's references/classification, [ARTICLE] the article's trainer; SILENT, DEVIATES.
"""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..errors import UsageError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training, flat. Rates are those of the batch size given; epochs count passes over the training split."""

    name: str
    source: str
    variant: str
    batch_size: int
    epochs: int
    optimizer: str  # "sgd" (torch's), "sgd-2012" (the rate inside the velocity), "adam-tf1" (epsilon before correction)
    lr: float
    schedule: str  # "constant", "plateau", "step" (every `step_epochs`), "cosine" and "linear" to zero
    lr_factor: float = 0.1  # of "plateau" and "step"
    lr_drops: int = 0  # how often "plateau" may divide; after that it stops nothing
    patience: int = 0  # validations without a better one before "plateau" divides
    step_epochs: int = 0
    warmup_steps: int = 0  # the rate grows evenly to `lr`; steps, not epochs: a small set needs as many as a large one
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    bias_lr: float = 1.0  # times lr
    bias_decay: float = 1.0  # times weight_decay
    loss: str = "softmax"  # or "double-softmax-sum" [ARTICLE]
    label_smoothing: float = 0.0
    init: str = "variant"  # or "he": zero biases, weights N(0, 2 / fan-in)
    dropout: float | None = None  # None: the variant's own
    freeze: tuple[str, ...] = ()
    replace_head: bool = False  # start from given weights with a new fc8
    shuffle: bool = True
    drop_last: bool = True  # an epoch ends with the last whole batch
    scale: float | None = None  # of the pixels, 0..255, less their mean; None: the variant's own scale and std
    crop: str = "stored"  # or "original": random-resized-crop of the full picture
    crop_scale: float = 0.08  # smallest share of the area, for "original"
    mirror: bool = True
    random_crop: bool = True  # False: always the centre
    colour_noise: float = 0.0
    colour_rescale: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    validate_epochs: int = 1  # a validation every so many epochs


PAPER = Recipe(
    name="paper",
    source="[K12] section 5, figures 5-6; [CODE12] where the paper is silent",
    variant="paper",
    batch_size=128,  # [K12] 5
    epochs=90,  # [K12] 5: "roughly 90 cycles"
    optimizer="sgd-2012",  # [K12] 5: v := 0.9 v - 0.0005 lr w - lr g
    lr=0.01,  # [K12] 5
    schedule="plateau",  # [K12] 5: divided by 10 when the validation error stopped improving
    lr_factor=0.1,
    lr_drops=3,  # [K12] 5: "reduced three times prior to termination"
    patience=5,  # SILENT: done by hand in 2012 (at epochs 25, 51 and 79 [CODE12])
    momentum=0.9,
    weight_decay=5e-4,
    bias_lr=2.0,  # DEVIATES from [K12] ("equal learning rate for all layers"): [CODE12] has 0.02 for biases
    bias_decay=0.0,  # [CODE12]
    # crop and mirror are drawn for each image: [K12] 4.1; DEVIATES from [CODE12], one draw for 32 images
    colour_noise=0.1,  # [CODE12]: 0.1 sqrt(lambda) a component; DEVIATES from [K12] 4.1, whose formula says lambda
    # [CODE12]: x / 1.1 while the noise is on; [K12] SILENT. DEVIATES from [CODE12], whose last epochs have neither
    colour_rescale=True,
)

CAFFE = Recipe(
    name="caffe",
    source="[CAFFE] models/bvlc_alexnet/solver.prototxt",
    variant="caffe",
    batch_size=256,
    epochs=90,  # 450,000 iterations of 256
    optimizer="sgd-2012",  # the velocity holds the rate in Caffe too
    lr=0.01,
    schedule="step",
    lr_factor=0.1,
    step_epochs=20,  # every 100,000 iterations
    momentum=0.9,
    weight_decay=5e-4,
    bias_lr=2.0,
    bias_decay=0.0,
)

TORCHVISION = Recipe(
    name="torchvision",
    source="[TV] references/classification; the rate is the one that pytorch/examples gives for AlexNet",
    variant="torchvision",
    batch_size=256,  # eight processes of 32
    epochs=90,
    optimizer="sgd",
    lr=0.01,
    schedule="step",
    lr_factor=0.1,
    step_epochs=30,
    momentum=0.9,
    weight_decay=1e-4,
    crop="original",
    crop_scale=0.08,
)

FINETUNE = Recipe(
    name="finetune",
    source="ours: a new fc8 on given weights, every layer at a tenth of the usual rate",
    variant="torchvision",
    batch_size=64,
    epochs=20,
    optimizer="sgd",
    lr=0.001,
    schedule="cosine",
    momentum=0.9,
    weight_decay=5e-4,
    bias_decay=0.0,
    replace_head=True,
    crop="stored",
)

ARTICLE = Recipe(
    name="article",
    source="[ARTICLE] its Adam and flags, with a single softmax, mean loss, shuffling and a held-out set",
    variant="article",
    batch_size=10,  # [ARTICLE] flag batch_size
    epochs=1000,  # [ARTICLE] flag max_steps, which counts epochs there
    optimizer="adam-tf1",
    lr=0.01,  # [ARTICLE] flag learning_rate
    schedule="constant",
    mirror=False,
    random_crop=False,
)

ARTICLE_PRINTED = replace(
    ARTICLE,
    name="article-printed",
    source="[ARTICLE] loss, order and data handling as printed; corrected only where it cannot run at all",
    loss="double-softmax-sum",
    shuffle=False,
)

FAST = Recipe(
    name="fast",
    source="ours, for a folder of one's own and a machine without a GPU: docs/log.md keeps the experiments",
    variant="half",  # nearly twice the epochs of `paper` in the same time
    batch_size=32,
    epochs=20,
    optimizer="sgd",
    lr=0.015,
    schedule="cosine",
    warmup_steps=50,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    bias_decay=0.0,
    label_smoothing=0.05,
    dropout=0.2,  # an epoch seen few times is under-fitted long before it is over-fitted
    init="he",
    scale=1 / 64,  # He's values want inputs of unit variance
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
    validate_epochs=2,
)

RECIPES = {r.name: r for r in (PAPER, CAFFE, TORCHVISION, FINETUNE, ARTICLE, ARTICLE_PRINTED, FAST)}


def recipe(name: str) -> Recipe:
    """The recipe of that name; an unknown one is a UsageError that lists the known ones."""
    if name not in RECIPES:
        raise UsageError(f"--recipe {name}: unknown; known are {', '.join(RECIPES)}{did_you_mean(name, RECIPES)}")
    return RECIPES[name]


def _typed(field: str, kind: str, value: Any) -> Any:
    """`value`, or the text of it, as the field's type says."""
    if isinstance(value, str):
        text = value
        try:
            if text == "none" and "None" in kind:
                return None
            if kind.startswith("bool"):
                return {"true": True, "false": False}[text.lower()]
            if kind.startswith("int"):
                return int(text)
            if kind.startswith("float"):
                return float(text)
            if kind.startswith("tuple"):
                return tuple(part for part in text.split(",") if part)
        except (ValueError, KeyError):
            raise UsageError(f"--set {field}={text}: expected {kind}") from None
    return tuple(value) if isinstance(value, list) else value


CHOICES = {
    "optimizer": ("sgd", "sgd-2012", "adam-tf1"),
    "schedule": ("constant", "plateau", "step", "cosine", "linear"),
    "loss": ("softmax", "double-softmax-sum"),
    "init": ("variant", "he"),
    "crop": ("stored", "original"),
}

# Beyond these a number is a slip, or wants more than any machine has.
MOST = {"batch_size": 65_536, "epochs": 1_000_000, "validate_epochs": 1_000_000, "step_epochs": 1_000_000,
        "warmup_steps": 100_000_000, "lr_drops": 1_000, "patience": 1_000_000, "lr": 1e30, "bias_lr": 1e30,
        "lr_factor": 1, "weight_decay": 1e30, "bias_decay": 1e30, "colour_noise": 1e30, "scale": 1e30}  # fmt: skip


def changed(base: Recipe, values: dict[str, Any]) -> Recipe:
    """`base` with `values` (typed by their fields; text is read) set; an unknown or impossible one is a UsageError."""
    kinds = {f.name: f.type.__name__ if isinstance(f.type, type) else str(f.type) for f in fields(Recipe)}
    for name in values:
        if name not in kinds or name in ("name", "source"):
            known = [k for k in kinds if k not in ("name", "source")]
            raise UsageError(f"--set {name}: unknown; known are {', '.join(known)}{did_you_mean(name, known)}")
    made = replace(base, **{k: _typed(k, kinds[k], v) for k, v in values.items()})
    for name, allowed in CHOICES.items():
        if getattr(made, name) not in allowed:
            raise UsageError(f"{name}={getattr(made, name)}: unknown; known are {', '.join(allowed)}")
    for name, value in asdict(made).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{name}={value}: must be a finite number")
    for name in ("batch_size", "epochs", "validate_epochs"):
        if getattr(made, name) < 1:
            raise UsageError(f"{name}={getattr(made, name)}: must be at least 1")
    for name in ("lr", "lr_factor", "crop_scale"):
        if getattr(made, name) <= 0.0:
            raise UsageError(f"{name}={getattr(made, name)}: must be above 0")
    for name in ("weight_decay", "bias_lr", "bias_decay", "warmup_steps", "colour_noise", "lr_drops", "patience",
                 "step_epochs"):  # fmt: skip
        if getattr(made, name) < 0:
            raise UsageError(f"{name}={getattr(made, name)}: must not be negative")
    for name in ("crop_scale", "brightness", "contrast", "saturation"):
        if not 0.0 <= getattr(made, name) <= 1.0:
            raise UsageError(f"{name}={getattr(made, name)}: must be in 0..1")
    if made.scale is not None and made.scale <= 0.0:
        raise UsageError(f"scale={made.scale}: must be above 0")
    for name, most in MOST.items():
        if (value := getattr(made, name)) is not None and value > most:
            raise UsageError(f"{name}={value}: must be at most {most}")
    if made.schedule == "step" and made.step_epochs < 1:
        raise UsageError(f"schedule=step: step_epochs={made.step_epochs}; must be at least 1")
    if made.nesterov and made.momentum == 0.0:
        raise UsageError("nesterov=true: wants a momentum above 0")
    if made.optimizer == "adam-tf1":
        for name in ("momentum", "nesterov", "weight_decay"):
            if getattr(made, name):
                raise UsageError(f"{name}={getattr(made, name)}: optimizer adam-tf1 has none; set it to 0")
    for name in ("momentum", "label_smoothing"):
        if not 0.0 <= getattr(made, name) < 1.0:
            raise UsageError(f"{name}={getattr(made, name)}: must be in 0..1")
    if made.dropout is not None and not 0.0 <= made.dropout < 1.0:
        raise UsageError(f"dropout={made.dropout}: must be in 0..1")
    return made
