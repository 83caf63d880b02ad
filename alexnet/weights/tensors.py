"""A safetensors file -> tensors by name. Its header is judged here before the library sees the file."""

import json
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..data.samples import shown
from ..errors import WeightsError

MOST_HEADER_BYTES = 4_000_000  # an exported file has its mean image there: 1.05 MB for S = 256
MOST_TENSORS = 64  # the largest of ours: Adam's three for each of `bn`'s 18 parameters, 54; a model has 16, `bn` 42
MOST_AXES = 8
TYPES = {"BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
         "F16": torch.float16, "BF16": torch.bfloat16, "U32": torch.uint32, "I32": torch.int32, "F32": torch.float32,
         "U64": torch.uint64, "I64": torch.int64, "F64": torch.float64}  # fmt: skip
Shapes = dict[str, tuple[int, ...]]


class _Entry(NamedTuple):
    shape: tuple[int, ...]
    begin: int
    end: int


def read_shapes(path: Path, *, called: str | None = None) -> Shapes:
    """The shape of each tensor, from the header alone: nothing else is read.

    WeightsError, with the name `called` or the path: no safetensors file; a header of more than 4 MB or 64 tensors; a
    tensor whose bytes are not what its shape needs, or that do not lie one behind the other and fill the file.
    """
    where = called or shown(str(path))
    header, data = _header(path, where)
    header.pop("__metadata__", None)  # words about the file
    if len(header) > MOST_TENSORS:
        raise _unreadable(where, f"{len(header)} tensors; {MOST_TENSORS} are the most")
    entries = {name: _entry(name, said, where) for name, said in header.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1][1:]):
        if entry.begin != end:
            raise _unreadable(where, f"{shown(name)} begins at byte {entry.begin}, expected {end}")
        end = entry.end
    if end != data:
        raise _unreadable(where, f"{data} bytes of values, expected {end}")
    return {name: entry.shape for name, entry in entries.items()}


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a file has about itself, by name. WeightsError as `read_shapes`."""
    said = _header(path, shown(str(path)))[0].get("__metadata__", {})
    return {key: value for key, value in said.items() if isinstance(value, str)} if isinstance(said, dict) else {}


def read_tensors(path: Path, *, called: str | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, as they are in it. WeightsError as `read_shapes`."""
    read_shapes(path, called=called)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as reason:
        raise _unreadable(called or shown(str(path)), str(reason)) from None


def _header(path: Path, where: str) -> tuple[dict[str, Any], int]:
    """What the header says, and how many bytes of values are behind it."""
    try:
        if not path.is_file():
            raise WeightsError(f"{where}: cannot be read as safetensors (no regular file)")
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            data = path.stat().st_size - 8 - length
            if length > MOST_HEADER_BYTES:
                raise _unreadable(where, f"a header of {length} bytes; {MOST_HEADER_BYTES} are the most")
            if data < 0:
                raise _unreadable(where, "cut short within its header")
            header = json.loads(stream.read(length), object_pairs_hook=_once)
    except (ValueError, RecursionError) as reason:
        raise _unreadable(where, f"its header is no JSON: {reason}") from None
    except OSError as reason:
        raise _unreadable(where, reason.strerror or "an input or output error") from None
    if not isinstance(header, dict):
        raise _unreadable(where, "its header is no object")
    return header, data


def _unreadable(where: str, why: str) -> WeightsError:
    return WeightsError(f"{where}: cannot be read as safetensors ({why})")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _entry(name: str, said: Any, where: str) -> _Entry:
    """What the header says of a tensor, whose bytes are as many as its shape needs."""
    try:
        size, shape, (begin, end) = TYPES[said["dtype"]].itemsize, said["shape"], said["data_offsets"]
        numbers = [*shape, begin, end]
    except (KeyError, TypeError, ValueError):
        raise _unreadable(where, f"{shown(name)}: no dtype, shape and place of a tensor") from None
    # integers of Python: no product overflows
    if (
        any(type(number) is not int or number < 0 for number in numbers)
        or len(shape) > MOST_AXES
        or end - begin != size * prod(shape)
    ):
        raise _unreadable(where, f"{shown(name)}: its bytes are not what its shape needs")
    return _Entry(tuple(shape), begin, end)
