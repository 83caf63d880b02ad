"""Checkpoints of the article's program: as TensorFlow writes them, as nobody should, and as its training goes on here."""

import io
import json
import re
import resource
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from alexnet.cli import main
from alexnet.data.get import get
from alexnet.data.loader import batches
from alexnet.errors import WeightsError
from alexnet.network.build import AlexNet
from alexnet.network.variants import Pad, variant
from alexnet.training import loop, start
from alexnet.training.loop import loss_of
from alexnet.training.optim import AdamTF1, optimizer
from alexnet.training.recipes import RECIPES
from alexnet.training.start import Asked
from alexnet.weights.checkpoint import load_optimizer, optimizer_tensors
from alexnet.weights.run import open_run
from alexnet.weights.tensorflow import BETAS, SCOPED, SLOTS, UNSCOPED, crc32c, masked, read_checkpoint
from tests.network.test_tensorflow import tensorflow

PROGRAM = Path(__file__).with_name("tensorflow_article.py")
SHAPES = {"conv1": (2, 2, 3, 2), "conv2": (1, 1, 2, 3), "conv3": (1, 1, 3, 2), "conv4": (1, 1, 2, 2), "conv5": (1, 1, 2, 3),
          "fc6": (12, 4), "fc7": (4, 3), "fc8": (3, 2)}  # fmt: skip
UPDATES = 7


def crc(content):
    """Bit for bit as the polynomial is divided: the slow one."""
    register = 0xFFFFFFFF
    for byte in bytes(content):
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def sealed(content):
    return struct.pack("<I", masked(crc32c(content)))


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def shape_of(shape):
    return b"".join(field(2, field(1, n) if n else b"") for n in shape)


def entries(pairs, *, restart=16):
    """A block of a table."""
    out, restarts, last = b"", [], b""
    for n, (key, value) in enumerate(pairs):
        shared = 0
        if n % restart == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return out + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(pairs, *, to_a_block=1000, compression=0, footer=None):
    """A LevelDB table of sorted keys."""
    out, handles = b"", []

    def block(content):
        nonlocal out
        handle = varint(len(out)) + varint(len(content))
        content += bytes([compression])
        out += content + sealed(content)
        return handle

    pairs = sorted(pairs.items())
    for at in range(0, len(pairs), to_a_block):
        part = pairs[at : at + to_a_block]
        handles.append((part[-1][0] + b"~", block(entries(part))))
    meta, listed = block(entries([])), block(entries(handles))
    return out + (footer or (meta + listed).ljust(40, b"\0")) + bytes.fromhex("57fb808b247547db")


def entry(*, kind=1, shape=(), shard=0, begin=0, size=0, seal=b"\0\0\0\0", more=b""):
    numbers = ((3, shard), (4, begin), (5, size))  # zeros are absent
    return (
        field(1, kind)
        + field(2, shape_of(shape))
        + b"".join(field(k, n) for k, n in numbers if n)
        + b"\x35"
        + seal
        + more
    )


def listed(tensors, *, header=b"\x08\x01\x1a\x02\x08\x01"):
    """What the index of a bundle lists, and the bytes of its shard."""
    pairs, data = {b"": header}, b""
    for name, value in sorted(tensors.items()):
        content = value.tobytes()
        kind = {"float32": 1, "float64": 2, "int64": 9}[value.dtype.name]
        pairs[name.encode()] = entry(
            kind=kind, shape=value.shape, begin=len(data), size=len(content), seal=sealed(content)
        )
        data += content
    return pairs, data


def write(folder, pairs, data, **how):
    prefix = folder / "model1.ckpt"
    Path(f"{prefix}.index").write_bytes(table(pairs, **how))
    Path(f"{prefix}.data-00000-of-00001").write_bytes(data)
    return prefix


def v1(tensors):
    """What a V1 file's table holds."""
    meta = b""
    pairs = {}
    for name, value in tensors.items():
        full = b"".join(field(1, b"") for _ in value.shape)
        meta += field(1, field(1, name.encode()) + field(2, shape_of(value.shape)) + field(3, 1) + field(4, full))
        data = field(1, name.encode()) + field(2, full) + field(3, field(5, value.tobytes()))
        pairs[b"\0" + name.encode() + b"\0\1"] = field(2, data)
    return {b"": field(1, meta + field(2, field(1, 1))), **pairs}


