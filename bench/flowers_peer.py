"""torchvision's AlexNet on an image folder, from scratch, in a stated time: the peer of `bench/flowers.py`.

The peer is what a careful person writes today with torchvision: its model, its reference augmentation
(random-resized-crop 224, mirror, its mean and standard deviation), SGD with momentum 0.9 and weight decay 1e-4,
a cosine schedule to zero, batch 64, channels_last, bf16 where the processor has it. The time is turned into a whole
number of steps before the first one (measured on warm-up steps, evaluation included), as `alexnet train --max-time`
does, so that a busy machine costs neither side its updates. The wait for the loader is not counted,
in the peer's favour. Nothing here imports alexnet.

    python bench/flowers_peer.py DATA --lr 0.01 --seed 0 --minutes 20 --out peer-lr0.01-seed0
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torchvision import datasets, models
from torchvision.transforms import v2 as T

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def loader(folder: Path, transform: T.Compose, *, batch: int, shuffle: bool, workers: int, seed: int):
    return torch.utils.data.DataLoader(
        datasets.ImageFolder(folder, transform),
        batch_size=batch,
        shuffle=shuffle,
        drop_last=shuffle,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(seed),
    )


@torch.inference_mode()
def evaluate(model: torch.nn.Module, batches, *, bf16: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (N,), one-view and ten-view probabilities (N, classes), in the order of the folder."""
    model.eval()
    labels, one, ten = [], [], []
    for images, y in batches:  # (B, 11, 3, 224, 224): the centre, then torchvision's ten crops
        b, views = images.shape[:2]
        x = images.flatten(0, 1).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            p = model(x).float().softmax(1).view(b, views, -1)
        labels.append(y.numpy())
        one.append(p[:, 0].numpy())
        ten.append(p[:, 1:].mean(1).numpy())
    return np.concatenate(labels), np.concatenate(one), np.concatenate(ten)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=Path)
    p.add_argument("--lr", type=float, default=0.01)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--minutes", type=float, default=20.0)
    p.add_argument("--workers", type=int, default=1)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--steps", type=int, default=0, help="take this many steps instead of measuring")
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()

    torch.manual_seed(a.seed)
    bf16 = torch.cpu._is_avx512_bf16_supported()
    norm = [T.ToDtype(torch.float32, scale=True), T.Normalize(MEAN, STD)]
    train_view = T.Compose([T.RandomResizedCrop(224, antialias=True), T.RandomHorizontalFlip(), T.PILToTensor(), *norm])
    resize = [T.Resize(256, antialias=True), T.PILToTensor(), *norm]
    ten = T.TenCrop(224)
    centre = T.CenterCrop(224)
    test_view = T.Compose([*resize, T.Lambda(lambda x: torch.stack([centre(x), *ten(x)]))])
    train = loader(a.data / "train", train_view, batch=a.batch, shuffle=True, workers=a.workers, seed=a.seed)
    val = loader(a.data / "val", test_view, batch=32, shuffle=False, workers=0, seed=0)

    model = models.alexnet(num_classes=len(train.dataset.classes)).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(model.parameters(), lr=a.lr, momentum=0.9, weight_decay=1e-4, fused=True)

    def step(images: torch.Tensor, labels: torch.Tensor) -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(images.to(memory_format=torch.channels_last)).float(), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    steps = a.steps
    if not steps:  # measure on copies of nothing: the weights and the momentum are set back afterwards
        keep = {k: v.clone() for k, v in model.state_dict().items()}
        seconds = []
        for i, (images, labels) in enumerate(train):
            begin = time.monotonic()
            step(images, labels)
            seconds.append(time.monotonic() - begin)
            if i == 8:
                break
        model.load_state_dict(keep)
        optimiser.state.clear()
        begin = time.monotonic()
        evaluate(model, [next(iter(val))], bf16=bf16)
        evaluation = (time.monotonic() - begin) * len(val) / 11  # the ten views are looked at afterwards, by both sides
        steps = int((a.minutes * 60 * 0.97 - evaluation) / float(np.median(seconds[1:])))
        print(f"{np.median(seconds[1:]):.3f} s a step, {evaluation:.0f} s an evaluation: {steps} steps", flush=True)

    begin, done, total = time.monotonic(), 0, 0.0
    while done < steps:
        model.train()
        for images, labels in train:
            for group in optimiser.param_groups:
                group["lr"] = a.lr * 0.5 * (1 + math.cos(math.pi * done / steps))
            total += step(images, labels)
            done += 1
            if done % 50 == 0:
                print(f"step {done}/{steps} loss {total / 50:.3f} {time.monotonic() - begin:.0f} s", flush=True)
                total = 0.0
            if done == steps:
                break
    seconds = time.monotonic() - begin
    labels, one, ten_views = evaluate(model, val, bf16=bf16)
    result = {
        "who": "torchvision", "lr": a.lr, "seed": a.seed, "steps": steps, "batch": a.batch,
        "epochs": steps * a.batch / len(train.dataset), "seconds": seconds, "precision": "bf16" if bf16 else "fp32",
        "top1": float((one.argmax(1) == labels).mean()), "top1_ten": float((ten_views.argmax(1) == labels).mean()),
    }  # fmt: skip
    a.out.mkdir(parents=True, exist_ok=True)
    keys = [str(Path(path).relative_to(a.data / "val")) for path, _ in val.dataset.samples]
    np.savez(a.out / "val.npz", key=keys, label=labels, one=one, ten=ten_views)
    (a.out / "result.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
