"""Files of features: .npy, .npz, HDF5, MATLAB's .mat and Parquet. Written a block at a time, read without trust.

Each holds, beside the values, the pictures' keys, labels and class keys, and what they were made with (`About`); an
.npy has these in a .json beside it. The same features are the same bytes.

Reading runs no code and follows no link to another file, and makes no room for values that are not there: none of the
files is compressed, so each must have the bytes that its shapes need.
"""

import dataclasses
import json
import math
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .. import files, stop
from ..data.cache import DAMAGE
from ..data.classes import Classes
from ..data.samples import UNLABELLED, shown
from ..errors import DataError, Stopped, UsageError, one_line

Dtype = Literal["float32", "float16"]
DTYPES: Final[tuple[Dtype, ...]] = get_args(Dtype)
SCHEMA: Final = 1
KEY, LABEL, CLASSES, ABOUT = "key", "label", "classes", "about"  # beside the layers
BROKEN: Final = (*DAMAGE, ArithmeticError, RuntimeError, pa.ArrowException)
LOCAL_HEADER: Final = 30  # bytes of a zip's, before the member's name
# What a name of a Parquet file is read as: text that the file holds once may stand in millions of its rows. Arrow reads
# no text so that repeats the text before it, which may be as much.
NAMES: Final = pa.dictionary(pa.int32(), pa.string())
USER_BLOCK: Final = 512  # bytes that HDF5 leaves to MATLAB
CHUNK: Final = 1 << 20  # bytes


@dataclass(frozen=True)
class About:
    """What features are of, and how they were made.

    `network`: SHA-256 of the weights and the mean image. `layers`: the table's own name by the name asked for.
    `shapes`: of one picture's values, by that name; the views are the first axis where there are several and not their
    `mean`. `fingerprint`: that of the table of pictures. `bad`: the pictures left out, `path` and `reason`.
    """

    run: str
    variant: str
    network: str
    preprocess: dict[str, Any]
    layers: dict[str, str]
    shapes: dict[str, list[int]]
    views: int
    mean: bool
    dtype: Dtype
    batch_size: int
    device: str
    source: str
    fingerprint: str
    bad: list[dict[str, str]]

    def to_json(self) -> dict[str, Any]:
        """What a file holds of it."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, value: Any, where: str) -> "About":
        """What a file says; a DataError names `where` and the field that is not as `to_json` writes it."""
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            raise DataError(f"{where}: not features of schema {SCHEMA}")
        said = {name: part for name, part in value.items() if name != "schema"}
        kinds = {"preprocess": dict, "layers": dict, "shapes": dict, "views": int, "mean": bool, "batch_size": int,
                 "bad": list}  # fmt: skip
        for field in dataclasses.fields(cls):
            if type(said.get(field.name)) is not kinds.get(field.name, str):
                raise DataError(f"{where}: {field.name}: not what features say there")
        whole = set(said) == {field.name for field in dataclasses.fields(cls)}
        # a layer's name goes to a terminal as it is
        layers = (*said["layers"], *said["layers"].values())
        named = all(isinstance(name, str) and name.isprintable() for name in layers)
        named = named and set(said["layers"]) == set(said["shapes"])
        sized = all(
            isinstance(shape, list) and shape and all(type(n) is int and n > 0 for n in shape)
            for shape in said["shapes"].values()
        )
        if not (whole and named and sized and said["layers"] and said["dtype"] in DTYPES and said["views"] > 0):
            raise DataError(f"{where}: layers, shapes, views or dtype: not what features say there")
        return cls(**said)

    @property
    def several(self) -> bool:
        """Whether each view is kept."""
        return self.views > 1 and not self.mean


@dataclass(frozen=True, eq=False)
class Features:
    """Of N pictures: keys, labels (N,), -1 for none, the classes, and values (N, ...) by the layers' names."""

    where: str
    about: About
    keys: list[str]
    labels: NDArray[np.int64]
    classes: Classes
    values: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.keys)

    def single(self, layer: str) -> NDArray[Any]:
        """A layer's values (N, C, H, W) or (N, C); of several views their mean."""
        values = self.values[layer]
        if not self.about.several:
            return values
        with np.errstate(invalid="ignore"):  # what is not finite is not in the mean either
            return values.mean(1, dtype=np.float32)

    def matrix(self, layer: str) -> NDArray[Any]:
        """The same as rows (N, D)."""
        return self.single(layer).reshape(len(self), -1)

    def check_finite(self, layer: str, values: NDArray[Any], rows: Sequence[int] | NDArray[np.int64]) -> None:
        """DataError, which names the picture: what was made of a layer's values in these rows, (n, ...), a line of
        each, is not finite.
        """
        finite = np.isfinite(values).reshape(len(values), -1).all(1)
        if not finite.all():
            key = self.keys[int(rows[int(np.argmin(finite))])]
            raise DataError(f"{self.where}: {layer}: the values of {key} are not finite numbers")


