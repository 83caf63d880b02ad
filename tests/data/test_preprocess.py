import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alexnet.data.preprocess import Preprocess, from_json, load_mean, stored_side, to_json
from alexnet.errors import DataError, UsageError

PAPER = Preprocess(
    side=224,
    stored=256,
    resize="shorter",
    filter="bicubic",
    exif=False,
    decode="full",
    colour="RGB",
    scale=1.0,
    mean="mean.npy",
    mean_crop="centre",
    std=(1.0, 1.0, 1.0),
)
PATH = Path("runs/x/preprocess.json")


@pytest.mark.parametrize(
    ("side", "stored"), [(224, 256), (227, 256), (64, 73), (112, 128), (32, 37), (28, 32), (226, 258)]
)
def test_stored_side(side, stored):
    assert stored_side(side) == stored


@pytest.mark.parametrize("mean", ["mean.npy", (123.675, 116.28, 103.53)])
def test_the_record_survives_json(mean):
    record = replace(PAPER, mean=mean, scale=1 / 255, colour="BGR", resize="warp", exif=True)
    assert from_json(json.loads(json.dumps(to_json(record))), PATH) == record


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("side", 0),
        ("side", 224.0),
        ("side", True),
        ("side", 300),
        ("stored", 1_000_000_000),
        ("stored", "256"),
        ("resize", "longer"),
        ("filter", "nearest"),
        ("exif", 1),
        ("decode", "half"),
        ("decode", True),
        ("colour", "rgb"),
        ("scale", 0),
        ("scale", float("nan")),
        ("scale", None),
        ("mean", "other.npy"),
        ("mean", [1, 2]),
        ("mean", [1, 2, "3"]),
        ("mean", 117),
        ("mean_crop", "center"),
        ("mean_crop", ["centre"]),
        ("std", [1, 1, 0]),
        ("std", [1, 1, float("inf")]),
        ("std", None),
    ],
)
def test_a_wrong_value_is_named_with_its_file(field, value):
    with pytest.raises(UsageError, match=r"^runs/x/preprocess\.json: \w+ is .*(expected|smaller than side)") as caught:
        from_json(to_json(PAPER) | {field: value}, PATH)
    assert field in str(caught.value)


def test_a_record_from_before_there_was_a_choice_of_decoding():
    value = to_json(replace(PAPER, decode="reduced"))
    assert from_json(value, PATH).decode == "reduced"
    del value["decode"]
    assert from_json(value, PATH) == PAPER and PAPER.decode == "full"


def test_missing_and_unknown_fields_are_named():
    value = to_json(PAPER) | {"crop": 1}
    del value["exif"]
    with pytest.raises(UsageError, match="exif is missing; crop is unknown; the fields are side, stored"):
        from_json(value, PATH)
    with pytest.raises(UsageError, match="expected a JSON object, found list"):
        from_json([], PATH)


def test_load_mean(tmp_path):
    mean = np.random.default_rng(0).uniform(0, 255, (4, 4, 3))
    np.save(tmp_path / "mean.npy", mean)
    loaded = load_mean(tmp_path, stored=4)
    assert loaded.dtype == np.float32
    assert np.array_equal(loaded, mean.astype(np.float32))


def test_load_mean_refuses(tmp_path):
    path = tmp_path / "mean.npy"
    with pytest.raises(DataError, match="missing"):
        load_mean(tmp_path, stored=4)
    np.save(path, np.zeros((4, 4, 3)))
    with pytest.raises(DataError, match=r"float64 \(4, 4, 3\), expected float32 \(5, 5, 3\)"):
        load_mean(tmp_path, stored=5)
    np.save(path, np.zeros((4, 4, 3), np.int32))
    with pytest.raises(DataError, match="int32"):
        load_mean(tmp_path, stored=4)
    np.save(path, np.full((4, 4, 3), np.nan))
    with pytest.raises(DataError, match="finite"):
        load_mean(tmp_path, stored=4)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="object"):
        load_mean(tmp_path, stored=4)
    np.savez(path.with_suffix(""), a=np.zeros(3))
    path.with_suffix(".npz").replace(path)
    with pytest.raises(DataError, match="cannot be read"):
        load_mean(tmp_path, stored=4)
    np.save(path, np.zeros((4, 4, 3)))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match="cannot be read"):
        load_mean(tmp_path, stored=4)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (4000, 4000, 3), }",  # values that are not there
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,), }",
        b"__import__('os').system('touch canary')",
        b"-" * 5000,
        b"(" * 300,
        b"{'descr': '<f4'",
        b"",
    ],
)
def test_a_mean_whose_header_lies_is_refused_at_once(tmp_path, header):
    head = header + b"\n"
    (tmp_path / "mean.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(48))
    with pytest.raises(DataError, match=r"mean\.npy: ") as caught:
        load_mean(tmp_path, stored=4000)
    assert "\n" not in str(caught.value)
