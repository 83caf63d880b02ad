"""The laws that hold the house up, read off the source."""

import ast
import os
from pathlib import Path

import pytest

from alexnet.training.recipes import RECIPES

ROOT = Path(__file__).parent.parent
ORDER = ["errors", "files", "stop", "network", "data", "weights", "evaluation", "training", "cli"]
SOURCES = sorted((ROOT / "alexnet").rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT / "alexnet").parts[0].removesuffix(".py")


def imported(path: Path):
    """The rooms that a file imports, those inside functions too."""
    inside = path.relative_to(ROOT / "alexnet").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            yield from (n[1] for n in names if n[0] == "alexnet" and len(n) > 1)
        elif isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".") if node.module else []
            if node.level:
                base = list(inside[: len(inside) - (node.level - 1)])
                parts = base + parts
            elif parts[:1] == ["alexnet"]:
                parts = parts[1:]
            else:
                continue
            yield from parts[:1] or [alias.name for alias in node.names]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    here = room(path)
    if here in ("__init__", "__main__"):
        return
    for other in imported(path):
        assert ORDER.index(other) <= ORDER.index(here), f"{path}: {here} imports {other}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_reads_code_or_catches_everything(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            assert not any(name.split(".")[0] in ("pickle", "cPickle", "dill") for name in names), path
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert called not in ("eval", "exec"), path
            assert not called.endswith(".extractall") and keywords.get("shell") != "True", path
            if called == "torch.load":
                assert keywords.get("weights_only") == "True", path
            if called == "np.load":
                assert keywords.get("allow_pickle") == "False", path
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            again = any(isinstance(n, ast.Raise) and n.exc is None for n in ast.walk(node))
            assert caught not in ("everything", "Exception") and (caught != "BaseException" or again), path


def test_each_script_names_a_recipe_that_exists():
    scripts = sorted((ROOT / "reproduce").glob("*.sh"))
    assert scripts
    for script in scripts:
        assert os.access(script, os.X_OK), script
        words = set(script.read_text().replace(",", " ").replace(".", " ").split())
        assert words & set(RECIPES) or "recipes" in words, script