@dataclass(frozen=True)
class Part:
    """A layer's values as an .npy of its own: `shape` of a row."""

    name: str
    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return math.prod(self.shape) * self.dtype.itemsize

    def blocks(self, count: int, rows: int) -> Iterator[NDArray[Any]]:
        """Its values, so many rows at a time; Stopped where a signal asks for the end."""
        with self.path.open("rb") as stream:
            stream.seek(len(files.array_header((count, *self.shape), self.dtype)))
            for i in range(0, count, rows):
                if stop.requested():
                    raise Stopped(f"{shown(str(self.path.parent))}: stopped while a file of features was put together")
                some = min(rows, count - i)
                yield np.fromfile(stream, self.dtype, some * math.prod(self.shape)).reshape(some, *self.shape)


@dataclass(frozen=True)
class Index:
    """What a file holds beside the values."""

    about: About
    keys: list[str]
    labels: NDArray[np.int64]
    classes: Classes

    def to_json(self) -> dict[str, Any]:
        """What stands beside an .npy."""
        return {ABOUT: self.about.to_json(), CLASSES: self.classes.to_json(), KEY: self.keys,
                LABEL: self.labels.tolist()}  # fmt: skip

    def said(self) -> str:
        """All of it that is not of one picture, as one line of JSON."""
        return json.dumps({ABOUT: self.about.to_json(), CLASSES: self.classes.to_json()}, ensure_ascii=False)


def suffix_of(path: Path, *, layers: int, dtype: Dtype) -> str:
    """What kind of file `path` is to be; UsageError: none, one that cannot hold this, or whose library is missing."""
    suffix = path.suffix.lower()
    if suffix != NPY and suffix not in WRITERS:
        raise UsageError(f"--out {path}: expected a name that ends in {', '.join((NPY, *WRITERS))}")
    if suffix == NPY and layers > 1:
        raise UsageError(f"--out {path}: an {NPY} holds one layer, not {layers}; the others hold several")
    if suffix in (".h5", ".hdf5", ".mat"):
        _h5py()
    if suffix == ".mat" and dtype == "float16":
        raise UsageError(f"--dtype float16: MATLAB has none; leave it away for {path}")
    return suffix


def beside(path: Path) -> Path:
    """Where what belongs to an .npy stands."""
    return path.with_name(f"{path.name}.json")


def write_features(path: Path, parts: Sequence[Part], index: Index) -> None:
    """Puts the parts together at `path`, whole; an .npy, whose one part is `path` itself, only gets its .json."""
    if path.suffix.lower() == NPY:
        files.write_json(beside(path), index.to_json())
    else:
        WRITERS[path.suffix.lower()](path, parts, index)


