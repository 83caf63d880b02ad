"""ImageNet (ILSVRC2012) as it comes -> sample table: the official tars unextracted, or the same files extracted.

The training tar holds one tar a class, so a picture's place in it is its class tar's offset plus its own. Labels follow
the wnids in ASCII order, as everybody's weights do; the devkit's ILSVRC2012_ID, in which the validation answers are
given, is another order.
"""

import re
import struct
import tarfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np

from ..errors import DataError
from .classes import WNID, Classes
from .folders import entries, folder_samples, images_below
from .index import indexed
from .samples import LeftOut, Samples, shown
from .tars import Member, image_members, members

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12"
META = f"{DEVKIT}/data/meta.mat"
ANSWERS = f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt"
VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
MOST_DEVKIT_BYTES = 64 << 20
# What scipy's reader raises, beside its own error, when a damaged file leads it astray.
DAMAGED = (ValueError, TypeError, LookupError, AttributeError, OSError, EOFError, ArithmeticError, NotImplementedError,
           zlib.error, struct.error)  # fmt: skip


def is_flat_val(folder: Path) -> bool:
    """Whether a folder holds ILSVRC2012's validation images directly, as the official tar unpacks."""
    return folder.is_dir() and any(VAL_NAME.fullmatch(entry.name) for entry in entries(folder))


def is_ilsvrc(folder: Path) -> bool:
    """Whether a folder holds ILSVRC2012: an official tar, or the validation images flat in `val/`."""
    return (folder / TRAIN_TAR).is_file() or (folder / VAL_TAR).is_file() or is_flat_val(folder / "val")


def ilsvrc_sets(folder: Path) -> tuple[Samples, Samples]:
    """(train, val) of ILSVRC2012 in `folder`, each from its official tar or from `train/` or `val/`, where it is.

    DataError names the missing file.
    """
    train, val = folder / TRAIN_TAR, folder / VAL_TAR
    if train.is_file():
        train_samples = train_tar_samples(train)
    elif (folder / "train").is_dir():
        train_samples = folder_samples(folder / "train")
    else:
        raise DataError(f"{shown(str(train))}: missing (nor is there a train/ folder beside the validation images)")
    if (folder / META).is_file() or (folder / f"{DEVKIT}.tar.gz").is_file():
        keys, (_, words) = train_samples.classes.keys, _devkit(folder)
        # The devkit's own words where it has the class; a set that was added to keeps ours.
        named = tuple(words.get(key, ours) for key, ours in zip(keys, train_samples.classes.words, strict=True))
        train_samples = train_samples.as_classes(Classes(keys, named), shown(str(folder)))
    if val.is_file() or is_flat_val(folder / "val"):
        return train_samples, val_samples(val if val.is_file() else folder / "val")
    if (folder / "val").is_dir():
        return train_samples, folder_samples(folder / "val")
    raise DataError(f"{shown(str(val))}: missing beside {TRAIN_TAR} (nor is there a val/ folder)")


def train_tar_samples(path: Path) -> Samples:
    """The training images of `ILSVRC2012_img_train.tar`; the classes are the wnids whose tars it holds.

    Its 1.28 million headers lie scattered over 138 GB: `index.py` keeps what they say.

    DataError: a member that is no class tar, a class tar without images, and as `members`.
    """
    samples, _ = indexed("ILSVRC2012 train", [path], lambda: (_train_table(path), None), tar=True)
    return samples


def _train_table(path: Path) -> Samples:
    """The training images, sorted by class, then by name."""
    tars: dict[str, Member] = {}
    for member in members(path):
        wnid, _, suffix = member.name.partition(".")
        if not WNID.fullmatch(wnid) or suffix != "tar" or wnid in tars:
            raise DataError(f"{shown(str(path))}: member {shown(member.name)}: expected one nXXXXXXXX.tar a class")
        tars[wnid] = member
    if not tars:
        raise DataError(f"{shown(str(path))}: no class tars in it")
    ignored = LeftOut()
    names: list[str] = []
    sizes: list[int] = []
    offsets: list[int] = []
    labels: list[int] = []
    wnids = sorted(tars)
    for label, wnid in enumerate(wnids):
        tar = tars[wnid]
        images = image_members(path, ignored, start=tar.offset, end=tar.offset + tar.size)
        if not images:
            raise DataError(f"{shown(str(path))}: member {tar.name}: a class tar without images")
        names += [f"{tar.name}/{image.name}" for image in images]
        sizes += [image.size for image in images]
        offsets += [image.offset for image in images]
        labels += [label] * len(images)
    return Samples.build(
        path.parent,
        names,
        label=labels,
        classes=Classes.of(wnids, shown(str(path))),
        size=sizes,
        files=[path],
        file=np.zeros(len(labels), np.int32),
        offset=offsets,
        ignored=ignored,
    )


