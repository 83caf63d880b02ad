"""A checkpoint is whole and verified, or it is not there: damage anywhere is seen, and names its file."""

import io
import json
import random
import shutil
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alexnet.errors import WeightsError
from alexnet.network.build import build
from alexnet.weights import checkpoint
from alexnet.weights.checkpoint import Checkpoint, Store, load_optimizer, optimizer_tensors
from alexnet.weights.run import fit
from tests.checkpoints import put

ODD = {
    "float32": torch.tensor([0.0, -0.0, 1e-45, 3.4e38, float("inf"), float("nan")]),
    "bfloat16": torch.tensor([1.0, -2.5], dtype=torch.bfloat16),
    "int64": torch.tensor(2**62 + 1),
    "channels_last": torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
    "empty": torch.zeros(0, 3),
}


def small(step: int = 7) -> Checkpoint:
    draw = torch.Generator().manual_seed(step)
    tensors = {"a.weight": torch.randn(3, 4, generator=draw), "a.bias": torch.randn(3, generator=draw)}
    return Checkpoint(tensors, {"0.0.momentum_buffer": torch.randn(3, 4, generator=draw)}, {"step": step, "lr": 0.1})


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    path = put(tmp_path, Checkpoint(ODD, {"0.0.m": ODD["float32"]}, {"step": 1200, "x": None, "y": 0.1}))
    assert path == tmp_path / "checkpoints" / "step-00001200"
    assert sorted(p.name for p in path.iterdir()) == sorted([*checkpoint.PARTS, "manifest.json"])
    kept = checkpoint.load(path)
    for key, value in ODD.items():
        assert kept.model[key].dtype == value.dtype and kept.model[key].shape == value.shape
        assert bits(kept.model[key]) == bits(value), key
    said = {"schema": checkpoint.SCHEMA, "alexnet": version("alexnet"), "step": 1200, "x": None, "y": 0.1}
    assert kept.state == said
    assert not checkpoint.load(path, training=False).optimizer
    assert set(load_file(path / "model.safetensors")) == set(ODD)


