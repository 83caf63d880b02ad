"""A safetensors file's header is judged before the library sees the file."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from alexnet.errors import WeightsError
from alexnet.network.build import AlexNet, build
from alexnet.network.variants import VARIANTS
from alexnet.training.optim import optimizer
from alexnet.training.recipes import RECIPES
from alexnet.weights import tensors
from alexnet.weights.checkpoint import optimizer_tensors
from alexnet.weights.tensors import MOST_TENSORS, read_shapes, read_tensors


def written(path: Path, header: object, data: bytes = bytes(16), *, length: int | None = None) -> Path:
    said = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(said) if length is None else length).to_bytes(8, "little") + said + data)
    return path


def entry(shape=(4,), offsets=(0, 16), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_what_the_library_writes_is_read(tmp_path):
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
    values = {f"x{n}": torch.ones(3, n, dtype=kind) for n, kind in enumerate(kinds)} | {"point": torch.tensor(2.0)}
    save_file(values, tmp_path / "x.safetensors", metadata={"by": "us"})
    assert read_shapes(tmp_path / "x.safetensors") == {name: tuple(value.shape) for name, value in values.items()}
    read = read_tensors(tmp_path / "x.safetensors")
    assert read.keys() == values.keys() and all(torch.equal(read[name], values[name]) for name in values)
    save_file({}, tmp_path / "none.safetensors")
    assert read_tensors(tmp_path / "none.safetensors") == {}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_state_of_ours_has_fewer_tensors_than_are_read(name):
    model = AlexNet(VARIANTS[name], 2)
    assert max(len(model.state_dict()), ADAMS * len(list(model.parameters()))) <= MOST_TENSORS


ADAMS = 3  # tensors for each parameter


def test_adam_is_the_largest_state():
    model = build("tiny", classes=2)
    rule = optimizer(model, RECIPES["article"])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    rule.step()
    assert len(optimizer_tensors(rule)) == ADAMS * len(list(model.parameters()))


MANY = {f"x{n}": entry((0,), (0, 0)) for n in range(100_000)}
BAD = {
    "a header of 2^63 bytes": ({}, b"", 1 << 63, "a header of 9223372036854775808 bytes"),
    "a header longer than the file": ({}, b"", 100, "cut short within its header"),
    "100,000 tensors": (MANY, b"", None, "a header of"),
    "100,000 tensors in few bytes": (b"{" + b"," * 100_000 + b"}", b"", None, "no JSON"),
    "65 tensors": ({f"x{n}": entry((0,), (0, 0)) for n in range(65)}, b"", None, "65 tensors; 64 are the most"),
    "overlapping": ({"a": entry(), "b": entry((2,), (8, 16))}, bytes(16), None, "b begins at byte 8, expected 16"),
    "one in two places": ({"a": entry(), "b": entry()}, bytes(16), None, "begins at byte 0, expected 16"),
    "a hole": ({"a": entry((1,), (0, 4)), "b": entry((1,), (8, 12))}, bytes(12), None, "begins at byte 8, expected 4"),
    "not all of the file": ({"a": entry()}, bytes(20), None, "20 bytes of values, expected 16"),
    "more than the file": ({"a": entry()}, bytes(12), None, "12 bytes of values, expected 16"),
    "a shape that overflows": (
        {"a": entry((4194305, 4194305, 211106198978564))}, bytes(16), None, "not what its shape needs"),
    "a shape of 2^64": ({"a": entry((1 << 32, 1 << 32))}, bytes(16), None, "not what its shape needs"),
    "a shape below nothing": ({"a": entry((-2, -2))}, bytes(16), None, "not what its shape needs"),
    "a shape of fractions": ({"a": entry((4.0,))}, bytes(16), None, "not what its shape needs"),
    "a shape of truths": ({"a": entry((True, 4))}, bytes(16), None, "not what its shape needs"),
    "a shape that is none": ({"a": entry() | {"shape": 4}}, bytes(16), None, "no dtype, shape and place"),
    "many axes": ({"a": entry((1,) * 1000 + (4,))}, bytes(16), None, "not what its shape needs"),
    "an end before its beginning": ({"a": entry((4,), (16, 0))}, bytes(16), None, "not what its shape needs"),
    "three places": ({"a": entry((4,), (0, 8, 16))}, bytes(16), None, "no dtype, shape and place"),
    "another type": ({"a": entry(dtype="F4")}, bytes(16), None, "no dtype, shape and place"),
    "a type that is a list": ({"a": entry() | {"dtype": []}}, bytes(16), None, "no dtype, shape and place"),
    "no place": ({"a": {"dtype": "F32", "shape": [4]}}, bytes(16), None, "no dtype, shape and place"),
    "no entry": ({"a": 4}, bytes(16), None, "no dtype, shape and place"),
    "a list": ([], b"", None, "no object"),
    "a name twice": (b'{"a":1,"a":2}', b"", None, "a name stands twice"),
    "deep": (b"[" * 500_000, b"", None, "no JSON"),
    "no text": (b"\xff\xfe", b"", None, "no JSON"),
    "escapes": ({"\x1b[2J": 3}, b"", None, r"\x1b[2J: no dtype"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_is_refused_at_once_and_not_shown_to_the_library(tmp_path, monkeypatch, name):
    header, data, length, says = BAD[name]
    path = written(tmp_path / "x.safetensors", header, data, length=length)
    monkeypatch.setattr(tensors, "load_file", None)
    begin = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        read_tensors(path)
    assert time.perf_counter() - begin < 0.1
    said = str(caught.value)
    assert caught.value.code == 4 and said.startswith(f"{path}: cannot be read as safetensors (") and says in said
    assert said.isprintable() and len(said) < 400


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for where in (tmp_path, tmp_path / "none", tmp_path / "pipe"):
        with pytest.raises(WeightsError, match="no regular file"):
            read_tensors(where)
