"""Pickles as NumPy and Python write them are read as they would be; whatever else a pickle asks for is refused by name."""

import io
import os
import pickle
import struct
import subprocess

import numpy as np
import pytest

from alexnet.errors import WeightsError
from alexnet.weights.unpickle import MOST_DEPTH, MOST_OPCODES, read_npy, read_pickle
from tests.strangers import CANARY, PROTOCOL, number, text
from tests.weights.python2 import Class, Instance, dumps, npy


def written(path, content):
    path.write_bytes(content)
    return path


def same(a, b):
    """Equal in value and type, all the way down."""
    if isinstance(a, np.ndarray):
        assert isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape
        if a.dtype == object:
            return all(same(x, y) for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
        return a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(b) is type(a) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


RANDOM = np.random.default_rng(0)
LAYERS = {
    "conv1": [RANDOM.normal(size=(11, 11, 3, 8)).astype(np.float32), np.zeros(8, np.float32)],
    "fc6": [np.asfortranarray(RANDOM.normal(size=(6, 4))), RANDOM.integers(-5, 5, 4)],
}
VALUES = {
    "layers": LAYERS,
    "none": None,
    "numbers": [0, 1, 255, 65536, -1, 2**40, -(2**70), 0.1, float("inf"), float("nan"), True, False],
    "text": ["", "café", "漢", "\n", b"", b"\x00\xff", "x" * 300, b"y" * 300],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "within": {1: {"a": [{"b": (1, [2])}]}},
    "big-endian": np.arange(5, dtype=">f4"),
    "kinds": [np.zeros(3, kind) for kind in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")],
    "none of it": np.zeros((0, 3), np.float32),
    "a point": np.array(3.5),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_values_are_read_as_python_reads_them(tmp_path, protocol):
    content = pickle.dumps(VALUES, protocol)
    assert same(read_pickle(written(tmp_path / "x", content)), pickle.loads(content))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numpys_numbers_become_pythons(tmp_path, protocol):
    read = read_pickle(written(tmp_path / "x", pickle.dumps([np.float32(0.5), np.int64(-3)], protocol)))
    assert read == [0.5, -3] and [type(one) for one in read] == [float, int]


def test_numpy_1_called_its_core_otherwise(tmp_path):
    content = pickle.dumps(LAYERS, 2)
    assert b"numpy._core" in content
    assert same(read_pickle(written(tmp_path / "x", content.replace(b"numpy._core", b"numpy.core"))), LAYERS)


def test_python_2(tmp_path):
    """An array's bytes are text there, and all text is Latin-1."""
    read = read_pickle(written(tmp_path / "x", dumps(LAYERS)))
    assert same(read, pickle.loads(dumps(LAYERS), encoding="latin1")) and same(read, LAYERS)
    assert read_pickle(written(tmp_path / "y", dumps("é"))) == "é"
    assert same(read_npy(written(tmp_path / "z.npy", npy(LAYERS))), LAYERS)


OPTIONS = [("options", "Option"), ("options", "Parser")]
OPTION, PARSER = (Class(*name) for name in OPTIONS)
SHARED = {"weights": np.arange(6, dtype=np.float32).reshape(2, 3), "inputs": []}
STATE = {
    "layers": {"a": SHARED, "b": {"weights": np.zeros(2), "inputs": [SHARED, SHARED]}},
    "op": Instance(PARSER, {"options": [Instance(OPTION, {"parser": PARSER, "value": np.ones(3)})], "self": None}),
}


class Inert:
    """What Python itself makes of the instances below."""


class Reader(pickle.Unpickler):
    def find_class(self, module, name):
        return Inert if module == "options" else super().find_class(module, name)


def test_instances_are_stepped_over_where_they_are_left_out(tmp_path):
    content = dumps(STATE)
    theirs = Reader(io.BytesIO(content), encoding="latin1").load()
    assert type(theirs.pop("op")) is Inert
    read = read_pickle(written(tmp_path / "x", content), left_out=["op"], stepped_over=OPTIONS)
    assert same(read, theirs)
    read = read_pickle(tmp_path / "x", left_out=["op", "inputs"], stepped_over=OPTIONS)
    assert same(read, {"layers": {"a": {"weights": SHARED["weights"]}, "b": {"weights": np.zeros(2)}}})
    for left_out, stepped_over, says in (
        ([], OPTIONS, "a type where a value should be"),
        (["op"], [], "asks for options.Parser"),
        (["op"], OPTIONS[1:], "asks for options.Option"),
        (["op"], [("option", "s.Option"), ("options", "Parser")], "asks for options.Option"),
    ):
        with pytest.raises(WeightsError, match=says):
            read_pickle(tmp_path / "x", left_out=left_out, stepped_over=stepped_over)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"coptions\nOption\n)R", "calls what is no function"),
        (b"coptions\nOption\n)\x81", "NEWOBJ"),
        (b"(ioptions\nOption\n", "INST"),
        (b"(o", "no class"),
        (b"(K\x01o", "no class"),
        (b"(]o", "no class"),
        (b"(" + dumps(np.zeros(3))[2:-1] + b"o", "no class"),
        (b"(cnumpy\nndarray\no", "no class"),
        (b"(c_codecs\nencode\n" + text("x") + text("latin1") + b"o", "no class"),
        (b"cnumpy\nndarray\n}b", "sets the state of _Name"),
        (b"(coptions\nOption\no}" + text("f") + b"cposix\nsystem\nsb", "asks for posix.system"),
        (b"(coptions\nOption\ncposix\nsystem\no", "asks for posix.system"),
        (b"coptions\nos.system\n", "asks for options.os.system"),
        (b"coptions\nOption.__init__\n", "asks for options.Option.__init__"),
    ],
)
def test_stepping_over_opens_nothing(tmp_path, content, says):
    with pytest.raises(WeightsError, match=says):
        read_pickle(
            written(tmp_path / "x", PROTOCOL + b"}" + text("op") + content + b"s."),
            left_out=["op"],
            stepped_over=OPTIONS,
        )


