"""The long trials, in part: `make faults` runs them whole."""

import itertools
import json
import os
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from alexnet.weights.checkpoint import Store
from tests.faults import Row, machine, saves, soak, space
from tests.pictures import write_folder

ROOT = Path(__file__).parents[2]


def held(rows) -> bool:
    """All of them, of which there are some; those that did not are shown."""
    rows = list(rows)
    print(*(row for row in rows if not row.held), sep="\n")
    return bool(rows) and all(isinstance(row, Row) and row.held for row in rows)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Real pictures where there are some."""
    flowers = os.environ.get("ALEXNET_FLOWERS")
    return Path(flowers) / "train" if flowers else write_folder(tmp_path_factory.mktemp("drawn"), classes=5, each=24)


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))


def test_a_save_may_end_at_any_operation():
    assert held(saves.operations())


def test_damage_is_seen():
    assert held(saves.damage(20, 50, seed=1))


def test_the_store_bears_any_order_of_events():
    assert held(machine.store(25))


@pytest.mark.parametrize("fault", ["verify", "prune"])
def test_a_store_that_forgets_something_is_seen(monkeypatch, fault):
    if fault == "verify":
        monkeypatch.setattr("alexnet.weights.checkpoint.verify", lambda path: None)
        assert not held(saves.damage(5, 5))
        return
    monkeypatch.setattr(Store, "_prune", lambda self: [saves.checkpoint.remove(p) for p in saves.checkpoint.found(self.checkpoints)[:-1]])  # fmt: skip
    with pytest.raises(AssertionError):
        machine.store(25)


def fresh(call: str, source: Path, *given: object) -> list[Row]:
    """The rows of a trial in a process of its own: it forks, which a process that has computed cannot bear."""
    program = (
        "import json, sys; from dataclasses import asdict; from pathlib import Path; "
        f"from tests.faults import kills, signals, soak, space; rows = {call}; print(json.dumps([asdict(r) for r in rows]))"
    )
    words = [sys.executable, "-c", program, str(source), *map(str, given)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return [Row(**row) for row in json.loads(done.stdout)]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("workers", ["1", "3"])
def test_killed_and_run_again_equals_unbroken(source, precision, workers):
    seed = random.Random(f"{precision} {workers}").randrange(1 << 20)
    call = "kills.kills(1, 10, Path(sys.argv[1]), *sys.argv[3:], seed=int(sys.argv[2]))"
    rows = fresh(call, source, seed, "--precision", precision, "--workers", workers)
    assert held(rows[:1]), rows  # how many hit a save is a matter of chance in so few
    assert rows[0].times == 10


@pytest.mark.slow
def test_signals_anywhere(source):
    assert held(fresh("signals.signals(1, Path(sys.argv[1]))", source))


@pytest.mark.slow
def test_no_room_no_right_no_folder_no_lock(source):
    rows = fresh("space.space(Path(sys.argv[1]))", source)
    tried = [row for row in rows if row.times]
    assert held(tried), "\n".join(map(str, (row for row in tried if not row.held)))
    assert len(tried) >= 5
    if tried != rows:
        pytest.skip(rows[-1].seen)


def test_saves_that_failed_are_counted_as_the_run_counts_them():
    def goes_on(step: int, count: int, why: str = "could not be saved (No space left on device)") -> str:
        return f"r/step-{step:08d}: {why}; the run goes on ({count} of 3 failed saves that end it)"

    end = "alexnet: r/step-00000018: could not be saved; 3 saves in a row have failed: the run ends"
    lines = [goes_on(6, 1), "step 7/90  train", goes_on(12, 2, "changed or damaged since it was written"), end]
    assert space.failed_saves(lines) == [(6, 1), (12, 2), (18, 3)] and space.three_in_a_row(lines)
    for wrong in ([], lines[:3], lines[1:], [goes_on(6, 1), end], [goes_on(0, 1), goes_on(6, 2), end]):
        assert not space.three_in_a_row(wrong)
    seen = space.row("x", "4", 4, lines[1:], wanted=4, words=(), also=space.three_in_a_row(lines[1:]))
    assert not seen.held and "step 12 (2), step 18 (3)" in seen.seen and lines[2] in seen.seen
    assert space.row("x", "4", 4, lines, wanted=4, words=("3 saves in a row",), also=True).held


@pytest.mark.slow
def test_memory_threads_and_files_stay(source):
    rows = fresh("soak.soak(1.5, Path(sys.argv[1]), most=40.0)", source)
    assert "exit 75" in rows[0].seen and held(rows)  # in so short a time memory has hardly settled


def test_a_save_returns_before_it_is_written(tmp_path):
    (row,) = soak.stall(2, variant="tiny")
    assert row.times == 2 and "MB" in row.seen
    with closing(Store(tmp_path)) as store:
        store.save(saves.state_of(3))
        assert store.settle() == "" and store.settle() is None, "one save, waited for once"
    assert list(itertools.islice(tmp_path.iterdir(), 5))