def article(*, names=SCOPED, trained=True, seed=0):
    """Tensors of small shapes under the article's names, after `UPDATES` updates."""
    random = np.random.default_rng(seed)
    out = {}
    for ours, name in names.items():
        shape = SHAPES[ours.split(".")[0]]
        shape = shape[-1:] if ours.endswith("bias") else shape
        for slot in ("", *(f"/{slot}" for slot in SLOTS.values() if trained)):
            out[name + slot] = random.normal(size=shape).astype(np.float32)
    if trained:
        for name, beta in BETAS.items():
            out[name] = power(beta, UPDATES)
    return out


def power(beta, updates):
    """What TensorFlow has of it: multiplied in float32, and 0 where that has no full precision."""
    value = factor = np.float32(beta)
    for _ in range(updates):
        value = np.float32(value * factor)
    return np.asarray(value if value >= np.finfo(np.float32).tiny else 0, np.float32)


def ours(name, theirs):
    """A parameter of TensorFlow's in our order, by facts and not by the program's own way."""
    if name.endswith("bias"):
        return theirs
    if name == "fc6.weight":
        side = {12: 2, 12544: 7}[len(theirs)]
        return np.moveaxis(theirs.reshape(side, side, -1, theirs.shape[1]), (0, 1, 2, 3), (2, 3, 1, 0)).reshape(
            theirs.shape[::-1]
        )
    return np.moveaxis(theirs, (0, 1, 2, 3), (2, 3, 1, 0)) if theirs.ndim == 4 else theirs.T


def same(found, tensors, names):
    assert list(found.tensors) == list(SCOPED) and found.likely == "article"
    for name, theirs in names.items():
        assert found.sources[name].split(":")[0] == theirs
        parts = {
            "": found.tensors,
            **{f"/{slot}": found.moments[field] for field, slot in SLOTS.items() if found.moments},
        }
        for slot, those in parts.items():
            assert those[name].is_contiguous()
            assert np.array_equal(those[name].numpy(), ours(name, tensors[theirs + slot])), name


@pytest.mark.parametrize(
    "length", [0, 1, 2, 3, 4, 5, 12, 6772, 6773, 6774, 13070, 13071, 54211, 54212, 54213, 54221, 104_557]
)
def test_the_checksum_is_the_polynomials(length):
    content = np.random.default_rng(length).integers(0, 256, length, np.uint8)
    assert crc32c(content) == crc(content)
    if length:
        content[length // 2] ^= 1
        assert crc32c(content) != crc32c(content.tobytes()[:-1] + b"\0") or length == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)],
)
def test_the_checksum_is_the_published_one(content, expected):
    """RFC 3720 B.4, its bytes as a number."""
    assert crc32c(content) == expected


@pytest.mark.parametrize("names", [SCOPED, UNSCOPED], ids=["scoped", "unscoped"])
@pytest.mark.parametrize("suffix", ["", ".index", ".data-00000-of-00001"])
def test_a_bundle_is_read(tmp_path, names, suffix):
    tensors = article(names=names)
    prefix = write(tmp_path, *listed(tensors))
    found = read_checkpoint(Path(f"{prefix}{suffix}"))
    same(found, tensors, names)
    assert found.step == UPDATES and len(found.notes) == 1
    assert all(found.moments["step"][name].item() == UPDATES for name in SCOPED)
    steps = list(found.moments["step"].values())
    steps[0] += 1  # as the rule counts
    assert steps[1].item() == UPDATES


def test_a_file_of_version_1_is_read(tmp_path):
    tensors = article()
    path = tmp_path / "model1.ckpt"
    path.write_bytes(table(v1(tensors), to_a_block=9))
    found = read_checkpoint(path)
    same(found, tensors, SCOPED)
    assert found.step == UPDATES


def test_weights_alone_are_read_and_what_else_was_counted_is_left_out(tmp_path):
    tensors = article(trained=False)
    more = {
        "Variable": np.int64(5).reshape(()),
        "conv1/Variable/Momentum": np.zeros((2, 2, 3, 2), np.float32),
    }
    found = read_checkpoint(write(tmp_path, *listed({**tensors, **more})))
    same(found, tensors, SCOPED)
    assert not found.moments and not found.step
    assert found.notes[1] == "left out, not of the network: Variable, conv1/Variable/Momentum"


