"""Values -> pickles as Python 2 wrote them in protocol 2: text is a string of bytes, an array's values are one too."""

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(eq=False)
class Class:
    """An old-style class, by its name."""

    module: str
    name: str


@dataclass(eq=False)
class Instance:
    """An instance of one, with its attributes."""

    of: Class
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Raw:
    """Opcodes that leave a value on the stack, put where a value would be."""

    opcodes: bytes


RECONSTRUCT, NDARRAY = Class("numpy.core.multiarray", "_reconstruct"), Class("numpy", "ndarray")
DTYPE = Class("numpy", "dtype")


def dumps(value: Any) -> bytes:
    """The pickle of a value; what is met again by identity is a reference, as cPickle does."""
    writer = _Writer()
    writer.save(value)
    return b"\x80\x02" + bytes(writer.out) + b"."


def npy(value: Any) -> bytes:
    """The .npy file that np.save of Python 2 made of any one value: an array of no axes, whose object is pickled."""
    array = np.empty((), object)
    array[()] = value
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (16 - (10 + len(header) + 1) % 16) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + dumps(array)


class _Writer:
    def __init__(self) -> None:
        self.out = bytearray()
        self.memo: dict[int, tuple[int, Any]] = {}  # the value is kept, so that no other gets its id

    def put(self, value: Any) -> None:
        n = len(self.memo)
        self.memo[id(value)] = n, value
        self.out += b"q" + bytes([n]) if n < 256 else b"r" + struct.pack("<I", n)

    def save(self, value: Any) -> None:
        if id(value) in self.memo:
            n = self.memo[id(value)][0]
            self.out += b"h" + bytes([n]) if n < 256 else b"j" + struct.pack("<I", n)
            return
        match value:
            case None:
                self.out += b"N"
            case bool():
                self.out += b"\x88" if value else b"\x89"
            case int() if 0 <= value < 256:
                self.out += b"K" + bytes([value])
            case int():
                self.out += b"J" + struct.pack("<i", value)
            case float():
                self.out += b"G" + struct.pack(">d", value)
            case str() | bytes():
                raw = value.encode("latin-1") if isinstance(value, str) else value
                self.out += b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))
                self.out += raw
                self.put(value)
            case tuple():
                if len(value) > 3:
                    self.out += b"("
                for one in value:
                    self.save(one)
                self.out += [b")", b"\x85", b"\x86", b"\x87"][len(value)] if len(value) < 4 else b"t"
                if value:
                    self.put(value)
            case list():
                self.out += b"]"
                self.put(value)
                self.out += b"("
                for one in value:
                    self.save(one)
                self.out += b"e"
            case dict():
                self.out += b"}"
                self.put(value)
                self.out += b"("
                for key, one in value.items():
                    self.save(key)
                    self.save(one)
                self.out += b"u"
            case Raw():
                self.out += value.opcodes
            case Class():
                self.out += f"c{value.module}\n{value.name}\n".encode()
                self.put(value)
            case Instance():
                self.out += b"("
                self.save(value.of)
                self.out += b"o"
                self.put(value)
                self.save(value.state)
                self.out += b"b"
            case np.ndarray():
                fortran = value.flags.f_contiguous and not value.flags.c_contiguous
                objects = value.dtype.hasobject
                raw = value.ravel().tolist() if objects else value.tobytes("F" if fortran else "C")
                self.reduce(RECONSTRUCT, (NDARRAY, (0,), "b"), value)
                self.save((1, value.shape, value.dtype, fortran, raw))
                self.out += b"b"
            case np.dtype():
                self.reduce(DTYPE, ("O8" if value.hasobject else value.str[1:], 0, 1), value)
                self.save((3, "|" if value.hasobject else value.str[0], None, None, None, -1, -1, 0))
                self.out += b"b"
            case _:
                raise TypeError(type(value))

    def reduce(self, called: Class, arguments: tuple[Any, ...], value: Any) -> None:
        self.save(called)
        self.save(arguments)
        self.out += b"R"
        self.put(value)
