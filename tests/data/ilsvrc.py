"""A miniature ILSVRC2012 in the true structure of the official files, for tests of any room."""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

# In the order of their ILSVRC2012 ids, 1 to 4: not the order of the wnids, which is the order of labels.
WNIDS = ("n02119789", "n02100735", "n02110185", "n01440764")
INNER = ("n00001740", "n00001930")
WORDS = {
    "n02119789": "kit fox, Vulpes macrotis",
    "n02100735": "English setter",
    "n02110185": "Siberian husky",
    "n01440764": "tench, Tinca tinca",
    "n00001740": "entity",
    "n00001930": "physical entity",
}


@dataclass(frozen=True)
class Miniature:
    """`tars`: the three official files in a folder. `extracted`: the same as they unpack. `answers`: val's wnids."""

    tars: Path
    extracted: Path
    answers: tuple[str, ...]


def jpeg(seed: int, size: tuple[int, int] = (24, 18)) -> bytes:
    """A small JPEG, different for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """A regular member of these bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def meta_mat(wnids: tuple[str, ...] = WNIDS) -> bytes:
    """The devkit's meta.mat: leaves first, then the inner synsets, whose ids lie above the leaves'."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    every = (*wnids, *INNER)
    synsets = np.zeros((len(every), 1), dtype=[(field, object) for field in (*fields, "num_train_images")])
    for index, wnid in enumerate(every):
        leaf = wnid in wnids
        children = [] if leaf else list(range(1, len(wnids) + 1))
        synsets[index, 0] = (
            float(index + 1), wnid, f"{WORDS.get(wnid, wnid)} of the devkit", f"a {wnid}", float(len(children)),
            np.array([children], float), 0.0 if leaf else 1.0, 3.0 if leaf else 0.0,
        )  # fmt: skip
    stream = io.BytesIO()
    savemat(stream, {"synsets": synsets})
    return stream.getvalue()


def devkit(path: Path, answers: tuple[str, ...], wnids: tuple[str, ...] = WNIDS) -> None:
    """ILSVRC2012_devkit_t12.tar.gz: meta.mat and the validation images' ILSVRC2012 ids, among other files."""
    ids = "".join(f"{wnids.index(wnid) + 1}\n" for wnid in answers)
    with tarfile.open(path, "w:gz") as tar:
        add(tar, "ILSVRC2012_devkit_t12/readme.txt", b"miniature")
        add(tar, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", ids.encode())
        add(tar, "ILSVRC2012_devkit_t12/data/meta.mat", meta_mat(wnids))


def miniature(root: Path, *, images: int = 3, answers: tuple[str, ...] | None = None) -> Miniature:
    """Write `images` training images a class and one validation image an answer, as tars and extracted."""
    answers = answers or tuple(WNIDS[index % len(WNIDS)] for index in (3, 1, 0, 2, 2, 0, 1, 3))
    tars, extracted = root / "tars", root / "extracted"
    tars.mkdir(parents=True)
    (extracted / "val").mkdir(parents=True)
    with tarfile.open(tars / "ILSVRC2012_img_train.tar", "w") as outer:
        for index, wnid in enumerate(WNIDS):
            packed = io.BytesIO()
            (extracted / "train" / wnid).mkdir(parents=True)
            with tarfile.open(fileobj=packed, mode="w") as inner:
                # Numbers of different lengths, so that the order of names is not that of numbers.
                for number in (10026, *range(999, 999 - images + 1, -1)):
                    name, content = f"{wnid}_{number}.JPEG", jpeg(1000 * index + number)
                    add(inner, name, content)
                    (extracted / "train" / wnid / name).write_bytes(content)
            add(outer, f"{wnid}.tar", packed.getvalue())
    with tarfile.open(tars / "ILSVRC2012_img_val.tar", "w") as tar:
        for number in range(1, len(answers) + 1):
            name, content = f"ILSVRC2012_val_{number:08d}.JPEG", jpeg(900_000 + number)
            add(tar, name, content)
            (extracted / "val" / name).write_bytes(content)
    devkit(tars / "ILSVRC2012_devkit_t12.tar.gz", answers)
    devkit(extracted / "ILSVRC2012_devkit_t12.tar.gz", answers)
    return Miniature(tars, extracted, answers)
