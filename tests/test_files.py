"""What must last is there whole, or as it was: a fault at any step leaves the old bytes and no litter."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexnet import files
from alexnet.errors import DataError, UsageError


class Fault(OSError):
    pass


def failing(*args: object, **kwargs: object) -> None:
    raise Fault("injected")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_fault_in_a_write_leaves_the_old_bytes(tmp_path, monkeypatch, step):
    path = tmp_path / "x.json"
    files.write(path, "old")
    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), failing)
    with pytest.raises(Fault):
        files.write(path, "new and longer")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    files.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_the_name_appears_after_the_bytes_are_durable(tmp_path, monkeypatch):
    said, path = [], tmp_path / "x"
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (said.append("sync"), sync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, target: (said.append("rename"), replace(self, target))[1])
    files.write(path, b"bytes")
    assert said == ["sync", "rename", "sync"]  # the bytes, the name, and the name made durable


def test_json_is_strict(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"a": [1, "ü"]})
    assert files.read_json(path) == {"a": [1, "ü"]} and path.read_bytes().endswith(b"}\n")
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(path, {"a": float("nan")})
    assert files.read_json(path) == {"a": [1, "ü"]}
    with pytest.raises(DataError, match=r"none\.json: missing"):
        files.read_json(tmp_path / "none.json")
    for content in (
        b"",
        b'{"a": ',
        b"\xff\xfe{}x",
        b'{"a": NaN}',
        b"[-Infinity]",
        b"[1e999]",
        b"[" * 100_000,
        b"9" * 5000,
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"x\.json: cannot be read as JSON"):
            files.read_json(path)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "step"
    with files.new_folder(path) as new:
        (new / "a").write_text("a")
        (new / "deep").mkdir()
        (new / "deep" / "b").write_text("b")
        assert not path.exists() and new.parent == tmp_path
    assert sorted(p.name for p in path.rglob("*")) == ["a", "b", "deep"]
    for fault in (ValueError, KeyboardInterrupt):
        with pytest.raises(fault), files.new_folder(tmp_path / "other") as new:
            (new / "a").write_text("half")
            raise fault
    for name in ("sync_file", "sync_folder"):
        monkeypatch.setattr(files, name, failing)
        with pytest.raises(Fault), files.new_folder(tmp_path / "other") as new:
            (new / "a").write_text("a")
        monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["step"]


def test_what_an_ended_process_left_is_not_taken_over(tmp_path):
    left = tmp_path / f".step.{os.getpid()}.tmp"
    left.mkdir()
    (left / "old").write_text("old")
    with files.new_folder(tmp_path / "step") as new:
        (new / "a").write_text("a")
    assert [p.name for p in (tmp_path / "step").iterdir()] == ["a"]


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")  # FIPS 180-2's own example
    assert files.sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


HOLDER = (
    "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
)


def test_a_lock_held_elsewhere_is_refused_at_once_and_goes_with_its_process(tmp_path):
    path = tmp_path / "lock"
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        begin = time.monotonic()
        with pytest.raises(UsageError, match="another process") as caught, files.lock(path):
            pass
        assert time.monotonic() - begin < 1 and str(tmp_path) in str(caught.value)
    finally:
        child.kill()
        child.communicate()
    # killed, it holds nothing; and our own lock keeps others out
    with files.lock(path), pytest.raises(UsageError, match="another process"), files.lock(path):
        pass
    with files.lock(path):
        pass