def test_every_truncation_and_bit_flip_is_seen(tmp_path):
    """Of each of the four files: cut anywhere, any bit turned, gone; always a WeightsError that names it."""
    whole, draw, tried = put(tmp_path / "whole", small()), random.Random(0), 0
    folder = tmp_path / "step-00000007"
    shutil.copytree(whole, folder)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        damaged = [content[:n] for n in {0, 1, len(content) - 1, *(draw.randrange(len(content)) for _ in range(25))}]
        for at in (draw.randrange(8 * len(content)) for _ in range(70)):
            turned = bytearray(content)
            turned[at // 8] ^= 1 << at % 8
            damaged.append(bytes(turned))
        damaged.append(content + b"\0")
        for changed in damaged:
            path.write_bytes(changed)
            # white space of the manifest may change: it says the same
            if path.name == "manifest.json" and same(changed, content):
                continue
            with pytest.raises(WeightsError) as caught:
                checkpoint.load(folder)
            named = str(caught.value)
            assert str(folder) in named and "\n" not in named
            assert path.name in named or path.name == "manifest.json", named
            tried += 1
        path.unlink()
        with pytest.raises(WeightsError, match=f"{path.name}: missing"):
            checkpoint.load(folder)
        path.write_bytes(content)
        checkpoint.load(folder)
    assert tried > 350


def same(changed: bytes, content: bytes) -> bool:
    try:
        return json.loads(changed) == json.loads(content)
    except ValueError:
        return False


@pytest.mark.parametrize("said", ["[]", "null", "7", '{"model.safetensors": []}', '{"model.safetensors": 3}'])
def test_a_manifest_of_another_shape_is_damage(tmp_path, said):
    path = put(tmp_path, small())
    (path / "manifest.json").write_text(said)
    with pytest.raises(WeightsError):
        checkpoint.load(path)


def test_a_newer_schema_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SCHEMA", 99)
    monkeypatch.setattr(checkpoint, "version", lambda name: "7.1")
    path = put(tmp_path, small())
    monkeypatch.undo()
    with pytest.raises(WeightsError, match=r"written by alexnet 7\.1 in schema 99; this program reads 1 to 2"):
        checkpoint.load(path)


def test_a_damaged_one_is_written_again_a_whole_one_is_left(tmp_path):
    path = put(tmp_path, small()) / "model.safetensors"
    before = path.stat().st_mtime_ns
    put(tmp_path, small())
    assert path.stat().st_mtime_ns == before
    path.write_bytes(path.read_bytes()[:-1])
    put(tmp_path, small())
    assert torch.equal(checkpoint.load(path.parent).model["a.weight"], small().model["a.weight"])
    assert (tmp_path / "checkpoints" / "broken-step-00000007" / "model.safetensors").exists()


def test_what_is_saved_is_what_stood_there_at_the_call(tmp_path):
    """The tensors change while they are written: the file has none of it."""
    draw = torch.Generator().manual_seed(0)
    weight, momentum = torch.randn(2000, 1000, generator=draw), torch.randn(2000, 1000, generator=draw)
    before = weight.clone(), momentum.clone()
    with closing(Store(tmp_path)) as store:
        for step in range(3):
            store.save(Checkpoint({"w": weight}, {"0.0.m": momentum}, {"step": step}))
            weight.add_(1)
            momentum.zero_()
            store.settle()
            kept = checkpoint.load(tmp_path / "checkpoints" / checkpoint.name(step))
            assert torch.equal(kept.model["w"], before[0]) and torch.equal(kept.optimizer["0.0.m"], before[1])
            before = weight.clone(), momentum.clone()


def test_the_memory_of_the_first_save_is_got_before_it(tmp_path):
    state = Checkpoint({"w": torch.ones(3, 4)}, {"0.0.m": torch.ones(5)}, {"step": 1})
    with closing(Store(tmp_path)) as store:
        store.make_room(state)
        store._room.result()
        room = {key: buffer.data_ptr() for key, buffer in store._staged.items()}
        assert room.keys() == {"model w", "rule 0.0.m"}
        store.save(state)
        assert {key: buffer.data_ptr() for key, buffer in store._staged.items()} == room
        store.settle()
    assert torch.equal(checkpoint.load(tmp_path / "checkpoints" / checkpoint.name(1)).model["w"], torch.ones(3, 4))


def test_numbers_that_json_cannot_hold_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        put(tmp_path, Checkpoint({}, {}, {"step": 3, "loss": float("nan")}))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(
        WeightsError, match=r"step-00000007: could not be saved; it needs 0\.0 MB, and 0\.0 MB are free"
    ):
        put(tmp_path, small())
    assert not list(tmp_path.iterdir())


def test_a_run_folder_that_is_gone_is_not_made_again(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with closing(Store(run)) as store:
        run.rmdir()
        store.save(small())
        with pytest.raises(WeightsError, match="could not be saved"):
            store.settle()
    assert not run.exists()


def test_the_unfinished_is_not_found_and_the_newest_and_their_best_are_kept(tmp_path):
    folder = tmp_path / "checkpoints"
    for step, best in ((4, 4), (30, 4), (31, 31), (200, 31)):
        made = small(step)
        put(tmp_path, Checkpoint(made.model, made.optimizer, {**made.state, "best": {"step": best}}), best=step == best)
        if step == 31:  # of the two newest, one names 4 as its best
            assert [path.name[-3:] for path in checkpoint.found(folder)] == ["004", "030", "031"]
    left = folder / ".step-00000300.123.tmp"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    (folder / "step-5").mkdir()
    (folder / "step-00000009").write_text("a file")
    assert [path.name for path in checkpoint.found(folder)] == ["step-00000031", "step-00000200"]
    put(tmp_path, small(201), keep=1)
    # and what the file `best` names, whatever a state says
    assert [path.name for path in checkpoint.found(folder)] == ["step-00000031", "step-00000201"]
    assert not left.exists() and (folder / "step-5").is_dir()
    assert checkpoint.found(tmp_path / "none") == []
    assert (tmp_path / "last").read_text() == "step-00000201\n" and (tmp_path / "best").read_text() == "step-00000031\n"


def test_a_judged_state_is_newer_than_the_same_unjudged(tmp_path):
    for name in ("step-00000008", "step-00000008-unjudged", "step-00000007"):
        (tmp_path / name).mkdir()
    names = [path.name for path in checkpoint.found(tmp_path)]
    assert names == ["step-00000007", "step-00000008-unjudged", "step-00000008"]


def stepped(seed: int = 0) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = build("tiny", classes=3, seed=seed).to(memory_format=torch.channels_last)
    rule = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model.eval()(images).square().sum().backward()
    rule.step()
    return model, rule


def test_momentum_comes_back_in_its_layout(tmp_path):
    model, rule = stepped()
    kept = checkpoint.load(put(tmp_path, Checkpoint(model.state_dict(), optimizer_tensors(rule), {"step": 1})))
    other = build("tiny", classes=3, seed=5).to(memory_format=torch.channels_last)
    again = torch.optim.SGD(other.parameters(), lr=0.01, momentum=0.9)
    load_optimizer(again, kept.optimizer)
    fit(other, kept.model, "x")
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        a, b = rule.state[mine]["momentum_buffer"], again.state[theirs]["momentum_buffer"]
        assert torch.equal(a, b) and a.stride() == b.stride() == theirs.stride()
    assert any(p.ndim == 4 and not p.is_contiguous() for p in other.parameters()), "no layout to keep"


def test_what_the_rule_held_before_is_gone():
    _, rule = stepped()
    kept = {name: value.clone() for name, value in optimizer_tensors(rule).items() if name.startswith("0.1.")}
    load_optimizer(rule, kept)
    assert optimizer_tensors(rule).keys() == kept.keys() == {"0.1.momentum_buffer"}


def test_a_rule_with_numbers_of_its_own(tmp_path):
    model = torch.nn.Linear(3, 2)
    rule = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    rule.step()
    again = torch.optim.Adam(torch.nn.Linear(3, 2).parameters())
    load_optimizer(again, {name: value.clone() for name, value in optimizer_tensors(rule).items()})
    assert {k: v.tolist() for k, v in optimizer_tensors(again).items()} == {
        k: v.tolist() for k, v in optimizer_tensors(rule).items()
    }


@pytest.mark.parametrize(
    "tensors",
    [
        {"0.99.momentum_buffer": torch.zeros(3)},
        {"9.0.momentum_buffer": torch.zeros(3)},
        {"0.0.momentum_buffer": torch.zeros(12, 3, 11, 10)},
        {"a.b.c": torch.zeros(3)},
        {"momentum": torch.zeros(3)},
    ],
)
def test_momentum_that_fits_nothing_is_refused_and_nothing_is_loaded(tensors):
    _, rule = stepped()
    before = {name: value.clone() for name, value in optimizer_tensors(rule).items()}
    with pytest.raises(WeightsError, match=r"optimizer\.safetensors"):
        load_optimizer(rule, {**before, **tensors})
    after = optimizer_tensors(rule)
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_weights_that_do_not_fit_are_refused_whole():
    model = build("tiny", classes=3, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = {name: value + 1 for name, value in before.items()}
    cases = [
        ({k: v for k, v in other.items() if k != "fc7.bias"}, "fc7.bias is missing"),
        ({**other, "fc9.weight": torch.zeros(1)}, "fc9.weight is not known"),
        ({**other, "fc8.weight": torch.zeros(4, 512)}, r"fc8.weight is \(4, 512\), expected \(3, 512\)"),
    ]
    for tensors, words in cases:
        with pytest.raises(WeightsError, match=words) as caught:
            fit(model, tensors, "here")
        assert "here: does not fit variant tiny" in str(caught.value) and caught.value.code == 4
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(WeightsError) as caught:
        fit(model, {}, "here")
    assert len(str(caught.value)) < 250, "a line, not a list of everything"
    fit(model, other, "here")
    assert torch.equal(model.get_parameter("fc8.bias"), other["fc8.bias"])


def test_what_is_no_safetensors_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    stream = io.BytesIO()
    np.save(stream, np.zeros(3), allow_pickle=False)
    for content in (b"", b"PK\x03\x04", stream.getvalue(), b"\x80\x04N."):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"x\.safetensors: cannot be read"):
            checkpoint.read_tensors(path)
    with pytest.raises(WeightsError, match="cannot be read"):
        checkpoint.read_tensors(Path(tmp_path / "none"))
