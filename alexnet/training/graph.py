"""A pass forward and backward as one CUDA graph: hundreds of launches become one."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..network.build import Draw
from ..network.capture import WARM, captured

Pass = Callable[[Tensor, Tensor, Draw], tuple[Tensor, Tensor]]


class Graphed:
    """`there_and_back`, (images, labels, draw) -> (loss, correct) and gradients: captured once, replayed afterwards.

    Captured is the first size that came a few times. A batch of another goes the ordinary way, with the same numbers.
    Gradients lie where the capture put them, and each replay writes them anew.
    """

    def __init__(self, there_and_back: Pass, parameters: Sequence[Tensor]) -> None:
        self.there_and_back = there_and_back
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.generators: dict[int, torch.Generator] = {}  # the graph knows them by identity
        self.warm: Counter[torch.Size] = Counter()  # ordinary passes, by size
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Tensor, labels: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Float (B, 3, s, s) and int64 (B,) on the GPU -> what the pass gives."""
        draw = replace(draw, generators=self.generators)
        if self.graph is None and self.warm[images.shape] == WARM:
            self._capture(images, labels, draw)
        if self.graph is None or images.shape != self.images.shape:
            self.warm[images.shape] += 1
            for parameter in self.parameters:
                parameter.grad = None
            return self.there_and_back(images, labels, draw)
        self.images.copy_(images)
        self.labels.copy_(labels)
        for layer in self.generators:
            draw.generator(layer, images.device)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.loss.clone(), self.correct.clone()

    def _capture(self, images: Tensor, labels: Tensor, draw: Draw) -> None:
        self.images, self.labels = images.clone(), labels.clone()
        graph = torch.cuda.CUDAGraph()
        for layer in self.generators:
            graph.register_generator_state(draw.generator(layer, images.device))
        for parameter in self.parameters:
            parameter.grad = None
        with captured(graph):
            self.loss, self.correct = self.there_and_back(self.images, self.labels, draw)
        self.gradients = [parameter.grad for parameter in self.parameters]
        self.graph = graph
