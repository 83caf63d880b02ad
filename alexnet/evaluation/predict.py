"""Pictures to named probabilities, with the preparation that the network was trained with."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..data.augment import Normalise, test_views
from ..data.decode import decoded_form, opened, stored_form
from ..data.samples import read_file, shown
from ..errors import BadImage
from ..ranks import multiply_in
from ..weights.run import Loaded, open_run
from .backends import CHECKED, Backend, backend_of
from .score import Network, probabilities

Picture = str | Path | bytes | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """One class: its index, its words, its probability."""

    index: int
    label: str
    probability: float


class Predictor:
    """A network and all that its pictures need. `alexnet.load(RUN)` gives one."""

    def __init__(
        self, loaded: Loaded, *, device: torch.device | None = None, backend: str = "torch", precision: str = "fp32"
    ) -> None:
        self.device = device or torch.device("cpu")
        multiply_in(precision, self.device)
        self.backend: Backend | None = None  # until there are pictures to compare it on
        self._logits: Network | None = None
        self._loaded = loaded
        self._asked = backend, precision
        self.preprocess = loaded.preprocess
        self.classes = loaded.classes
        self.notes = loaded.notes
        self._normalise = Normalise(loaded.preprocess, loaded.mean, self.device)

    def pixels(self, picture: Picture, name: str = "bytes") -> NDArray[np.uint8]:
        """The stored form, uint8 (S, S, 3), of a picture; `name` is what bytes are called where they are bad."""
        p = self.preprocess
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
                raise BadImage("array", f"expected uint8 (h, w, 3), got {picture.dtype} {picture.shape}")
            image = picture
        elif isinstance(picture, Image.Image):
            image = opened(picture, exif=p.exif)
        elif isinstance(picture, bytes):
            return decoded_form(picture, name, p.shaping)[0]
        else:
            path = Path(picture)
            return decoded_form(read_file(path), shown(str(path)), p.shaping)[0]
        return stored_form(image, stored=p.stored, resize=p.resize, filter=p.filter)

    def probabilities(self, pictures: Sequence[Picture], *, views: int = 1) -> NDArray[np.float32]:
        """Pictures (N) -> float32 (N, classes). A picture that cannot be decoded is a BadImage that names it."""
        return self._judge([self.pixels(picture) for picture in pictures], views)

    @torch.inference_mode()
    def _judge(self, stored: Sequence[NDArray[np.uint8]], views: int) -> NDArray[np.float32]:
        images = torch.from_numpy(np.stack(stored)).to(self.device)
        if self._logits is None:
            name, precision = self._asked
            self.backend, self._logits = backend_of(
                self._loaded, name, precision=precision, device=self.device,
                pictures=lambda: test_views(images[:CHECKED], self._normalise, views=1).cpu(),
            )  # fmt: skip
        p = probabilities(self._logits, images, self._normalise, views=views)
        return p.cpu().numpy()

    def top(self, p: NDArray[np.float32], k: int) -> list[Prediction]:
        """Probabilities (classes,) -> the k likeliest, the likeliest first."""
        order = np.argsort(-p, kind="stable")[:k]
        return [Prediction(int(i), self.classes.words[i], float(p[i])) for i in order]

    def predict(self, picture: Picture, k: int = 5, *, views: int = 1) -> list[Prediction]:
        """The k likeliest classes of one picture: a path, bytes, a Pillow image, or uint8 (h, w, 3) RGB."""
        return self.top(self.probabilities([picture], views=views)[0], k)

    def stream(
        self, pictures: Iterable[tuple[str, bytes | BadImage]], k: int, *, views: int = 1, batch: int = 32
    ) -> Iterator[tuple[str, list[Prediction] | BadImage]]:
        """(name, bytes) pairs -> (name, predictions), a batch at a time, in their order; a bad one: why it is bad."""
        waiting: list[tuple[str, NDArray[np.uint8] | BadImage]] = []

        def flush() -> Iterator[tuple[str, list[Prediction] | BadImage]]:
            good = [pixels for _, pixels in waiting if isinstance(pixels, np.ndarray)]
            p = iter(self._judge(good, views) if good else ())
            for name, pixels in waiting:
                yield name, self.top(next(p), k) if isinstance(pixels, np.ndarray) else pixels
            waiting.clear()

        for name, content in pictures:
            try:
                waiting.append((name, content if isinstance(content, BadImage) else self.pixels(content, name)))
            except BadImage as reason:
                waiting.append((name, reason))
            if len(waiting) == batch:
                yield from flush()
        yield from flush()


def load(
    run: str | Path,
    *,
    device: str = "cpu",
    seed: int = 0,
    variant: str | None = None,
    backend: str = "torch",
    precision: str = "fp32",
) -> Predictor:
    """What RUN names, ready to predict: a run or checkpoint folder, a model file, `imagenet`, or a variant, untrained.

    `variant` tells which it is where a model file's shapes are those of several.
    """
    opened = open_run(run, seed=seed, named=variant)
    return Predictor(opened, device=torch.device(device), backend=backend, precision=precision)


def to_json(path: str, predictions: Sequence[Prediction] | BadImage) -> dict[str, Any]:
    """One entry of the document of `predict --json`; that of a bad picture has no predictions and an `error`."""
    if isinstance(predictions, BadImage):
        return {"path": path, "predictions": [], "error": predictions.reason}
    return {
        "path": path,
        "predictions": [{"index": p.index, "label": p.label, "probability": p.probability} for p in predictions],
    }
