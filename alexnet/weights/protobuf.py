"""How protobuf lies in bytes: numbers of seven bits a byte, and the fields of a message; no message is made of them.

Caffe's, TensorFlow's and ONNX's files are such messages. A file of a stranger is walked through so, within bounds,
before a library sees any of it.
"""

from collections.abc import Iterator

import numpy as np

RUN = 1 << 12  # values of an unpacked list that are looked at together


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at `at`, of at most 10 bytes, and where it ends. ValueError: there is none."""
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise ValueError(f"no number at byte {at}")


def fields_of(data: memoryview, *, most: int) -> Iterator[tuple[int, int | memoryview, memoryview]]:
    """The fields of a message: the number; the value, or the bytes of a text, a message or a list; the whole field.

    A run of floats that are fields of their own, as an unpacked list has them, comes as one list. ValueError: cut
    short, a group, or more than `most` fields.
    """
    at = count = 0
    while at < len(data):
        begin, count = at, count + 1
        if count > most:
            raise ValueError(f"a message of more than {most} fields")
        key, at = varint(data, at)
        value: int | memoryview
        match key & 7:
            case 0:
                value, at = varint(data, at)
            case 2:
                length, at = varint(data, at)
                value, at = data[at : at + length], at + length
            case 1 | 5 as wire:
                value, at = _run(data, begin, at, 8 if wire == 1 else 4)
            case wire:
                raise ValueError(f"a field of wire type {wire} at byte {begin}, expected 0, 1, 2 or 5")
        if at > len(data):
            raise ValueError(f"cut short: a field ends at byte {at} of {len(data)}")
        yield key >> 3, value, data[begin:at]


def _run(data: memoryview, begin: int, at: int, size: int) -> tuple[memoryview, int]:
    """The values of the fields from `begin` on that begin with the same bytes, up to `at`; and where the last ends."""
    step = at - begin + size
    records = np.frombuffer(data[begin:], np.uint8)
    records = records[: len(records) // step * step].reshape(-1, step)
    same = 0
    while same < len(records):
        piece = records[same : same + RUN, : at - begin]
        other = np.flatnonzero((piece != records[0, : at - begin]).any(1))
        same += int(other[0]) if len(other) else len(piece)
        if len(other):
            break
    # where the first is cut short, its end is beyond the message's
    return records[:same, at - begin :].reshape(-1).data, begin + max(same, 1) * step