def _npz(path: Path, parts: Sequence[Part], index: Index) -> None:
    small = {
        KEY: np.array(index.keys, np.str_), LABEL: index.labels, CLASSES: np.array(index.classes.keys, np.str_),
        ABOUT: np.array(index.said()),
    }  # fmt: skip
    with files.writing(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:

        def member(name: str) -> Any:
            # a fixed time and system, or the same features would be other bytes
            said = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            said.create_system = 3
            return archive.open(said, "w", force_zip64=True)

        for part in parts:
            with member(part.name) as out:
                out.write(files.array_header((len(index.keys), *part.shape), part.dtype))
                for block in part.blocks(len(index.keys), _rows(part.row)):
                    out.write(block.data)
        for name, array in small.items():
            with member(name) as out:
                out.write(files.array_header(array.shape, array.dtype) + array.tobytes())


class _Kept(FileIO):
    """A file to write, of whose failures HDF5 hears nothing: over one it ends the process. The first is `failed`."""

    failed: OSError | None = None

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest and self.failed is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as reason:
                self.failed = reason
        return size

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as reason:
            self.failed = self.failed or reason
            return self.tell() if size is None else size

    def check(self) -> None:
        """OSError: something could not be written."""
        if self.failed is not None:
            raise self.failed


@contextmanager
def _hdf5_of(path: Path, *, user_block: int = 0) -> Iterator[tuple[Any, _Kept]]:
    """An HDF5 file that is made at `path`, and what keeps its bytes. OSError: they cannot be written."""
    with _Kept(path, "w+") as kept:
        with _h5py().File(kept, "w", userblock_size=user_block) as out:
            yield out, kept
        kept.check()


def _hdf5(path: Path, parts: Sequence[Part], index: Index) -> None:
    h5py, count = _h5py(), len(index.keys)
    with files.replacing(path) as temporary, _hdf5_of(temporary) as (out, kept):
        for part in parts:
            values = out.create_dataset(part.name, (count, *part.shape), part.dtype)
            rows = _rows(part.row)
            for i, block in zip(range(0, count, rows), part.blocks(count, rows), strict=True):
                values[i : i + rows] = block
                kept.check()
        out.create_dataset(LABEL, data=index.labels)
        for name, lines in ((KEY, index.keys), (CLASSES, index.classes.keys), (ABOUT, [index.said()])):
            # of one length: HDF5's text of any length lies in a heap, which may send a reader round for ever
            encoded = [line.encode() for line in lines]
            text = h5py.string_dtype("utf-8", max(map(len, encoded), default=1))
            out.create_dataset(name, data=np.array(encoded, text))


def _mat(path: Path, parts: Sequence[Part], index: Index) -> None:
    """MATLAB's own since 2006, version 7.3: HDF5 whose axes it reads in the opposite order. Text is a row a line."""
    count = len(index.keys)
    names = matlab_names([part.name for part in parts])
    with files.replacing(path) as temporary:
        with _hdf5_of(temporary, user_block=USER_BLOCK) as (out, kept):
            for part in parts:
                rows = min(count, max(1, CHUNK // part.row))
                shape = (count, *part.shape)[::-1]
                values = out.create_dataset(
                    names[part.name], shape, part.dtype, chunks=(*part.shape[::-1], rows) if count else None
                )
                values.attrs["MATLAB_class"] = np.bytes_("single")
                for i, block in zip(range(0, count, rows), part.blocks(count, rows), strict=True):
                    values[..., i : i + rows] = block.T
                    kept.check()
            labels = out.create_dataset(LABEL, data=index.labels[None])
            labels.attrs["MATLAB_class"] = np.bytes_("int64")
            for name, lines in ((KEY, index.keys), (CLASSES, index.classes.keys), (ABOUT, [index.said()])):
                if lines:
                    text = out.create_dataset(name, data=_utf16(lines).T)
                    text.attrs["MATLAB_class"] = np.bytes_("char")
                    text.attrs["MATLAB_int_decode"] = np.int32(2)
        with temporary.open("r+b") as stream:  # text, no place of a subsystem, version 2.0, little-endian
            words = f"MATLAB 7.3 MAT-file, Platform: alexnet, {SCHEMA}. HDF5 schema 1.00 ."
            stream.write(words.ljust(116).encode() + bytes(8) + b"\x00\x02IM")


def matlab_names(layers: Sequence[str]) -> dict[str, str]:
    """What each layer is called in MATLAB: `conv5_relu` for `conv5:relu`. UsageError: two of them alike."""
    names = {layer: re.sub(r"\W", "_", layer) for layer in layers}
    if len(set(names.values())) < len(names):
        raise UsageError(f"--layers {','.join(layers)}: two of these are called alike in MATLAB")
    return names


def _utf16(lines: Sequence[str]) -> NDArray[np.uint16]:
    """Lines of text as MATLAB keeps them: (N, longest), blanks behind the shorter ones."""
    encoded = [line.encode("utf-16-le") for line in lines]
    longest = max(map(len, encoded))
    blank = " ".encode("utf-16-le")
    joined = b"".join(line + blank * ((longest - len(line)) // 2) for line in encoded)
    return np.frombuffer(joined, np.uint16).reshape(len(lines), -1)


def _parquet(path: Path, parts: Sequence[Part], index: Index) -> None:
    kinds = {"float32": pa.float32(), "float16": pa.float16()}
    schema = pa.schema(
        [
            pa.field(KEY, pa.string()), pa.field(LABEL, pa.int64()), pa.field("class", pa.string()),
            *(pa.field(part.name, pa.list_(kinds[part.dtype.name], math.prod(part.shape))) for part in parts),
        ],
        {"alexnet": index.said()},
    )  # fmt: skip
    count, rows = len(index.keys), _rows(sum(part.row for part in parts))
    # plain values: they hardly get smaller, and a reader can tell from the file's size what will come of them
    with files.writing(path) as stream, pq.ParquetWriter(
        stream, schema, compression="NONE", use_dictionary=False, write_statistics=False
    ) as out:  # fmt: skip
        sources = [part.blocks(count, rows) for part in parts]
        for i in range(0, count, rows):
            labels = index.labels[i : i + rows]
            named = [None if label == UNLABELLED else index.classes.keys[label] for label in labels.tolist()]
            columns = [pa.array(index.keys[i : i + rows]), pa.array(labels), pa.array(named, pa.string())]
            for part, blocks in zip(parts, sources, strict=True):
                flat = pa.array(next(blocks).reshape(-1))
                columns.append(pa.FixedSizeListArray.from_arrays(flat, math.prod(part.shape)))
            out.write_table(pa.table(columns, schema=schema), row_group_size=rows)


NPY = ".npy"
WRITERS: dict[str, Callable[[Path, Sequence[Part], Index], None]] = {
    ".npz": _npz, ".h5": _hdf5, ".hdf5": _hdf5, ".mat": _mat, ".parquet": _parquet,
}  # fmt: skip


def _rows(row: int) -> int:
    """How many rows of so many bytes are worked on at once."""
    return max(1, files.PIECE // row)


def is_features(path: Path) -> bool:
    """Whether a path's name is that of a file of features."""
    return path.suffix.lower() in (NPY, *WRITERS)


def read_features(path: Path, layers: Sequence[str] | None = None) -> Features:
    """What a file holds, the values of all its layers or of these; those of .npy and .npz stay on the disk until used.

    UsageError: a name of another kind; a layer that it has not; a library that is missing. DataError, which names the
    file: missing, damaged, or not as `write_features` writes it.
    """
    where = shown(str(path))
    if not is_features(path):
        raise UsageError(f"{where}: no file of features, whose names end in {', '.join((NPY, *WRITERS))}")
    if not path.is_file():
        raise DataError(f"{where}: no such file")
    reader = {NPY: _read_npy, ".npz": _read_npz, ".parquet": _read_parquet}.get(path.suffix.lower(), _read_hdf5)
    try:
        found = reader(path, layers)
    except BROKEN as reason:
        raise DataError(f"{where}: cannot be read as features ({one_line(reason)})") from None
    for name, values in found.values.items():
        expected = (len(found.keys), *found.about.shapes[name])
        if values.shape != expected or values.dtype.name != found.about.dtype:
            raise DataError(
                f"{where}: {name}: {values.dtype.name} {values.shape}, expected {found.about.dtype} {expected}"
            )
    return found


def _chosen(about: About, layers: Sequence[str] | None, where: str) -> list[str]:
    if layers is None:
        return list(about.layers)
    for layer in layers:
        if layer not in about.layers:
            raise UsageError(f"{where}: holds no layer {layer}; it holds {', '.join(about.layers)}")
    return list(layers)


def _indexed(where: str, said: Any, keys: Any, labels: Any) -> Features:
    """The index of a file, without values."""
    if not isinstance(said, dict):
        raise DataError(f"{where}: says nothing of what it holds")
    about = About.from_json(said.get(ABOUT), where)
    classes = Classes.from_json(said[CLASSES], where) if said.get(CLASSES) else Classes((), ())
    labels = np.asarray(labels)
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) for key in keys):
        raise DataError(f"{where}: {KEY}: not the names of pictures")
    if labels.shape != (len(keys),) or labels.dtype.kind != "i":
        raise DataError(f"{where}: {LABEL}: expected a whole number for each of {len(keys)} pictures")
    if labels.min() < UNLABELLED or labels.max() >= len(classes):
        raise DataError(f"{where}: {LABEL}: of a class that is not there")
    keys = [key if key.isprintable() else shown(key) for key in keys]  # escaped already, unless it is a stranger's
    return Features(where, about, keys, labels.astype(np.int64), classes, {})


def _read_npy(path: Path, layers: Sequence[str] | None) -> Features:
    said = files.read_json(beside(path))
    found = _indexed(shown(str(beside(path))), said, said.get(KEY), said.get(LABEL)) if isinstance(said, dict) else None
    if found is None:
        raise DataError(f"{shown(str(beside(path)))}: expected a JSON object")
    with path.open("rb") as stream:
        values = _mapped(path, stream, path.stat().st_size)
    names = _chosen(found.about, layers, shown(str(path)))
    return dataclasses.replace(found, where=shown(str(path)), values=dict.fromkeys(names, values))


def _mapped(path: Path, stream: BinaryIO, size: int) -> NDArray[Any]:
    """The array whose header comes next in a file and whose last byte is its `size`-th; its values are not read."""
    shape, dtype = _header(stream)
    begin = stream.tell()
    if math.prod(shape) * dtype.itemsize != size - begin:
        raise ValueError(f"{size - begin} bytes, where {dtype} {shape} needs {math.prod(shape) * dtype.itemsize}")
    return np.memmap(path, dtype, "r", begin, shape)


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """What an .npy says that it holds: numbers or text, row by row."""
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("not of the version that is written here")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if fortran or dtype.kind not in "fiU" or dtype.byteorder == ">":
        raise ValueError(f"holds {dtype}")
    return shape, dtype


def _read_npz(path: Path, layers: Sequence[str] | None) -> Features:
    where, size = shown(str(path)), path.stat().st_size
    with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
        there = {one.filename: one for one in archive.infolist()}

        def member(name: str) -> NDArray[Any]:
            one = there.get(f"{name}.npy")
            if one is None or one.compress_type != zipfile.ZIP_STORED or one.flag_bits & 1:
                raise DataError(f"{where}: {name}.npy: missing, or compressed, which is not how features are written")
            stream.seek(one.header_offset)
            local = stream.read(LOCAL_HEADER)
            begin = one.header_offset + LOCAL_HEADER + sum(struct.unpack("<HH", local[26:30]))
            if not 0 <= begin <= begin + one.file_size <= size:
                raise DataError(f"{where}: {name}.npy: does not lie in the file")
            stream.seek(begin)
            return _mapped(path, stream, begin + one.file_size)

        def text(name: str) -> NDArray[np.str_]:
            found = member(name)
            if found.dtype.kind != "U" or not found.dtype.itemsize:
                raise ValueError(f"{name} holds {found.dtype}")
            if found.size and found.reshape(-1).view(np.uint32).max() > sys.maxunicode:
                raise ValueError(f"{name} has letters that are none")
            return found

        found = _indexed(where, json.loads(str(text(ABOUT)[()])), text(KEY).tolist(), member(LABEL))
        values = {name: member(name) for name in _chosen(found.about, layers, where)}
    return dataclasses.replace(found, values=values)


def _read_hdf5(path: Path, layers: Sequence[str] | None) -> Features:
    h5py, where, turned = _h5py(), shown(str(path)), path.suffix.lower() == ".mat"
    with h5py.File(path, "r") as stored:

        def dataset(name: str) -> Any:
            """A dataset whose values lie in this file, each of them, as they are."""
            there = stored[name] if isinstance(stored.get(name, getlink=True), h5py.HardLink) else None
            if not isinstance(there, h5py.Dataset) or there.is_virtual or there.external:
                raise DataError(f"{where}: {name}: missing, or in another file")
            plain = there.id.get_create_plist().get_nfilters() == 0
            if not plain or there.id.get_storage_size() < there.size * there.dtype.itemsize:
                raise DataError(f"{where}: {name}: compressed or not all there, which is not how features are written")
            return there

        def text(name: str) -> list[str]:
            if not turned:
                if dataset(name).dtype.kind != "S" or dataset(name).ndim != 1:
                    raise DataError(f"{where}: {name}: no text of one length")
                return [line.decode() for line in dataset(name)[()].tolist()]
            rows = np.ascontiguousarray(dataset(name)[()].T)
            if rows.dtype != np.uint16 or rows.ndim != 2:
                raise DataError(f"{where}: {name}: no text")
            return [row.tobytes().decode("utf-16-le").rstrip(" ") for row in rows]

        found = _indexed(where, json.loads(text(ABOUT)[0]), text(KEY), np.ravel(dataset(LABEL)[()]))
        names = _chosen(found.about, layers, where)
        called = matlab_names(list(found.about.layers)) if turned else {name: name for name in names}
        values = {name: np.asarray(dataset(called[name])[()]) for name in names}
    return dataclasses.replace(found, values={name: one.T if turned else one for name, one in values.items()})


def check_table(stored: pq.ParquetFile, size: int, kinds: Mapping[str, pa.DataType], *, codec: str) -> None:
    """ValueError: a Parquet file of `size` bytes claims more than these hold, is not compressed by `codec`, or has not
    these columns of these kinds. None of them has been read by then.
    """
    said = stored.metadata
    groups = [said.row_group(i) for i in range(said.num_row_groups)]
    parts = [group.column(i) for group in groups for i in range(group.num_columns)]
    if sum(group.num_rows for group in groups) != said.num_rows or said.num_rows > size:
        raise ValueError(f"{said.num_rows} rows in {size} bytes")
    if sum(part.total_compressed_size for part in parts) > size:
        raise ValueError("parts that are more than the file")
    others = sorted({part.compression for part in parts} - {codec})
    if others:
        raise ValueError(f"compressed by {', '.join(others)}, expected {codec}")
    for name, kind in kinds.items():
        if stored.schema_arrow.field(name).type != kind:
            raise ValueError(f"{name}: {stored.schema_arrow.field(name).type}, expected {kind}")


def names_of(column: pa.ChunkedArray, most: int) -> list[str]:
    """A column of `NAMES` as text, each once in memory. ValueError: gaps, or more than `most` letters."""
    if column.null_count:
        raise ValueError(f"{KEY}: not the names of pictures")
    found = list[str]()
    for chunk in column.chunks:
        names = chunk.dictionary.to_pylist()
        found += [names[i] for i in chunk.indices.to_pylist()]
    if sum(map(len, found)) > most:
        raise ValueError(f"{KEY}: names that are more than the file")
    return found


def _read_parquet(path: Path, layers: Sequence[str] | None) -> Features:
    where, size = shown(str(path)), path.stat().st_size
    with pq.ParquetFile(path, read_dictionary=[KEY]) as stored:
        said = (stored.schema_arrow.metadata or {}).get(b"alexnet", b"null")
        count = stored.metadata.num_rows
        check_table(stored, size, {KEY: NAMES, LABEL: pa.int64()}, codec="UNCOMPRESSED")
        table = stored.read([KEY, LABEL])
        found = _indexed(where, json.loads(said), names_of(table[KEY], size), table[LABEL].to_numpy())
        values: dict[str, NDArray[Any]] = {}
        for name in _chosen(found.about, layers, where):
            shape, dtype = found.about.shapes[name], np.dtype(found.about.dtype)
            if count * math.prod(shape) * dtype.itemsize > size:
                raise DataError(f"{where}: {name}: {count} rows of {shape} are not in {size} bytes")
            kind = pa.list_(pa.from_numpy_dtype(dtype), math.prod(shape))
            check_table(stored, size, {name: kind}, codec="UNCOMPRESSED")
            whole = np.empty((count, math.prod(shape)), dtype)
            begin = 0
            for batch in stored.iter_batches(_rows(whole[:1].nbytes), columns=[name]):
                column = batch.column(0)
                if column.null_count:
                    raise DataError(f"{where}: {name}: a picture without values")
                whole[begin : begin + len(column)] = column.flatten().to_numpy().reshape(len(column), -1)
                begin += len(column)
            values[name] = whole.reshape(count, *shape)
    return dataclasses.replace(found, values=values)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise UsageError("h5py is not installed (pip install 'alexnet[features]')") from None
    return h5py