@pytest.mark.parametrize("to_a_block", [1, 3, 7])
def test_a_table_of_many_blocks_is_read(tmp_path, to_a_block):
    tensors = article()
    same(read_checkpoint(write(tmp_path, *listed(tensors), to_a_block=to_a_block)), tensors, SCOPED)


def test_shards_are_read_by_the_names_that_they_must_have(tmp_path):
    tensors = article(trained=False)
    pairs, data = listed(tensors, header=b"\x08\x02")
    last = max(pairs)  # fc3/Variable_1 moves to the second shard
    content = tensors[last.decode()].tobytes()
    pairs[last] = entry(shape=(2,), shard=1, size=len(content), seal=sealed(content))
    prefix = write(tmp_path, pairs, b"")
    (tmp_path / "model1.ckpt.data-00000-of-00002").write_bytes(data)
    (tmp_path / "model1.ckpt.data-00001-of-00002").write_bytes(content)
    same(read_checkpoint(prefix), tensors, SCOPED)


@pytest.mark.parametrize("updates", [0, 1, 20, 827, 828, 900, 10_000, 87_000])
def test_the_updates_are_counted(tmp_path, updates):
    tensors = article() | {name: power(beta, updates) for name, beta in BETAS.items()}
    found = read_checkpoint(write(tmp_path, *listed(tensors)))
    assert found.step == updates and len(found.notes) == 1


def test_updates_that_are_too_many_to_be_counted_are_said(tmp_path):
    tensors = article() | {name: power(beta, 100_000) for name, beta in BETAS.items()}
    found = read_checkpoint(write(tmp_path, *listed(tensors)))
    # the corrections of our rule are 1 from there on, as TensorFlow's are
    assert 1 - 0.999**found.step == 1
    assert found.notes[1] == f"counted as {found.step} updates: they are so many that it no longer says how many"


@pytest.mark.parametrize(("first", "second"), [(7, 8), (7, None), (None, 7)])
def test_powers_that_disagree_are_said_and_the_state_is_left_out(tmp_path, first, second):
    powers = (
        power(beta, n) if n else np.float32(0.77) for beta, n in zip(BETAS.values(), (first, second), strict=True)
    )
    tensors = article() | dict(zip(BETAS, map(np.asarray, powers), strict=True))
    found = read_checkpoint(write(tmp_path, *listed(tensors)))
    same(found, tensors, SCOPED)
    assert not found.moments and not found.step and "optimizer's state is left out" in found.notes[1]


def test_the_rules_constants_are_those_of_the_powers():
    assert list(AdamTF1([{"params": [torch.nn.Parameter(torch.zeros(1))]}], lr=0.01).defaults["betas"]) == [
        *BETAS.values()
    ]


def test_weights_that_were_drawn_anew_are_told(tmp_path):
    tensors = article()
    tensors |= {name: np.zeros_like(value) for name, value in tensors.items() if name.endswith("Variable_1")}
    assert "biases are zero after 7 updates" in read_checkpoint(write(tmp_path, *listed(tensors))).notes[1]


def without(name):
    def change(tensors):
        del tensors[name]

    return change


def being(name, value):
    def change(tensors):
        tensors[name] = value

    return change


