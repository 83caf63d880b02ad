"""The store of checkpoints as a machine: saves, crashes, damage and new processes in any order, beside a simple model."""

import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from alexnet.weights import checkpoint
from alexnet.weights.checkpoint import Store
from tests.faults import Row
from tests.faults.saves import Crash, crash, ending, full, same, state_of


class Checkpoints(RuleBasedStateMachine):
    """What stands: the steps whose saves ended, without the damaged and the pruned. The store must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="store-"))
        self.run = self.place / "run"
        self.run.mkdir()
        self.whole: list[int] = []  # steps, oldest first
        self.perhaps: int | None = None  # one whose save a crash ended: there or not
        self.step = 0
        self.store = Store(self.run)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.place)

    @rule(steps=st.integers(1, 50), best=st.booleans())
    def save(self, steps: int, best: bool) -> None:
        self.step += steps
        self.store.save(state_of(self.step, best=None if best else self.step), best=best)
        self.store.settle()
        self.saved()

    @rule(steps=st.integers(1, 50), at=st.integers(0, 40))
    def crash(self, steps: int, at: int) -> None:
        """A save that the end of the process cuts off, and a new process."""
        self.step += steps
        with ending(at, crash) as done:
            try:
                self.store.save(state_of(self.step), best=True)
                self.store.settle()
            except Crash:
                pass
        if len(done) <= at:
            self.saved()
        else:
            self.perhaps = self.step
        self.resume()

    @rule(steps=st.integers(1, 50), at=st.integers(0, 40))
    def disk(self, steps: int, at: int) -> None:
        """A save for which there is no room from some operation on; the process goes on."""
        self.step += steps
        said: str | None = None
        with ending(at, full) as done:
            try:
                self.store.save(state_of(self.step), best=True)
                said = self.store.settle()
            except checkpoint.WeightsError as reason:
                said = str(reason)
        assert said or len(done) <= at or "unlink" in done[at:] or "rmdir" in done[at:]
        self.perhaps = self.step
        self.settle_perhaps()

    @precondition(lambda self: len(self.whole) > 1)
    @rule(seed=st.integers(0, 2**32), cut=st.booleans())
    def damage(self, seed: int, cut: bool) -> None:
        """The newest loses a bit or an end, and a new process comes."""
        draw = random.Random(seed)
        path = checkpoint.found(self.store.checkpoints)[-1]
        part = draw.choice(sorted(path.iterdir()))
        content = bytearray(part.read_bytes())
        if cut:
            content = content[: draw.randrange(len(content))]
        else:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        part.write_bytes(content)
        self.whole.remove(int(path.name[5:13]))
        self.resume()

    @rule()
    def resume(self) -> None:
        """A new process takes the run up: the newest whole one, and what is broken goes aside."""
        self.store.close()
        self.store = Store(self.run)
        path, _ = self.store.newest()
        self.settle_perhaps()
        if path is not None:
            for later in self.store.later(path):
                self.store.set_aside(later, "broken")
            self.step = int(path.name[5:13])
            self.store.point("last", path)

    def settle_perhaps(self) -> None:
        """A save that was cut off is there whole, or it is not there."""
        if self.perhaps is not None and checkpoint.name(self.perhaps) in self.names():
            self.whole.append(self.perhaps)
        self.perhaps = None
        self.pruned()

    def saved(self) -> None:
        """A save has ended well."""
        self.perhaps = None
        self.whole.append(self.step)
        self.pruned()

    def pruned(self) -> None:
        """What is gone is so because two newer ones stand."""
        names = self.names()
        assert {checkpoint.name(step) for step in self.whole[-2:]} <= set(names), (self.whole, names)
        self.whole = [step for step in self.whole if checkpoint.name(step) in names]

    def names(self) -> list[str]:
        return [path.name for path in checkpoint.found(self.store.checkpoints)]

    @invariant()
    def the_newest_stands(self) -> None:
        path, _ = self.store.newest()
        assert (None if path is None else path.name) == (checkpoint.name(self.whole[-1]) if self.whole else None)
        assert path is None or same(path)


def store(examples: int, seed: int = 0) -> list[Row]:
    """`examples` histories of up to 30 events."""
    run_state_machine_as_test(
        Checkpoints,
        settings=settings(
            max_examples=examples, stateful_step_count=30, deadline=None, database=None, derandomize=seed == 0,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
    return [Row("the store, any order of events", examples, "the newest whole one loads", "always", True)]
