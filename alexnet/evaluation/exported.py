"""An exported file beside the network that it was made of, on real pictures, in a process that lacks this program."""

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from .. import files
from ..data.augment import Normalise, test_views
from ..errors import UsageError, WeightsError
from ..weights.run import Loaded
from .backends import Agreement

CHILD = Path(__file__).with_name("exported_child.py")
PATIENCE = 600  # seconds


def check(loaded: Loaded, file: Path, format: str, pictures: Tensor, *, softmax: bool) -> Agreement:  # noqa: A002
    """What the file makes of pictures, uint8 (B, S, S, 3), beside the network: logits, or with `softmax` probabilities.

    `exported_child.py` runs it. UsageError: a format of weights under our own names, which no other program runs; the
    program that runs it is not installed.
    WeightsError: the file does not run, or gives something else than (B, classes).
    """
    if format == "safetensors":
        raise UsageError("--check: --format safetensors has weights and no network that another program could run")
    with TemporaryDirectory(prefix="alexnet-check-") as name:
        folder = Path(name)
        files.write_array(folder / "pictures.npy", pictures.numpy())
        # -I: no path of the user's, and none that its environment adds
        command = [sys.executable, "-I", str(CHILD), str(file.resolve()), format, str(folder)]
        try:
            done = subprocess.run(  # noqa: S603
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False, cwd=folder
            )
        except subprocess.TimeoutExpired:
            raise WeightsError(f"{file}: not run within {PATIENCE} s") from None
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            if lacking := re.fullmatch(r"ModuleNotFoundError: No module named '(\w+)'", last):
                extra = "oracles" if lacking[1] == "cv2" else "backends"
                raise UsageError(f"--check: {lacking[1]} is not installed (pip install 'alexnet[{extra}]')")
            raise WeightsError(f"{file}: does not run without this program: {last or f'status {done.returncode}'}")
        outputs = np.load(folder / "outputs.npy", allow_pickle=False)
    with torch.inference_mode():
        ours = loaded.model(
            test_views(pictures, Normalise(loaded.preprocess, loaded.mean, torch.device("cpu")), views=1)
        )
    if outputs.shape != tuple(ours.shape):
        raise WeightsError(f"{file}: gives {outputs.shape}, expected {tuple(ours.shape)}")
    return Agreement.of(torch.from_numpy(outputs), ours.softmax(1) if softmax else ours)