def test_the_npy_file_of_a_dictionary_of_layers(tmp_path):
    """As bvlc_alexnet.npy is: a 0-d array of one object."""
    np.save(tmp_path / "x.npy", LAYERS, allow_pickle=True)
    assert same(read_npy(tmp_path / "x.npy"), LAYERS)
    objects = np.empty(2, object)
    objects[:] = [LAYERS["fc6"], "text"]
    np.save(tmp_path / "y.npy", objects, allow_pickle=True)
    assert same(read_npy(tmp_path / "y.npy"), objects)
    for array in (LAYERS["conv1"][0], LAYERS["fc6"][0], np.array(3.0), np.arange(3, dtype=">i2")):
        np.save(tmp_path / "z.npy", array)
        assert same(read_npy(tmp_path / "z.npy"), array)


class Evil:
    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", [os.system, eval, subprocess.check_output, __import__, getattr, io.open])
def test_nothing_runs(tmp_path, protocol, function):
    canary = tmp_path / CANARY
    value = {"conv1": [np.zeros(3), Evil(function, (f"touch {canary}",))]}
    np.save(tmp_path / "x.npy", value, allow_pickle=True)
    content = pickle.dumps(value, protocol)
    for read, path in ((read_npy, tmp_path / "x.npy"), (read_pickle, written(tmp_path / "x", content))):
        with pytest.raises(WeightsError, match=f"{path.name}: not read: asks for .*{function.__name__}") as caught:
            read(path)
        assert caught.value.code == 4 and "\n" not in str(caught.value)
    assert not canary.exists()


def test_the_canary_sings(tmp_path):
    """What `test_nothing_runs` writes does run elsewhere."""
    pickle.loads(pickle.dumps(Evil(os.system, (f"touch {tmp_path / CANARY}",))))
    assert (tmp_path / CANARY).exists()


class Plain:
    pass


