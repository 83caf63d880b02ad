"""A pickle, or a .npy file of objects -> arrays, numbers, text, lists and dictionaries, and nothing else.

The weights of the years before safetensors come as pickles of Python 2 and 3. They are not unpickled: the opcodes are
followed here, of which only those are known that build such values. NumPy's arrays are the one exception, and stand in
`CALLS`; nothing else is ever looked up by a name that the file gives. A program's own instances can be stepped over,
where the reader of its files says by what names: nothing is built for them, and what they hold is dropped.
"""

import math
import pickletools
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ..data.samples import shown
from ..errors import WeightsError

MOST_BYTES = 1 << 30  # of a file
# each builds a value of some 60 bytes at the most; cuda-convnet keeps what every batch came to, in 15 opcodes, and some
# 120,000 batches are a whole training
MOST_OPCODES = 3_000_000
MOST_DEPTH = 32
MOST_AXES = 8
NUMBER = re.compile(r"b1|[iu][1248]|f[248]|O8?")  # the types of an array
HEADER = re.compile(
    rb"\{'descr': '([<>|=]?[a-zA-Z]\d*)', 'fortran_order': (False|True), "
    rb"'shape': \(((?:\d{1,19}L?(?:, ?\d{1,19}L?)*,?)?)\),? ?\} *\n"
)


class _Refused(Exception):
    """Why the opcodes are not followed further."""


@dataclass
class _Type:
    """A NumPy dtype as a pickle builds it: its letter and size, then its order of bytes."""

    letter: str
    order: str = "|"

    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.letter if self.order == "|" else self.order + self.letter)


@dataclass(frozen=True)
class _Name:
    """What a pickle asks for by name; known or not, it is only a name here."""

    module: str
    name: str


class _Mark:
    """Where the items of a list or dictionary begin on the stack."""


MARK = _Mark()
VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
GIVEN = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
         "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
         "BINBYTES8", "BYTEARRAY8"}  # fmt: skip
LEFT_OUT = {"PROTO", "FRAME"}


def read_pickle(path: Path, *, left_out: Collection[str] = (), stepped_over: Collection[tuple[str, str]] = ()) -> Any:
    """The value of a pickle; text of Python 2 is read as Latin-1.

    What stands under a key in `left_out` is dropped from every dictionary; there, and nowhere else, classes may stand
    that are in `stepped_over` (module, name), and their old-style instances.

    WeightsError, naming what it asks for: anything else than arrays of numbers, numbers, text, bytes, lists, tuples and
    dictionaries; arrays larger together than the file; values within values more than 32 deep, or that come to more
    than three million however they share; damage.
    """
    return _value(_content(path), shown(str(path)), left_out, stepped_over)


def read_npy(path: Path) -> Any:
    """The array in a .npy file; of one that holds a single object (`np.save` of a dictionary), that value.

    WeightsError as `read_pickle`.
    """
    where, content = shown(str(path)), _content(path)
    wide = 2 if content[6:7] == b"\x01" else 4
    length = int.from_bytes(content[8 : 8 + wide], "little")
    begin = 8 + wide
    said = HEADER.fullmatch(content[begin : begin + length])
    if not content.startswith(b"\x93NUMPY") or content[6:7] not in (b"\x01", b"\x02") or said is None:
        raise WeightsError(f"{where}: no .npy file, or one of a kind that is not read")
    body = content[begin + length :]
    shape = tuple(int(n) for n in re.findall(r"\d+", said[3].decode()))
    kind = said[1].decode()
    if kind.lstrip("<>|=").startswith("O"):
        value = _value(body, where)
        if not isinstance(value, np.ndarray) or value.dtype != object or value.shape != shape:
            raise WeightsError(f"{where}: its objects are not the array that its header says")
        return value if shape else value.item()
    if not NUMBER.fullmatch(kind.lstrip("<>|=")):
        raise WeightsError(f"{where}: an array of {kind}; only arrays of numbers are read")
    dtype = np.dtype(kind)
    if len(shape) > MOST_AXES or math.prod(shape) * dtype.itemsize != len(body):
        raise WeightsError(f"{where}: {len(body)} bytes of values, expected those of {dtype} {shape}")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if said[2] == b"True" else "C")