def nan(tensors):
    tensors["fc1/Variable"][3, 2] = np.nan


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("conv3/Variable"), "conv3/Variable: missing"),
        (without("fc3/Variable_1/Adam_1"), "fc3/Variable_1/Adam_1: missing"),
        (without("beta2_power"), "beta2_power: missing"),
        (being("fc4/Variable", np.zeros((2, 2), np.float32)), "fc4/Variable: not of the article's network"),
        (being("../\x1b[31m", np.zeros(1, np.float32)), r"../\x1b[31m: not of the article's network"),
        (being("fc2/Variable", np.zeros(4, np.float32)), "fc2/Variable (fc7.weight) is (4,), expected 2 axes"),
        (being("conv1/Variable_1", np.zeros((1, 2), np.float32)), "conv1/Variable_1 (conv1.bias) is (1, 2), expected 1 axis"),
        (being("conv4/Variable", np.zeros((1, 1, 0, 2), np.float32)), "conv4/Variable (conv4.weight) is (1, 1, 0, 2), expected 4 axes"),
        (being("fc1/Variable", np.zeros((4, 12), np.float32)), "fc1/Variable (fc6.weight) is (4, 12), expected rows for 3 maps"),
        (being("fc1/Variable/Adam", np.zeros((4, 12), np.float32)), "fc1/Variable/Adam is (4, 12): not the shape of its parameter, or of a number"),
        (being("beta1_power", np.zeros(2, np.float32)), "beta1_power is (2,): not the shape of its parameter, or of a number"),
        (being("fc2/Variable", np.zeros((4, 3))), "fc2/Variable is of TensorFlow's type 2, expected 1 (float32)"),
        (nan, "fc1/Variable holds values that are not finite"),
        (lambda tensors: [tensors.pop(name) for name in list(tensors)[:5]], "conv1/Variable, conv1/Variable_1, conv1/Variable/Adam, conv1/Variable_1/Adam and 1 more: missing"),
        (lambda tensors: tensors.clear(), "not of the article's program: its tensors are called nothing: there are none"),
        (lambda tensors: (tensors.clear(), tensors.update({"a/kernel": np.zeros(3, np.float32)})), "not of the article's program: its tensors are called a/kernel"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("version", [1, 2])
def test_another_network_is_refused(tmp_path, change, said, version):
    tensors = article()
    change(tensors)
    if version == 2:
        path = write(tmp_path, *listed(tensors))
    else:
        path = tmp_path / "model1.ckpt"
        path.write_bytes(table(v1(tensors)))
        said = said.replace("is of TensorFlow's type 2, expected 1 (float32)", "is 96 bytes, expected 48 for (4, 3)")
    with pytest.raises(WeightsError, match=f"^{re.escape(f'{path}: not read: {said}')}$"):
        read_checkpoint(path)


NAME = b"fc3/Variable_1"


def with_entry(**changes):
    def change(pairs, data):
        said = {"shape": (2,), "begin": len(data) - 24, "size": 8, "seal": sealed(data[-24:-16])}
        return {**pairs, NAME: entry(**{**said, **changes})}, data

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_entry(more=field(7, b"\x0a\x00")), "fc3/Variable_1 is saved in slices (a partitioned variable)"),
        (lambda pairs, data: ({**pairs, b"\0conv1/Variable\0\1\1\2\x80\x82": entry()}, data), "conv1/Variable is saved in slices"),
        (lambda pairs, data: ({**pairs, b"": b"\x08\x01\x10\x01"}, data), "its numbers are big-endian"),
        (lambda pairs, data: ({**pairs, b"": b""}, data), "beta1_power lies in shard 0 of 0"),
        (lambda pairs, data: ({**pairs, b"": field(1, 10**12)}, data), "beta1_power lies in shard 0 of 1000000000000"),
        (with_entry(shard=1), "fc3/Variable_1 lies in shard 1 of 1"),
        (with_entry(begin=10**6), "fc3/Variable_1 lies at bytes 1000000 to 1000008 of model1.ckpt.data-00000-of-00001, expected within"),
        (with_entry(begin=2**64 - 1), "fc3/Variable_1 lies at bytes 18446744073709551615 to"),
        (with_entry(size=2**63), "fc3/Variable_1 lies at bytes 1580 to 9223372036854777388 of"),
        (with_entry(shape=(3,)), "fc3/Variable_1/Adam is (2,), fc3/Variable_1/Adam_1 is (2,): not the shape of its parameter, or of a number"),
        (with_entry(size=4), "fc3/Variable_1: its bytes are not those of its checksum"),
        (with_entry(size=0, seal=sealed(b"")), "fc3/Variable_1 is 0 bytes, expected 8 for (2,)"),
        (with_entry(begin=4), "fc3/Variable_1 lies at bytes 4 to 12 of model1.ckpt.data-00000-of-00001, expected within 8 and"),
        (with_entry(shape=(2**32, 2**32)), "fc3/Variable_1 (fc8.bias) is (4294967296, 4294967296), expected 1 axis"),
        (with_entry(shape=(1,) * 9), "a shape of 9 axes; 8 are the most"),
        (with_entry(more=b"\x33"), "a field of wire type 3 at byte "),
        (with_entry(more=b"\x0a\x7f"), "cut short: a field ends at byte "),
        (with_entry(more=b"\x80"), "no number at byte "),
        (with_entry(more=b"\xff" * 11), "no number at byte "),
        (with_entry(more=field(1, b"x")), "a message's field 1: expected a number"),
        (with_entry(more=field(2, 5)), "a message's field 2: expected bytes"),
        (with_entry(more=field(9, 1) * 1001), "a message of more than 1000 fields"),
        (lambda pairs, data: ({**pairs, **{b"x%d" % n: entry() for n in range(1000)}}, data), "model1.ckpt.index: its names are not in order, or more than 1000"),
        (lambda pairs, data: ({**pairs, b"x" * 5000: entry()}, data), "an entry of a table is larger than what is there"),
        (lambda pairs, data: (pairs, data[:-1]), "fc3/Variable_1/Adam_1 lies at bytes"),
        (lambda pairs, data: (pairs, data[:50] + bytes([data[50] ^ 1]) + data[51:]), "conv1/Variable: its bytes are not those of its checksum: the file is damaged"),
    ],
)  # fmt: skip
def test_a_wrong_index_is_refused(tmp_path, change, said):
    pairs, data = change(*listed(article()))
    prefix = write(tmp_path, pairs, data)
    with pytest.raises(WeightsError) as refused:
        read_checkpoint(prefix)
    assert str(refused.value).startswith(f"{prefix}: not read: {said}") and "\n" not in str(refused.value)


