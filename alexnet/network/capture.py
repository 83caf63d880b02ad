"""The launches of a pass as one CUDA graph."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

WARM = 3  # passes before the capture: kernels are compiled and chosen, workspaces taken


@contextmanager
def captured(graph: torch.cuda.CUDAGraph) -> Iterator[None]:
    """What is launched within becomes `graph`; nothing is computed. What it reads must stay where it is."""
    gc.collect()  # a graph or memory given back during the capture would spoil it
    gc.disable()
    try:
        with torch.cuda.graph(graph):
            yield
    finally:
        gc.enable()
