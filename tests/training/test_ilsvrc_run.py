"""ImageNet's official tars, read in place, train the network that their extracted folders train."""

import hashlib
import io
from pathlib import Path

from rich.console import Console

from alexnet.training import start
from tests.data.ilsvrc import miniature


def digest(run: Path) -> str:
    last = run / "checkpoints" / (run / "last").read_text().strip() / "model.safetensors"
    return hashlib.sha256(last.read_bytes()).hexdigest()


def test_a_run_from_the_tars_equals_one_from_the_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    made = miniature(tmp_path / "imagenet", images=6)
    digests, scores = [], []
    for name, place in (("tars", made.tars), ("folders", made.extracted)):
        asked = start.Asked(
            data=str(place), run=str(tmp_path / name), variant="tiny", recipe="paper", batch_size=4, epochs=2,
            precision="fp32", kernels="plain",
        )  # fmt: skip
        result = start.train(asked, Console(file=io.StringIO()))
        digests.append(digest(tmp_path / name))
        scores.append(result["last"])
        kept = (tmp_path / name / "classes.json").read_text()
        assert '"words"' in kept
    assert digests[0] == digests[1]
    assert scores[0] == scores[1] and scores[0]["top1"] is not None