def unsealed(content):
    return content[:10] + bytes([content[10] ^ 4]) + content[11:]


@pytest.mark.parametrize(
    ("how", "change", "said"),
    [
        ({"compression": 1}, None, "a block is compressed, as by Snappy"),
        ({}, unsealed, "the bytes of a block are not those of its checksum"),
        ({}, lambda content: content[:-1], "model1.ckpt.index is no table of a TensorFlow checkpoint, or was cut short"),
        ({}, lambda content: b"", "model1.ckpt.index is no table of a TensorFlow checkpoint"),
        ({}, lambda content: bytes(1_000_001), "model1.ckpt.index is of 1000001 bytes; 1000000 are the most"),
        ({"footer": b"\xff" * 40}, None, "no number at byte "),
        ({"footer": (b"\0\0" + varint(2**63) + b"\x10").ljust(40, b"\0")}, None, "a block at bytes 9223372036854775808 to"),
        ({"footer": bytes(40)}, None, "the bytes of a block are not those of its checksum"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused(tmp_path, how, change, said):
    prefix = write(tmp_path, *listed(article()), **how)
    index = Path(f"{prefix}.index")
    if change:
        index.write_bytes(change(index.read_bytes()))
    with pytest.raises(WeightsError, match=f"^{re.escape(f'{prefix}: not read: {said}')}"):
        read_checkpoint(prefix)


def test_a_block_that_is_listed_again_is_refused(tmp_path):
    pairs, data = listed(article())
    block = entries(sorted(pairs.items())) + b"\0"
    twice = entries([(b"a", varint(0) + varint(len(block) - 1)), (b"b", varint(0) + varint(len(block) - 1))]) + b"\0"
    footer = (b"\0\0" + varint(len(block) + 4) + varint(len(twice) - 1)).ljust(40, b"\0") + bytes.fromhex(
        "57fb808b247547db"
    )
    prefix = write(tmp_path, pairs, data)
    Path(f"{prefix}.index").write_bytes(block + sealed(block) + twice + sealed(twice) + footer)
    with pytest.raises(WeightsError, match="its blocks overlap"):
        read_checkpoint(prefix)


def test_files_that_are_not_there_are_named(tmp_path):
    prefix = write(tmp_path, *listed(article()))
    Path(f"{prefix}.data-00000-of-00001").unlink()
    with pytest.raises(WeightsError, match="model1.ckpt.data-00000-of-00001 is missing, in which its tensors lie$"):
        read_checkpoint(prefix)
    Path(f"{prefix}.index").unlink()
    for path in (prefix, Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001"), tmp_path, Path()):
        with pytest.raises(WeightsError, match="index, which lists a checkpoint's tensors$"):
            read_checkpoint(path)


def test_more_than_a_checkpoint_of_the_articles_needs_is_refused_before_it_is_read(tmp_path):
    """Files of holes: they take no room on the disk."""
    path, most = tmp_path / "v1.ckpt", 2 << 30
    with path.open("wb") as stream:
        stream.seek(most)
        stream.write(table(v1(article()))[-48:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError, match=f"not read: v1.ckpt is of {most + 48} bytes; {most} are the most$"):
        read_checkpoint(path)
    pairs, data = listed(article())
    large = {
        b"fc1/Variable": entry(shape=(4, 3, 1 << 27), begin=1 << 30, size=6 << 30),
        b"fc2/Variable": entry(shape=(4, 3), begin=7 << 30, size=48),
    }
    prefix = write(tmp_path, pairs | large, data)
    with Path(f"{prefix}.data-00000-of-00001").open("r+b") as stream:
        stream.truncate(8 << 30)
    with pytest.raises(WeightsError, match=r"not read: its tensors are of 644245\d{4} bytes; 2147483648 are the most$"):
        read_checkpoint(prefix)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KB


def test_values_of_version_1_without_a_shape_or_in_slices_are_refused(tmp_path):
    path = tmp_path / "model1.ckpt"
    pairs = v1(article())
    path.write_bytes(table({**pairs, b"\0zz": pairs[b"\0fc1/Variable\0\1"]}))
    with pytest.raises(WeightsError, match="fc1/Variable: its values are there twice, or without its shape$"):
        read_checkpoint(path)
    half = field(1, b"fc1/Variable") + field(2, field(1, field(2, 6)) + field(1, b"")) + field(3, field(5, bytes(96)))
    path.write_bytes(table({**pairs, b"\0fc1/Variable\0\1": field(2, half)}))
    with pytest.raises(WeightsError, match="fc1/Variable is saved in slices"):
        read_checkpoint(path)


def mutated(random, content):
    """A few bytes changed, put in, or taken out."""
    content = bytearray(content)
    for _ in range(random.integers(1, 4)):
        at = int(random.integers(len(content)))
        what = random.integers(4)
        if what == 0:
            content[at] ^= 1 << int(random.integers(8))
        elif what == 1:
            content[at] = random.choice([0, 1, 127, 128, 255])
        elif what == 2:
            del content[at : at + int(random.integers(1, 9))]
        else:
            content[at:at] = random.bytes(int(random.integers(1, 9)))
        if not content:
            return b""
    return bytes(content)


def resealed(random, pairs):
    """A table whose checksums hold, of a list, a block or a footer that was changed."""
    which = random.integers(3)
    if which == 0:
        name = sorted(pairs)[random.integers(len(pairs))]
        pairs = {**pairs, name: mutated(random, pairs[name])}
        return table(pairs, to_a_block=int(random.integers(1, 60)))
    block = entries(sorted(pairs.items()))
    if which == 1:
        block = mutated(random, block)
    block += b"\0"
    handle = varint(0) + varint(len(block) - 1)
    if which == 2:
        handle = mutated(random, handle)
    top = entries([(b"~", handle)]) + b"\0"
    footer = (b"\0\0" + varint(len(block) + 4) + varint(len(top) - 1)).ljust(40, b"\0") + bytes.fromhex(
        "57fb808b247547db"
    )
    return block + sealed(block) + top + sealed(top) + footer


@pytest.mark.parametrize("version", [1, 2])
def test_no_change_of_its_files_is_more_than_a_refusal(tmp_path, version):
    random = np.random.default_rng(version)
    tensors = article()
    pairs, data = listed(tensors) if version == 2 else (v1(tensors), b"")
    prefix = write(tmp_path, pairs, data)
    table_file, shard = Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001")
    if version == 1:
        table_file.rename(prefix)
        table_file = prefix
    whole = table_file.read_bytes()
    read, refused = 0, set()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for n in range(1500):
        shard.write_bytes(data)
        if n % 3 == 0:
            table_file.write_bytes(mutated(random, whole))
        elif n % 3 == 1 and version == 2:
            table_file.write_bytes(whole)
            shard.write_bytes(mutated(random, data))
        else:
            table_file.write_bytes(resealed(random, pairs))
        try:
            found = read_checkpoint(prefix)
        except WeightsError as reason:
            assert "\n" not in str(reason) and len(str(reason)) < 1000
            refused.add(re.sub(r"\d", "", str(reason).split("not read: ")[1]))
        else:
            read += 1
            if n % 3 == 0:  # no checksum was mended: then it must be what it was
                same(found, tensors, SCOPED)
    assert read > 5 and len(refused) > 15, (read, refused)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KB


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return folder, tensorflow(folder, PROGRAM, small=np.zeros(0))


@pytest.mark.slow
@pytest.mark.parametrize(("form", "names"), [("scoped", SCOPED), ("unscoped", UNSCOPED)])
@pytest.mark.parametrize("version", ["", "-v1"])
def test_what_tensorflow_saves_is_read(small, form, names, version):
    folder, theirs = small
    tensors = {name.split(" ", 1)[1]: value for name, value in theirs.items() if name.startswith(f"{form} ")}
    found = read_checkpoint(folder / f"{form}{version}.ckpt")
    same(found, tensors, names)
    assert found.step == 7 and found.moments


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sliced.ckpt", "sliced-v1.ckpt"])
def test_what_tensorflow_saves_in_slices_is_refused(small, name):
    with pytest.raises(WeightsError, match="conv1/Variable is saved in slices"):
        read_checkpoint(small[0] / name)


BATCH, STEPS = 4, 20


@pytest.fixture(scope="module", params=[1e-5, 1e-2], ids=["slow", "as printed"])
def trained(request, tmp_path_factory):
    """The article's program after 20 steps on digits: at its own rate its softmax is saturated and nothing flows back."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.kron(digits.images[:40] / 16, np.ones((28, 28)))[..., None].repeat(3, -1).astype(np.float32)
    labels = digits.target[:40]
    folder = tmp_path_factory.mktemp("trained")
    theirs = tensorflow(
        folder, PROGRAM, images=images, labels=labels, classes=10, batch=BATCH, steps=STEPS, rate=request.param
    )
    rows = np.arange(STEPS * BATCH, (STEPS + 1) * BATCH) % len(images)
    next_batch = torch.from_numpy(images[rows]).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels[rows])
    yield folder / "model1.ckpt", theirs, next_batch, request.param
    shutil.rmtree(folder)


class Overhanging(AlexNet):
    """Without the row and the column that end pool5's input: zeros stand where its last windows were."""

    def layer(self, row, x, draw, index, *, inplace):
        if row.name == "pool5":
            return F.pad(F.max_pool2d(x, row.kernel, row.stride), (0, 1, 0, 1))
        return super().layer(row, x, draw, index, inplace=inplace)


def differences(found, theirs, batch, *, table=None, network=AlexNet):
    """How far ours is from TensorFlow's, as a part of its largest: each activation, gradient and weight change."""
    images, labels = batch
    recipe = RECIPES["article-printed"]
    model = network(table or variant("article"), 10).eval()  # no dropout
    model.load_state_dict(found.tensors)
    rule = updating(model, found, recipe)
    out = {}

    def apart(what, value, expected, but=0):
        far = np.abs(value - expected).ravel()
        out[what] = np.partition(far, -1 - but)[-1 - but] / (np.abs(expected).max() or 1)

    with torch.no_grad():
        for name, value in model.trace(images, [name[5:] for name in theirs if name.startswith("seen ")]).items():
            expected = theirs[f"seen {name}"]
            apart(name, value.numpy(), np.moveaxis(expected, 3, 1) if expected.ndim == 4 else expected)
    loss = loss_of(recipe, model(images), labels)
    loss.backward()
    apart("loss", loss.detach().numpy(), theirs["loss"])
    for name, parameter in model.named_parameters():
        apart(f"gradient {name}", parameter.grad.numpy(), ours(name, theirs[f"gradient {SCOPED[name]}"]))
    before = {name: value.clone() for name, value in optimizer_tensors(rule).items()}
    for whose in ("ours", "theirs"):
        # Adam makes a whole step even of a gradient that is the rounding of a sum, where a weight has seen none before:
        # of our own gradient, within 1e-6 of TensorFlow's, one weight in 10,000 may come of it; of TensorFlow's, none
        for name, parameter in model.named_parameters():
            parameter.data.copy_(found.tensors[name])
            if whose == "theirs":
                parameter.grad.copy_(torch.from_numpy(ours(name, theirs[f"gradient {SCOPED[name]}"]).copy()))
        load_optimizer(rule, {name: value.clone() for name, value in before.items()})
        rule.step()
        for name, parameter in model.named_parameters():
            was, after = found.tensors[name].numpy(), ours(name, theirs[f"after {SCOPED[name]}"])
            but = was.size // 10_000 if whose == "ours" else 0
            apart(f"change {name} by {whose}", parameter.detach().numpy() - was, after - was, but)
    return out


def updating(model, found, recipe):
    """The recipe's optimizer with the moments of a checkpoint."""
    rule = optimizer(model, recipe)
    for name, values in found.moments.items():
        for parameter, value in values.items():
            rule.state[model.get_parameter(parameter)][name] = value.clone()
    return rule


@pytest.mark.slow
@pytest.mark.timeout(2700)  # of TensorFlow, twenty steps and 1.4 GB of files
def test_the_articles_training_goes_on_as_tensorflows(trained):
    path, theirs, batch, rate = trained
    found = read_checkpoint(path)
    assert found.step == STEPS
    apart = differences(found, theirs, batch)
    assert len(apart) == 11 + 1 + 16 + 2 * 16
    far = {what: f"{value:.1e}" for what, value in apart.items() if not value < 1e-4}
    assert not far, str(far)
    flows = max(np.abs(value).max() for name, value in theirs.items() if name.startswith("gradient"))
    assert flows > 0.01 if rate == 1e-5 else flows == 0

    first, *rows = variant("article").layers
    mirrored = replace(variant("article"), layers=(replace(first, pad=Pad(4, 3)), *rows))

    def flat(those):  # as if TensorFlow's rows were in our order
        c_y_x = those["fc6.weight"]
        those["fc6.weight"] = c_y_x.reshape(-1, 256, 49).transpose(1, 2).reshape(c_y_x.shape)

    if rate == 1e-5:
        assert differences(found, theirs, batch, table=mirrored)["relu1"] > 0.1
        apart = differences(found, theirs, batch, network=Overhanging)
        assert apart["relu5"] < 1e-4 and apart["pool5"] > 0.1 and apart["fc8"] > 0.001
        flat(found.moments["m"])
        assert differences(found, theirs, batch)["change fc6.weight by ours"] > 0.1
        flat(found.tensors)
        assert differences(found, theirs, batch)["relu6"] > 0.1
        found.moments.clear()
        assert differences(found, theirs, batch)["change fc7.weight by ours"] > 0.1


def batch_of(data, number):
    """The batch that `train` takes at an update of article-printed: what its network is given, and the labels."""
    asked = Asked(data=str(data), run="other", recipe="article-printed", workers=1, precision="fp32")
    job, _, _ = start.prepare(asked, Console(file=io.StringIO()))
    normalise, augment = loop.Normalise(job.preprocess, job.mean, job.device), loop.augment_of(job.recipe)
    prepare, side = loop.preparer(job)
    (batch,) = batches(job.train, loop.order(job, number, number + 1), prepare, side=side, threads=1)
    return loop.views_of(job, batch, normalise, augment), batch.labels


@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_a_run_of_the_articles_program_goes_on_by_the_verbs(trained, tmp_path, monkeypatch, capsys):
    """`import` and `train` make the update that the test above compares with TensorFlow's, bit for bit."""
    path, *_ = trained
    monkeypatch.chdir(tmp_path)

    def done(*words):
        with pytest.raises(SystemExit) as caught:
            main([*map(str, words), "--json"])
        printed = capsys.readouterr()
        assert caught.value.code == 0, printed.err
        return json.loads(printed.out)

    pictures = get("digits", Path("digits"))
    paths = sorted(pictures.glob("*/*.png"), key=lambda path: path.name)  # as the set has them, classes mixed
    Path("digits.txt").write_text("".join(f"{path} {path.parent.name}\n" for path in paths))
    made = done("import", path, "--run", "mine")
    assert (made["variant"], made["kind"]) == ("article", "tensorflow")
    words = [
        "train",
        "digits.txt",
        "--recipe",
        "article-printed",
        "--run",
        "mine",
        "--kernels",
        "plain",
        "--workers",
        1,
    ]
    words += ["--precision", "fp32", "--dropout", 0, "--allow-change", "dropout,precision", "--max-steps", STEPS + 1]
    assert done(*words)["last"]["step"] == STEPS + 1

    images, labels = batch_of("digits.txt", STEPS)
    assert len(set(labels.tolist())) > 2
    found, recipe = read_checkpoint(path), RECIPES["article-printed"]
    model = AlexNet(variant("article"), 10).eval().to(memory_format=torch.channels_last)
    model.load_state_dict(found.tensors)
    rule = updating(model, found, recipe)
    loss_of(recipe, model(images), labels).backward()
    rule.step()
    after = open_run("runs/mine/last").model.state_dict()
    assert all(torch.equal(value, model.get_parameter(name)) for name, value in after.items())
    assert all(not torch.equal(value, found.tensors[name]) for name, value in after.items() if "weight" in name)
