"""What every room's tests share."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(2)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # for all of the process: Triton decides when it is first imported


def _pictures(variable: str, what: str) -> Path:
    folder = os.environ.get(variable, "")
    if folder and Path(folder).is_dir():
        return Path(folder)
    if os.environ.get("CI") == "true":
        pytest.fail(f"{variable} names no folder: with CI=true nothing is skipped")
    pytest.skip(f"set {variable} to {what}")


@pytest.fixture(scope="session")
def flowers() -> Path:
    """The flower photographs: train/ and val/, five classes."""
    return _pictures("ALEXNET_FLOWERS", "a folder with train/ and val/ of photographs")


@pytest.fixture(scope="session")
def photos() -> Path:
    """Photographs at their original size, a folder a class."""
    return _pictures("ALEXNET_PHOTOS", "an image folder of photographs at their original size")
