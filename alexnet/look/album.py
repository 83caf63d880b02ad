"""The small pictures of a page: each once, so many at most, from where a run's pictures lie."""

import base64
import io
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.decode import decoded_form, raw_form
from ..data.preprocess import Shaping
from ..data.samples import Samples
from ..data.threads import in_turn
from ..errors import BadImage, DataError

SIDE: Final = 128  # pixels
QUALITY: Final = 72
SHAPING: Final = Shaping(SIDE, "shorter", "bilinear", exif=True, decode="reduced")
MOST_BYTES: Final = 6_000_000  # of all of them, as they stand in the page
THREADS: Final = 2


@dataclass
class Picture:
    """One picture of a page: its name, its class in words, and the address of its image, or why it has none."""

    key: str
    label: str
    image: str = ""
    why: str = ""
    size: tuple[int, int] | None = None  # height and width of the picture itself


@dataclass
class Album:
    """Pictures in the order in which they were asked for; of these, `most` have an image."""

    most: int
    pictures: list[Picture] = field(default_factory=list)
    places: dict[tuple[str, str], int] = field(default_factory=dict)  # (set, key) -> place in `pictures`
    tried: int = 0
    bytes: int = 0

    def put(
        self, keys: Sequence[str], labels: Sequence[str], *, rows: Sequence[int], of: str, samples: Samples | None
    ) -> list[int]:
        """The places of pictures, new ones at the end: their names, their classes in words, and their `rows` in
        `samples`, which are called `of`; None: nobody knows where they lie.
        """
        new: list[tuple[int, int]] = []
        for key, label, row in zip(keys, labels, rows, strict=True):
            if (of, key) not in self.places:
                self.places[of, key] = len(self.pictures)
                new.append((len(self.pictures), row))
                self.pictures.append(Picture(key, label))
        if samples is not None:
            self._develop(new[: max(0, self.most - self.tried)], samples)
        return [self.places[of, key] for key in keys]

    def _develop(self, new: Sequence[tuple[int, int]], samples: Samples) -> None:
        """Gives pictures, by their places and rows, their images, as far as there is room."""
        known = [
            (place, row) for place, row in new if row < len(samples) and samples.key(row) == self.pictures[place].key
        ]
        self.tried += len(known)

        def make(rows: Iterable[int]) -> list[Picture]:
            return [small(samples, row) for row in rows]

        ranges = [range(row, row + 1) for _, row in known]
        try:
            with closing(in_turn(make, ranges, samples, threads=THREADS)) as made:
                for (place, _), (found,) in zip(known, made, strict=True):
                    if self.bytes + len(found.image) > MOST_BYTES:
                        self.tried = self.most
                        return
                    self.bytes += len(found.image)
                    picture = self.pictures[place]
                    picture.image, picture.why, picture.size = found.image, found.why, found.size
        except DataError as reason:  # the disk is gone, or hangs
            self.tried = self.most
            for place, _ in known:
                if not self.pictures[place].image:
                    self.pictures[place].why = str(reason)

    def to_json(self) -> list[list[Any]]:
        """What the page's script builds each picture from: name, class, image, why there is none."""
        return [[one.key, one.label, one.image, one.why] for one in self.pictures]


def small(samples: Samples, row: int) -> Picture:
    """The picture of a row, cut to the square at its centre and made small; or why it cannot be shown."""
    try:
        data = samples.read(row)
        if samples.raw:
            side = round((len(data) / 3) ** 0.5)
            image = raw_form(data, side, "")
            size = (side, side)
            image = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        else:
            image, size = decoded_form(data, "", SHAPING)
    except BadImage as bad:
        return Picture("", "", why=bad.reason)
    return Picture("", "", image=jpeg(image), size=size)


def jpeg(image: NDArray[np.uint8]) -> str:
    """A picture uint8 (h, w, 3) as a JPEG file, as an image's address without `data:image/jpeg;base64,`."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=QUALITY)
    return base64.b64encode(stream.getvalue()).decode("ascii")
