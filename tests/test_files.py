"""What must last is there whole, or as it was: a fault at any step leaves the old bytes and no litter."""

import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
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


def test_no_document_is_waited_for_or_fills_the_memory(tmp_path):
    """What stands in a stranger's run folder under the name of one: a pipe, a folder, a hole of a terabyte."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    with (tmp_path / "hole.json").open("wb") as stream:
        stream.truncate(1 << 40)
    for name, words in (
        ("pipe", "not a regular file"),
        ("folder", "not a regular file"),
        ("hole", "more than the limit"),
    ):
        with pytest.raises(DataError, match=rf"{name}\.json: .*{words}"):
            files.read_json(tmp_path / f"{name}.json")


def test_a_stream_is_of_a_regular_file_within_a_bound(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    with files.bounded(path, 5) as stream:
        assert stream.read() == b"12345"
    os.mkfifo(tmp_path / "pipe")
    for where, most, words in (
        (path, 4, "5 bytes, more than the limit of 4"),
        (tmp_path, 9, "not a regular file"),
        (tmp_path / "pipe", 9, "not a regular file"),
        (tmp_path / "none", 9, os.strerror(errno.ENOENT)),
    ):
        with pytest.raises(OSError) as caught, files.bounded(where, most):
            pass
        assert caught.value.strerror == words


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
    ordinary = files.sync
    for fails in ("a", f".other.{os.getpid()}.tmp"):  # the file, the folder
        monkeypatch.setattr(
            files, "sync", lambda path, fails=fails: (failing if path.name == fails else ordinary)(path)
        )
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
    # killed, it holds nothing; and our own lock keeps others out, and says who we are
    ours = f"in use by process {os.getpid()} on {socket.gethostname()}"
    with files.lock(path) as note, pytest.raises(UsageError, match=ours), files.lock(path):
        pass
    assert note is None and path.read_bytes() == b""
    with files.lock(path):
        pass


def test_what_a_killed_one_left_locked_is_taken_over_and_said(tmp_path):
    path = tmp_path / "lock"
    child = os.fork()
    if child == 0:
        with files.lock(path):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with files.lock(path) as note:
        assert note == f"{tmp_path}: process {child} on {socket.gethostname()} ended here without a word; taken over"
        assert json.loads(path.read_text())["pid"] == os.getpid()
    with files.lock(path) as note:
        assert note is None, "that one ended with a word"


@pytest.mark.parametrize(
    ("holder", "held"),
    [
        ({"host": "elsewhere"}, True),
        ({}, True),
        ({"boot": "an earlier start"}, False),
        ({"pid": 2**22 + 7}, False),  # more than Linux gives
        (None, False),
    ],
)
def test_a_file_system_without_locks_believes_the_file(tmp_path, monkeypatch, holder, held):
    def none(stream, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    path = tmp_path / "lock"
    with files.lock(path):
        said = json.loads(path.read_text())
    path.write_text("" if holder is None else json.dumps({**said, "pid": os.getppid(), **holder}))
    monkeypatch.setattr(files.fcntl, "flock", none)
    if held:
        with pytest.raises(UsageError, match=f"if that has ended, remove {path}"), files.lock(path):
            pass
        return
    with files.lock(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_new_file_is_what_it_was_said_to_be(tmp_path):
    pieces = [b"abc", memoryview(np.arange(5, dtype=np.float32)), b"", memoryview(bytearray(b"xyz"))]
    size, digest = files.write_new(tmp_path / "new", pieces)
    content = (tmp_path / "new").read_bytes()
    assert content == b"abc" + np.arange(5, dtype=np.float32).tobytes() + b"xyz"
    assert (size, digest) == (len(content), hashlib.sha256(content).hexdigest()) == (26, files.sha256(tmp_path / "new"))
    with pytest.raises(FileExistsError):
        files.write_new(tmp_path / "new", [b"other"])
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        files.write_new(tmp_path / "link", [b"other"])
    assert not (tmp_path / "target").exists()


def test_rows_are_appended_to_an_array_where_it_stands(tmp_path):
    path, rows = tmp_path / "x.npy", np.arange(3000, dtype=np.float32).reshape(1000, 3)
    for at, row in enumerate(rows):
        files.append_array(path, row, at=at)
    assert np.array_equal(np.load(path, allow_pickle=False), rows)
    np.save(tmp_path / "whole.npy", rows, allow_pickle=False)
    assert path.read_bytes() == (tmp_path / "whole.npy").read_bytes(), "what numpy would have written"
    files.append_array(path, -rows[0], at=500)  # a run gone back
    assert np.array_equal(np.load(path, allow_pickle=False), [*rows[:500], -rows[0]])
    files.append_array(path, rows[7], at=503)  # two found no room
    kept = np.load(path, allow_pickle=False)
    assert len(kept) == 504 and np.isnan(kept[501:503]).all() and np.array_equal(kept[503], rows[7])
    files.append_array(tmp_path / "late.npy", rows[7], at=1)
    assert np.isnan(np.load(tmp_path / "late.npy", allow_pickle=False)[0]).all()
    with pytest.raises(DataError, match=r"x\.npy: holds float32 \(504, 3\), not rows of float32 \(4,\)"):
        files.append_array(path, np.zeros(4, np.float32), at=504)


def test_a_row_that_finds_no_room_leaves_those_before(tmp_path, monkeypatch):
    path = tmp_path / "x.npy"
    files.append_array(path, np.ones(5, np.float32), at=0)
    monkeypatch.setattr(files.os, "fsync", failing)
    with pytest.raises(Fault):
        files.append_array(path, np.zeros(5, np.float32), at=1)
    assert np.array_equal(np.load(path, allow_pickle=False), [[1.0] * 5])
