"""The article's network and its Adam against TensorFlow's own ops."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet.network.build import build
from alexnet.training.optim import AdamTF1

pytestmark = pytest.mark.slow


ORACLE = Path(__file__).with_name("tensorflow_oracle.py")


def tensorflow(tmp_path: Path, program: Path = ORACLE, **given: np.ndarray) -> dict[str, np.ndarray]:
    np.savez(tmp_path / "in.npz", **given)
    # without oneDNN, with which TensorFlow's gradients are at times not those of float64 (docs/log.md)
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "TF_ENABLE_ONEDNN_OPTS": "0"}
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")],
        capture_output=True, text=True, env=quiet, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz", allow_pickle=False) as saved:
        return dict(saved)


def within(a: np.ndarray, b: np.ndarray, tolerance: float) -> None:
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def test_the_articles_network_is_tensorflows(tmp_path):
    net = build("article", classes=20, seed=3).eval()
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name.endswith("bias"):
                value.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(len(name)))
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    weights = {name: value.detach().numpy() for name, value in net.named_parameters()}
    theirs = tensorflow(tmp_path, images=images.numpy(), **weights)
    with torch.no_grad():
        ours = net.trace(images, list(theirs))
    for name, value in theirs.items():
        within(ours[name].numpy(), value, 1e-5)


def test_adam_is_tensorflows(tmp_path):
    random = np.random.default_rng(0)
    scale = np.array([1, 1e-3, 1e-6, 1e-8], np.float32)
    w, gradients = random.normal(size=4).astype(np.float32), random.normal(size=(30, 4)).astype(np.float32) * scale
    theirs = tensorflow(tmp_path, w=w, gradients=gradients, lr=np.float32(0.01))["track"]
    parameter = torch.nn.Parameter(torch.from_numpy(w.copy()))
    rule = AdamTF1([{"params": [parameter]}], lr=0.01)
    track = []
    for g in gradients:
        parameter.grad = torch.from_numpy(g.copy())
        rule.step()
        track.append(parameter.detach().numpy().copy())
    # what moved, not where it stands: a wrong epsilon moves a small gradient's weight by half as much
    within(np.stack(track) - w, theirs - w, 1e-5)
    moved = np.abs(np.stack(track)[-1] - w), np.abs(theirs[-1] - w)
    assert np.allclose(*moved, rtol=1e-3)