def val_samples(where: Path) -> Samples:
    """The validation images of `ILSVRC2012_img_val.tar`, or of a folder of them, labelled by the devkit beside it.

    DataError: no devkit, an image that it does not answer for, and as `members`.
    """
    wnid_of, words = _devkit(where.parent)
    ignored = LeftOut()
    if where.is_dir():
        images = [Member(name, 0, size) for name, size in images_below(where, ignored, set())]
    else:
        images = image_members(where, ignored)
    if not images:
        raise DataError(f"{shown(str(where))}: no images in it")
    wnids = []
    for image in images:
        name = VAL_NAME.fullmatch(image.name)
        if not name or not 1 <= int(name[1]) <= len(wnid_of):
            raise DataError(
                f"{shown(str(where))}: {shown(image.name)}: expected ILSVRC2012_val_NNNNNNNN.JPEG, "
                f"00000001 to {len(wnid_of):08d}, as the devkit has answers"
            )
        wnids.append(wnid_of[int(name[1]) - 1])
    keys = sorted(set(wnids))
    label = {key: index for index, key in enumerate(keys)}
    tarred = not where.is_dir()
    return Samples.build(
        where.parent if tarred else where,
        [image.name for image in images],
        label=[label[wnid] for wnid in wnids],
        classes=Classes(tuple(keys), tuple(words[key] for key in keys)),
        size=[image.size for image in images],
        files=[where] if tarred else [],
        file=np.zeros(len(images), np.int32) if tarred else None,
        offset=[image.offset for image in images] if tarred else None,
        ignored=ignored,
    )


def _devkit(folder: Path) -> tuple[list[str], dict[str, str]]:
    """From the devkit in `folder`: the wnid of each validation image, by its number minus one; the words of a wnid."""
    # Imported here: only ImageNet's devkit needs it, and it is slow to import.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    meta, answers = _devkit_files(folder)
    where = shown(str(folder / META))
    try:
        synsets = np.atleast_1d(loadmat(BytesIO(meta), squeeze_me=True)["synsets"])
        # The leaves are the classes; the inner nodes of WordNet's tree are listed too, with ids above them.
        leaves = [s for s in synsets if int(s["num_children"]) == 0]
        wnid_of = {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in leaves}
        words = {str(s["WNID"]): str(s["words"]) for s in leaves}
    except (MatReadError, *DAMAGED) as reason:
        raise DataError(f"{where}: not the devkit's meta.mat ({reason})") from None
    wnids = []
    for number, line in enumerate(answers.decode("ascii", "replace").split(), start=1):
        wnid = wnid_of.get(int(line)) if line.isdigit() else None
        if wnid is None or not WNID.fullmatch(wnid):
            raise DataError(f"{shown(str(folder / ANSWERS))}: line {number}: {line!r} is no class of meta.mat")
        wnids.append(wnid)
    return wnids, words


def _devkit_files(folder: Path) -> tuple[bytes, bytes]:
    archive = folder / f"{DEVKIT}.tar.gz"
    extracted = [folder / META, folder / ANSWERS]
    if extracted[0].is_file():
        for path in extracted:
            if not path.is_file():
                raise DataError(f"{shown(str(path))}: missing; it holds the labels of the validation images")
        return extracted[0].read_bytes(), extracted[1].read_bytes()
    if not archive.is_file():
        raise DataError(f"{shown(str(archive))}: missing; it holds the labels of the validation images")
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if name not in (META, ANSWERS):
                    continue
                stream = tar.extractfile(member) if member.isreg() and member.size <= MOST_DEVKIT_BYTES else None
                if stream is None:
                    raise DataError(f"{shown(str(archive))}: member {name}: not a regular file of reasonable size")
                found[name] = stream.read()
                if len(found) == 2:
                    return found[META], found[ANSWERS]
    except (tarfile.TarError, OSError, EOFError) as reason:
        raise DataError(f"{shown(str(archive))}: damaged or cut short ({reason})") from None
    lacking = next(name for name in (META, ANSWERS) if name not in found)
    raise DataError(f"{shown(str(archive))}: it lacks {lacking}, which gives the validation images their labels")