REFUSED = {
    "an instance": (pickle.dumps(Plain()), "asks for tests.weights.test_unpickle.Plain"),
    "a set": (pickle.dumps({1, 2}), "EMPTY_SET"),
    "a frozen set": (pickle.dumps(frozenset([1])), "FROZENSET"),
    "a class": (pickle.dumps(dict), "asks for builtins.dict"),
    "an array's class": (pickle.dumps(np.ndarray), "a type where a value should be"),
    "a type": (pickle.dumps(np.dtype("f4")), "a type where a value should be"),
    "text in an array": (pickle.dumps(np.array(["a"])), "an array of 'U1'"),
    "times in an array": (pickle.dumps(np.array(["2020"], "M8[Y]")), "an array of 'M8'"),
    "records": (pickle.dumps(np.zeros(2, [("a", "f4")])), "an array of 'V4'"),
    "complex numbers": (pickle.dumps(1j), "asks for builtins.complex"),
    "an ordered dictionary": (b"\x80\x02ccollections\nOrderedDict\n)R.", "asks for collections.OrderedDict"),
    "old instances": (b"(iposix\nsystem\n.", "INST"),
    "objects": (b"(cposix\nsystem\no.", "asks for posix.system"),
    "a persistent name": (b"Pname\n.", "PERSID"),
    "an extension": (b"\x80\x02\x82\x01.", "EXT1"),
    "a buffer elsewhere": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    "a name that is none": (b"\x80\x04]]\x93.", "no name"),
    "a call of no function": (b"\x80\x02K\x01)R.", "calls what is no function"),
    "a call of an array": (b"\x80\x02cnumpy\nndarray\n)R.", "calls what is no function"),
    "another coding": (b"\x80\x02c_codecs\nencode\n" + text("x") + text("rot13") + b"\x86R.", "rot13"),
    "state of a list": (b"\x80\x02]}b.", "sets the state of list"),
    "an item of no dictionary": (b"\x80\x02]K\x01K\x01s.", "fills list as if it were dict"),
    "an item of no list": (b"\x80\x02}K\x01a.", "fills dict as if it were list"),
    "items of an array": (dumps(np.zeros(3))[:-1] + b"(K\x01e.", "fills ndarray as if it were list"),
    "a key without a value": (b"\x80\x02}(K\x01u.", "a key without a value"),
    "a key that is a tuple": (b"\x80\x02})K\x01s.", "a key of type tuple"),
    "a key that is huge": (b"\x80\x02}" + number(2**61) + b"K\x01s.", "a key of type int"),
    "a list that did not begin": (b"\x80\x02K\x01l.", "did not begin"),
    "nothing on the stack": (b"\x80\x020.", "not there"),
    "nothing in the memo": (b"\x80\x02h\x05.", "from the memo"),
    "nothing": (b"", "damaged"),
    "no pickle": (b"<html>", "damaged"),
    "a zip": (b"PK\x03\x04" + bytes(30), "a zip; unpack"),
    "no end": (b"\x80\x02K\x01", "damaged"),
    "text that is cut": (b"\x80\x04\x8d" + b"\xff" * 8, "damaged"),
    "a list in itself": (b"\x80\x02]q\x00h\x00a.", "too deep"),
    "a deep list": (PROTOCOL + b"]" * 200_000 + b"a" * 199_999 + b".", "too deep"),
    "a deep tuple": (PROTOCOL + b")" + b"\x85" * 200_000 + b".", "too deep"),
    "a billion laughs": (
        PROTOCOL + b"]q\x00" + b"".join(b"](" + b"h%c" % n * 10 + b"eq%c" % (n + 1) for n in range(20)) + b".",
        "too deep or too often",
    ),
    "more opcodes than are followed": (b"\x80\x02]" + b"Na" * (MOST_OPCODES // 2) + b".", "opcodes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_rest_is_refused_and_named(tmp_path, name):
    content, says = REFUSED[name]
    with pytest.raises(WeightsError) as caught:
        read_pickle(written(tmp_path / "x", content))
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


def changed(**fields) -> bytes:
    """An array of three float64 as protocol 2 has it, with parts exchanged."""
    given = {"shape": b"K\x03\x85", "kind": "f8", "order": "<", "raw": bytes(24), "version": b"K\x01"} | fields
    head = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    kind = b"cnumpy\ndtype\n" + text(given["kind"]) + b"\x89\x88\x87R(K\x03" + text(given["order"])
    kind += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    raw = b"B" + struct.pack("<i", len(given["raw"])) + given["raw"]
    return PROTOCOL + head + b"(" + given["version"] + given["shape"] + kind + b"\x89" + raw + b"tb."


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"shape": b"K\x04\x85"}, "an array of 32 bytes"),
        ({"shape": number(2**62) + number(2**62) + b"\x86"}, "bytes by its shape"),
        ({"shape": number(-3) + b"\x85"}, "shape is none"),
        ({"shape": b"]\x85"}, "shape is none"),
        ({"shape": b"\x88\x85"}, "shape is none"),
        ({"shape": b"(" + b"K\x01" * 9 + b"t"}, "shape is none"),
        ({"shape": b"]"}, "sets the state"),
        ({"kind": "O8"}, "sets the state|without values"),
        ({"kind": "V8"}, "an array of 'V8'"),
        ({"kind": "f8,f8"}, "an array of 'f8,f8'"),
        ({"order": "x"}, "sets the state of _Type"),
        ({"version": b"K\x02"}, "sets the state of ndarray"),
    ],
)
def test_an_array_that_lies_is_refused(tmp_path, fields, says):
    assert read_pickle(written(tmp_path / "good", changed())).tolist() == [0, 0, 0]
    with pytest.raises(WeightsError, match=says):
        read_pickle(written(tmp_path / "x", changed(**fields)))


