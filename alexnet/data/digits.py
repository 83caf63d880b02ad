"""scikit-learn's handwritten digits as a tar in the cache: a real data set of 1,797 images without a download."""

import tarfile
from io import BytesIO

import numpy as np
from PIL import Image

from .. import files
from ..errors import DataError
from .cache import cache_folder
from .samples import Samples, shown
from .tars import tar_sets

# A part of the file's name: it grows when the bytes made here change.
VERSION = 1
SIDE = 64
COUNT = 1797
BRIGHTEST = 16


def digits_samples() -> Samples:
    """The 1,797 digits, grey, SIDE pixels high and wide, in ten classes; made at first use.

    DataError: the cache cannot be written, or holds a digits tar that is not whole.
    """
    path = cache_folder() / f"digits-{VERSION}.tar"
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write(path, _tar())
        except OSError as reason:
            raise DataError(f"{shown(str(path))}: {reason.strerror}; set ALEXNET_CACHE to a folder for it") from None
    try:
        samples, _ = tar_sets([path], ())
    except DataError as reason:
        raise DataError(f"{reason}; delete the file, it is made again") from None
    if len(samples) != COUNT or len(samples.classes) != 10:
        raise DataError(f"{shown(str(path))}: {len(samples)} of {COUNT} digits; delete the file, it is made again")
    return samples


def _tar() -> bytes:
    # Imported here: it takes a second, and only the making of the tar needs it.
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (values, label) in enumerate(zip(images, labels, strict=True)):
            small = Image.fromarray(np.round(values.reshape(8, 8) * (255 / BRIGHTEST)).astype(np.uint8))
            encoded = BytesIO()
            small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(encoded, "PNG")
            member = tarfile.TarInfo(f"{label}/{number:04d}.png")
            member.size = encoded.tell()
            encoded.seek(0)
            tar.addfile(member, encoded)
    return packed.getvalue()
