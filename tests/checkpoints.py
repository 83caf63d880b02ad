"""A checkpoint put into a run's folder, for tests that need one."""

from contextlib import closing
from pathlib import Path

from alexnet.weights.checkpoint import Checkpoint, Store, name


def put(run: Path, checkpoint: Checkpoint, *, best: bool = False, keep: int = 2) -> Path:
    """Saves it as a run would, and returns its folder."""
    run.mkdir(parents=True, exist_ok=True)
    with closing(Store(run, keep=keep)) as store:
        store.save(checkpoint, best=best)
        store.settle()
    return (
        run / "checkpoints" / name(checkpoint.state["step"], judged=not checkpoint.state.get("validation_due", False))
    )
