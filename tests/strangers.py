"""Model files that a stranger might send: each wants to run something, to fill the memory, or lies about itself."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from alexnet.weights.recognise import LEGACY

CANARY = "canary"  # the file that a pickle of ours would touch, in the folder of the file
PROTOCOL = b"\x80\x02"


def hole(path: Path) -> None:
    """A file of a terabyte that takes no room."""
    path.touch()
    os.truncate(path, 1 << 40)


def text(said: str) -> bytes:
    return b"X" + len(said).to_bytes(4, "little") + said.encode()


def number(n: int) -> bytes:
    return b"\x8a\x08" + n.to_bytes(8, "little", signed=True)


def tensor(*, elements: int = 4, shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,)) -> bytes:
    """The opcodes of a tensor over so many elements of the storage `data/0`."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(elements) + b"tQ"
    sizes, steps = (b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (shape, strides))
    rest = number(0) + sizes + steps + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tR"


def named(content: bytes) -> bytes:
    """A whole pickle: a dictionary with one entry, `a`."""
    return PROTOCOL + b"}" + text("a") + content + b"s."


def torch_zip(
    path: Path,
    content: bytes,
    data: bytes = bytes(16),
    *,
    method: int = zipfile.ZIP_STORED,
    declared: int | None = None,
) -> None:
    """A zip as torch.save lays it out, with any pickle and any storage, which may say that it has more bytes."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", data)
        archive.writestr("archive/version", "3\n")
        if declared is not None:
            archive.getinfo("archive/data/0").file_size = declared


def _call(canary: Path) -> bytes:
    """A call of os.system, protocol 0, as what `__reduce__` gives becomes."""
    return b"cposix\nsystem\n(" + text(f"touch {canary}") + b"tR"


def system(path: Path) -> None:
    torch_zip(path, PROTOCOL + _call(path.parent / CANARY) + b".")


def among_tensors(path: Path) -> None:
    """The call stands behind a good tensor, in a dictionary of the right form."""
    call = text("x") + _call(path.parent / CANARY)
    torch_zip(path, PROTOCOL + b"}(" + text("conv1.weight") + tensor() + call + b"u.")


def evaluated(path: Path) -> None:
    code = f"open({str(path.parent / CANARY)!r}, 'w')"
    torch_zip(path, PROTOCOL + b"cbuiltins\neval\n(" + text(code) + b"tR.")


def instance(path: Path) -> None:
    torch_zip(path, b"(" + text(f"touch {path.parent / CANARY}") + b"iposix\nsystem\n.")


def built(path: Path) -> None:
    """State set on a tensor's class, which CVE-2025-32434 and its like begin with."""
    torch_zip(path, PROTOCOL + b"ctorch\nTensor\n}X\x07\x00\x00\x00__new__" + _call(path.parent / CANARY) + b"sb.")


def legacy(path: Path) -> None:
    """No zip: the form before torch 1.6, whose first pickle is the call."""
    path.write_bytes(PROTOCOL + _call(path.parent / CANARY) + b".")


def legacy_behind_its_magic(path: Path) -> None:
    path.write_bytes(LEGACY + PROTOCOL + _call(path.parent / CANARY) + b".")


def legacy_tar(path: Path) -> None:
    """The oldest form: a tar of pickles."""
    with tarfile.open(path, "w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = PROTOCOL + _call(path.parent / CANARY) + b"."
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def nested_zip(path: Path) -> None:
    inner = path.with_name("inner.pth")
    system(inner)
    torch_zip(path, inner.read_bytes(), inner.read_bytes())
    inner.unlink()


def torchscript(path: Path) -> None:
    torch_zip(path, PROTOCOL + _call(path.parent / CANARY) + b".")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/constants.pkl", PROTOCOL + _call(path.parent / CANARY) + b".")
        archive.writestr("archive/code/__torch__.py", f"open({str(path.parent / CANARY)!r}, 'w')")


def terabyte(path: Path) -> None:
    """A storage whose entry says that it has a terabyte; there are 16 bytes."""
    torch_zip(path, named(tensor(elements=1 << 38)), declared=1 << 40)


def deflated(path: Path) -> None:
    """200 MB of zeros in 200 KB."""
    torch_zip(path, named(tensor()), bytes(200_000_000), method=zipfile.ZIP_DEFLATED)


def set_item_of_no_dictionary(path: Path) -> None:
    """CVE-2026-24747: SETITEM with a tensor under it where a dictionary should be."""
    torch_zip(path, PROTOCOL + tensor() + b"K\x00K\x01s.")


def set_items_of_a_list(path: Path) -> None:
    torch_zip(path, PROTOCOL + b"](K\x00K\x01u.")


def storage_too_short(path: Path) -> None:
    """CVE-2026-24747: the pickle counts more elements than the storage's bytes hold."""
    torch_zip(path, named(tensor(elements=100_000, shape=(1000, 100), strides=(100, 1))))


def shape_beyond_its_storage(path: Path) -> None:
    torch_zip(path, named(tensor(shape=(1 << 28,))))


def spread(path: Path) -> None:
    """One value, spread over 2^60 by strides of 0."""
    torch_zip(path, named(tensor(shape=(1 << 30, 1 << 30), strides=(0, 0))))


def two_gigabytes(path: Path) -> None:
    """As `spread`, of a size that a machine has: only the limit refuses it."""
    torch_zip(path, named(tensor(shape=(1 << 15, 1 << 14), strides=(0, 0))))


def laughs(path: Path) -> None:
    """Lists of two times the list before: 2^64 values to whoever walks them."""
    layers = b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(64))
    torch_zip(path, PROTOCOL + b"]q\x00" + layers + b".")


def deep(path: Path) -> None:
    torch_zip(path, PROTOCOL + b"]" * 500_000 + b"a" * 499_999 + b".")


def endless(path: Path) -> None:
    """Some minutes of opcodes that come to nothing."""
    torch_zip(path, PROTOCOL + b"]" + b"Na" * 40_000_000 + b".")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def words(path: Path) -> None:
    path.write_text("<!DOCTYPE html><title>404</title>")


def cut(path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(1000)}, stream)
    path.write_bytes(stream.getvalue()[:2000])


PTH: dict[str, Callable[[Path], None]] = {
    made.__name__: made
    for made in (
        system, among_tensors, evaluated, instance, built, legacy, legacy_behind_its_magic, legacy_tar, nested_zip,
        torchscript, terabyte, deflated, set_item_of_no_dictionary, set_items_of_a_list, storage_too_short,
        shape_beyond_its_storage, spread, two_gigabytes, laughs, deep, endless, empty, words, cut,
    )
}  # fmt: skip
