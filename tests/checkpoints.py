"""A checkpoint put into a run's folder, for tests that need one."""

import hashlib
import json
from contextlib import closing
from pathlib import Path
from typing import Any

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


def forge(checkpoint: Path, state: Any) -> None:
    """Gives a checkpoint another state.json, and a manifest that agrees."""
    content = json.dumps(state).encode()
    (checkpoint / "state.json").write_bytes(content)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["state.json"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