def _content(path: Path) -> bytes:
    where = shown(str(path))
    try:
        if not path.is_file():
            raise WeightsError(f"{where}: no regular file")
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as reason:
        raise WeightsError(f"{where}: {reason.strerror}") from None
    if len(content) > MOST_BYTES:
        raise WeightsError(f"{where}: more than the {MOST_BYTES} bytes that are read")
    return content


def _value(
    content: bytes, where: str, left_out: Collection[str] = (), stepped_over: Collection[tuple[str, str]] = ()
) -> Any:
    try:
        return _Machine(content, left_out, stepped_over).run()
    except _Refused as reason:
        raise WeightsError(f"{where}: not read: {shown(str(reason)[:200])}") from None
    except (ValueError, OverflowError) as reason:  # of pickletools: an opcode that is none, or is cut
        raise WeightsError(f"{where}: not read: no pickle, or a damaged one ({shown(str(reason)[:100])})") from None


class _Machine:
    """Follows a pickle's opcodes: a stack, and a memo of what was built."""

    def __init__(
        self, content: bytes, left_out: Collection[str] = (), stepped_over: Collection[tuple[str, str]] = ()
    ) -> None:
        self.content = content
        self.left_out = left_out
        self.inert = {_Name(*name) for name in stepped_over}
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.left = len(content)  # bytes that arrays may still take: all of them lie in the file
        self.copied = len(content)  # and that text may that stands for bytes

    def run(self) -> Any:
        """The value that is left when the pickle says stop."""
        if self.content.startswith(b"PK\x03\x04"):
            raise _Refused("a zip; unpack the pickle that is in it")
        for count, (opcode, argument, _) in enumerate(pickletools.genops(BytesIO(self.content))):
            if count > MOST_OPCODES:
                raise _Refused(f"more than {MOST_OPCODES} opcodes")
            if opcode.name == "STOP":
                break
            self.step(opcode.name, argument)
        value = self.pop()
        _check(value)
        return value

    def step(self, name: str, argument: Any) -> None:
        """One opcode."""
        match name:
            case "MARK":
                self.stack.append(MARK)
            case "POP":
                self.pop()
            case "POP_MARK":
                self.items()
            case "DUP":
                self.stack.append(self.top(object))
            case "EMPTY_LIST":
                self.stack.append([])
            case "EMPTY_DICT":
                self.stack.append({})
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "LIST":
                self.stack.append(self.items())
            case "TUPLE":
                self.stack.append(tuple(self.items()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self.pop() for _ in range(int(name[-1]))]
                self.stack.append(tuple(reversed(items)))
            case "DICT":
                items = self.items()
                self.stack.append({})
                self.put(items)
            case "APPEND":
                item = self.pop()
                self.top(list).append(item)
            case "APPENDS":
                items = self.items()
                self.top(list).extend(items)
            case "SETITEM":
                value, key = self.pop(), self.pop()
                self.put([key, value])
            case "SETITEMS":
                self.put(self.items())
            case "GET" | "BINGET" | "LONG_BINGET":
                if argument not in self.memo:
                    raise _Refused(f"takes {argument} from the memo, where nothing is")
                self.stack.append(self.memo[argument])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.top(object)
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.top(object)
            case "GLOBAL":
                self.stack.append(self.known(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                last, module = self.pop(), self.pop()
                self.stack.append(self.known(module, last))
            case "REDUCE":
                arguments, called = self.pop(), self.pop()
                self.stack.append(self.call(called, arguments))
            case "OBJ":
                made = next(iter(self.items()), None)
                if not isinstance(made, _Name) or made not in self.inert:
                    raise _Refused("builds an instance of what is no class")
                self.stack.append(made)
            case "BUILD":
                state = self.pop()
                self.build(self.top(object), state)
            case _ if name in VALUES:
                self.stack.append(VALUES[name])
            case _ if name in GIVEN:
                self.stack.append(argument)
            case _ if name not in LEFT_OUT:
                raise _Refused(
                    f"builds something with {name}; only arrays, numbers, text, lists and dictionaries are read"
                )

    def pop(self) -> Any:
        """The value on top of the stack, taken off."""
        self.top(object)
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        """The value on top of the stack, which must be of this kind."""
        if not self.stack or self.stack[-1] is MARK:
            raise _Refused("takes from the stack what is not there")
        if not isinstance(self.stack[-1], kind):
            raise _Refused(f"fills {type(self.stack[-1]).__name__} as if it were {kind.__name__}")
        return self.stack[-1]

    def items(self) -> list[Any]:
        """The values above the last mark, taken off with it."""
        items = []
        while self.stack and self.stack[-1] is not MARK:
            items.append(self.stack.pop())
        if not self.stack:
            raise _Refused("ends a list that did not begin")
        self.stack.pop()
        return items[::-1]

    def put(self, items: list[Any]) -> None:
        """Keys and values in turn, into the dictionary on top of the stack."""
        found = self.top(dict)
        if len(items) % 2:
            raise _Refused("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # the hash of a large integer can be chosen, that of a deep tuple ends the process
            if not isinstance(key, str | bytes) and not (isinstance(key, int) and abs(key) < 1 << 32):
                raise _Refused(f"a key of type {type(key).__name__}")
            if key not in self.left_out:
                found[key] = value

    def known(self, module: Any, name: Any) -> _Name:
        """One of the names that are known; any other is refused by name."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise _Refused("asks for something by what is no name")
        found = _Name(module, name)
        if found != NDARRAY and found not in CALLS and found not in self.inert:
            raise _Refused(f"asks for {module}.{name}; only arrays, numbers, text, lists and dictionaries are read")
        return found

    def call(self, called: Any, arguments: Any) -> Any:
        """What one of `CALLS` makes of what it takes."""
        if not isinstance(called, _Name) or not isinstance(arguments, tuple) or called not in CALLS:
            raise _Refused("calls what is no function")
        make, kinds = CALLS[called]
        if len(arguments) != len(kinds) or not all(map(isinstance, arguments, kinds)):
            raise _Refused(f"calls {called.module}.{called.name} with what it does not take")
        return make(self, *arguments)

    def build(self, made: Any, state: Any) -> None:
        """Gives a type its order of bytes, or an array its shape, type and values."""
        match made, state:
            case _Type(), (3 | 4, "<" | ">" | "|" | "=" as order, None, None, None, *_):
                made.order = order
            case _Name(), _ if made in self.inert:
                pass
            case np.ndarray(), (1, tuple() as shape, _Type(letter="O"), bool() | int(), list() as objects):
                if self.size(shape) != len(objects):
                    raise _Refused("an array of objects whose number is another")
                _fill(made, shape, np.dtype(object), False, objects)
            case np.ndarray(), (1, tuple() as shape, _Type() as kind, bool() | int() as fortran, raw):
                raw = raw.encode("latin-1") if isinstance(raw, str) else raw
                _fill(made, shape, kind.dtype(), bool(fortran), self.values(shape, kind, raw))
            case _:
                raise _Refused(f"sets the state of {type(made).__name__}")

    def size(self, shape: tuple[Any, ...]) -> int:
        """How many values an array of this shape has."""
        if len(shape) > MOST_AXES or any(type(n) is not int or n < 0 for n in shape):
            raise _Refused("an array whose shape is none")
        return math.prod(shape)

    def values(self, shape: tuple[Any, ...], kind: _Type, raw: Any) -> bytes:
        """The values of an array of numbers, as many as its shape and type say."""
        if kind.letter == "O" or not isinstance(raw, bytes | bytearray):
            raise _Refused("an array without values")
        need = self.size(shape) * kind.dtype().itemsize
        if len(raw) != need:
            raise _Refused(f"an array of {need} bytes by its shape, and of {len(raw)} by its values")
        self.left -= need
        if self.left < 0:
            raise _Refused("arrays that are larger than the file")
        return bytes(raw)

    def encode(self, text: str, coding: str) -> bytes:
        """Bytes as protocols 0 to 2 of Python 3 write them."""
        self.copied -= len(text)
        if coding != "latin1" or self.copied < 0:
            raise _Refused(f"text in {coding[:20]!r}, or more of it than the file has")
        return text.encode("latin-1")

    def nothing(self) -> bytes:
        """No bytes, as protocols 0 to 2 of Python 3 write them."""
        return b""

    def empty(self, kind: _Name, shape: tuple[Any, ...], letter: str | bytes) -> np.ndarray:
        """An array without values, to be built."""
        if kind != NDARRAY or shape != (0,) or letter not in ("b", b"b"):
            raise _Refused("an array that does not begin empty")
        return np.empty(0, np.int8)

    def type(self, letter: str, *_: object) -> _Type:
        """A type of numbers, or that of objects."""
        if not NUMBER.fullmatch(letter):
            raise _Refused(f"an array of {letter[:20]!r}; only arrays of numbers are read")
        return _Type("O" if letter.startswith("O") else letter)

    def scalar(self, kind: _Type, raw: bytes | str) -> Any:
        """A number of NumPy's, as Python's."""
        return self.buffer(raw.encode("latin-1") if isinstance(raw, str) else raw, kind, (), "C").item()

    def buffer(self, raw: bytes | bytearray, kind: _Type, shape: tuple[Any, ...], order: str) -> np.ndarray:
        """An array as protocol 5 writes it."""
        flat = np.frombuffer(self.values(shape, kind, raw), kind.dtype())
        return flat.reshape(shape, order="F" if order == "F" else "C")


NDARRAY = _Name("numpy", "ndarray")
NUMPY = ("numpy.core", "numpy._core")  # as NumPy 1 and 2 call it
# what a pickle may call, what is called instead, and what it takes
CALLS: dict[_Name, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    **{_Name(f"{core}.multiarray", "_reconstruct"): (_Machine.empty, (_Name, tuple, str | bytes)) for core in NUMPY},
    **{_Name(f"{core}.multiarray", "scalar"): (_Machine.scalar, (_Type, bytes | str)) for core in NUMPY},
    **{_Name(f"{core}.numeric", "_frombuffer"): (_Machine.buffer, (bytes | bytearray, _Type, tuple, str))
       for core in NUMPY},
    _Name("numpy", "dtype"): (_Machine.type, (str, int, int)),
    _Name("_codecs", "encode"): (_Machine.encode, (str, str)),
    _Name("__builtin__", "bytes"): (_Machine.nothing, ()),
    _Name("builtins", "bytes"): (_Machine.nothing, ()),
}  # fmt: skip


def _fill(array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool, values: object) -> None:
    """Makes an array another in place, for others may hold it; the values are as many as they must be."""
    state: Any = (1, shape, dtype, fortran, values)
    array.__setstate__(state)


def _check(value: Any) -> None:
    """Refuses what holds something that is only a step to a value, holds itself, or comes to more than it may."""
    count, waiting = 1, [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        if isinstance(one, _Type | _Name):
            raise _Refused("a type where a value should be")
        inner = _inner(one)
        count += len(inner)
        if depth > MOST_DEPTH or count > MOST_OPCODES:
            raise _Refused("values within values, too deep or too often")
        waiting += [(part, depth + 1) for part in inner]


def _inner(value: Any) -> list[Any]:
    """What a value holds; of an array of numbers nothing."""
    match value:
        case np.ndarray():
            return value.ravel().tolist() if value.dtype == np.object_ else []
        case dict():
            return list(value.values())
        case list() | tuple():
            return [*value]
        case _:
            return []