def test_arrays_are_not_larger_than_the_file(tmp_path):
    """The values are in the file once, and are called for again and again."""
    raw = b"B" + struct.pack("<i", 1 << 20) + bytes(1 << 20) + b"q\x00"
    kind = b"cnumpy\ndtype\n" + text("u1") + b"\x89\x88\x87Rq\x01"
    one = b"cnumpy._core.numeric\n_frombuffer\n(h\x00h\x01" + number(1 << 20) + b"\x85" + text("C") + b"tR"
    content = PROTOCOL + raw + b"0" + kind + b"0](" + one * 100 + b"e."
    with pytest.raises(WeightsError, match="larger than the file"):
        read_pickle(written(tmp_path / "x", content))
    again = b"c_codecs\nencode\n(h\x00" + text("latin1") + b"tR"
    content = PROTOCOL + text("x" * (1 << 20)) + b"q\x000](" + again * 100 + b"e."
    with pytest.raises(WeightsError, match="more of it than the file has"):
        read_pickle(written(tmp_path / "y", content))


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904,), }", "expected those of"),
        (b"{'descr': '<f8', 'fortran_order': False, 'shape': (4194305, 4194305, 211106198978564), }", "expected those"),
        (b"{'descr': '|O', 'fortran_order': False, 'shape': (5,), }", "not the array that its header says"),
        (b"{'descr': '|V8', 'fortran_order': False, 'shape': (3,), }", "only arrays of numbers"),
        (b"{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (3,), }", "no .npy file"),
        (b"__import__('os').system('touch canary')", "no .npy file"),
        (b"", "no .npy file"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, header, says):
    body = pickle.dumps(np.array(1, object), 2) if b"|O" in header else bytes(24)
    header += b" " * (117 - len(header)) + b"\n"
    path = written(tmp_path / "x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body)
    with pytest.raises(WeightsError, match=says):
        read_npy(path)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none", tmp_path / "pipe"):
        for read in (read_npy, read_pickle):
            with pytest.raises(WeightsError, match=path.name):
                read(path)
    for content in (b"", b"\x93NUMPY", b"\x93NUMPY\x03\x00", b"PK\x03\x04"):
        with pytest.raises(WeightsError, match="no .npy file"):
            read_npy(written(tmp_path / "x.npy", content))


def test_any_change_is_read_or_refused(tmp_path):
    """Seeded: bytes exchanged, cut and doubled; whatever comes of it is a value or one line."""
    draw = np.random.default_rng(7)
    seeds = [pickle.dumps(VALUES, protocol) for protocol in (0, 2, 5)]
    refused = 0
    for _ in range(1500):
        content = bytearray(seeds[draw.integers(len(seeds))])
        for at in draw.integers(0, len(content), draw.integers(1, 4)):
            match draw.integers(3):
                case 0:
                    content[at] = draw.integers(256)
                case 1:
                    del content[at : at + draw.integers(1, 50)]
                case _:
                    content[at:at] = content[at : at + draw.integers(1, 50)]
            if not content or at >= len(content):
                break
        try:
            read_pickle(written(tmp_path / "x", bytes(content)))
        except WeightsError:
            refused += 1
    assert refused > 300


def test_a_depth_that_is_allowed(tmp_path):
    value: list = []
    for _ in range(MOST_DEPTH):
        value = [value]
    assert read_pickle(written(tmp_path / "x", pickle.dumps(value))) == value
    with pytest.raises(WeightsError, match="too deep"):
        read_pickle(written(tmp_path / "x", pickle.dumps([value])))
