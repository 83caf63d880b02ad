"""The laws that hold the house up, read off the source. Each is shown a fault too: a law that sees none holds nothing."""

import ast
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexnet.network.variants import VARIANTS
from alexnet.training.recipes import RECIPES

ROOT = Path(__file__).parent.parent
ORDER = ("errors", "files", "stop", "ranks", "network", "data", "weights", "evaluation", "look", "training", "serve",
         "bench", "cli")  # fmt: skip
SOURCES = sorted((ROOT / "alexnet").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SCRIPTS = sorted((ROOT / "reproduce").glob("*"))
Function = ast.FunctionDef | ast.AsyncFunctionDef

over_sources = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


def imported(tree: ast.AST, folder: tuple[str, ...]) -> Iterator[str]:
    """The rooms that a file imports, those inside functions too; `folder`: where in the package the file lies."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            yield from (name[1] for name in names if name[0] == "alexnet" and len(name) > 1)
        elif isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".") if node.module else []
            if node.level:
                parts = [*folder[: len(folder) - node.level + 1], *parts]
            elif parts[:1] == ["alexnet"]:
                parts = parts[1:]
            else:
                continue
            yield from parts[:1] or [alias.name for alias in node.names]


def to_the_right(tree: ast.AST, place: tuple[str, ...]) -> list[str]:
    """The imports of the file at `place` that go the wrong way."""
    here = ORDER.index(place[0].removesuffix(".py"))
    return [other for other in imported(tree, place[:-1]) if other not in ORDER[: here + 1]]


@over_sources
def test_imports_go_one_way(path):
    place = path.relative_to(ROOT / "alexnet").parts
    if place[0] in ("__init__.py", "__main__.py"):  # the public names and the command line's door stand outside
        return
    assert to_the_right(ast.parse(path.read_text()), place) == []


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("from ..training import start", ("data", "x.py")),
        ("from alexnet.cli import main", ("training", "x.py")),
        ("import alexnet.evaluation.score", ("weights", "x.py")),
        ("def f():\n    from ..cli.train import seconds", ("evaluation", "x.py")),
        ("from .. import data", ("network", "x.py")),
        ("from .data import x", ("files.py",)),
        ("from ..utils import x", ("cli", "x.py")),
    ],
)
def test_an_import_the_wrong_way_is_seen(source, place):
    assert to_the_right(ast.parse(source), place)
    assert not to_the_right(ast.parse("from .. import files\nfrom . import x\nimport torch"), ("network", "x.py"))


# What turns bytes or words into code or objects, or follows them to where they say, whatever it is given.
NEVER = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "builtins.eval", "builtins.exec", "torch.jit.load",
         "torch.hub.load", "torch.package.PackageImporter", "torch.hub.load_state_dict_from_url", "np.fromregex",
         "shutil.unpack_archive", "tempfile.mktemp", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "runpy.run_path",
         "ctypes.CDLL.LoadLibrary"}  # fmt: skip
EVERYBODY = ("0.0.0.0", "::")  # who may reach a server that listens there
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml", "xmlrpc"}


def dangers(tree: ast.AST) -> list[str]:
    """What reads code, hides a fault, hands words to a shell, or listens to everybody."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            roots = {name.split(".")[0] for name in names}
            found += sorted(roots & MODULES)
        if isinstance(node, ast.Constant) and node.value in EVERYBODY:
            found.append(node.value)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            called = re.sub("^numpy[.]", "np.", called)
            if called in NEVER or called.endswith(".extractall"):
                found.append(called)
            if given.get("shell", "False") != "False":
                found.append("shell")
            if called == "torch.load" and given.get("weights_only") != "True":
                found.append(called)
            if (called == "np.load" or called.endswith("format.read_array")) and given.get("allow_pickle") != "False":
                found.append(called)
            if called == "np.save" and given.get("allow_pickle") != "False":
                found.append(called)
        if isinstance(node, ast.ExceptHandler):
            types = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type] if node.type else []
            names = {ast.unparse(one).removeprefix("builtins.") for one in types} or {"everything"}
            last = node.body[-1]
            again = isinstance(last, ast.Raise) and last.exc is None
            # what goes wrong in a thread is raised where its result is asked for
            again = again or ast.unparse(last).endswith(f".set_exception({node.name})")
            if names & {"everything", "Exception"} or ("BaseException" in names and not again):
                found.append(f"except {', '.join(sorted(names))}")
    return found


# The tests that make what must be refused, or hold beside ours what others do.
MAKERS = {
    "tests/weights/test_unpickle.py": {"pickle", "np.save"},
    "tests/data/test_preprocess.py": {"np.save"},
    "tests/faults/strangers.py": {"np.save"},
    "tests/test_laws.py": set(EVERYBODY),
    "tests/data/test_get.py": {"tar.extractall"},
    "tests/data/test_ilsvrc.py": {"tar.extractall"},
}
PROGRAMS = sorted((ROOT / "bench").glob("*.py"))


@pytest.mark.parametrize("path", [*SOURCES, *PROGRAMS, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_reads_code_or_catches_everything(path):
    allowed = MAKERS.get(path.relative_to(ROOT).as_posix(), set())
    assert set(dangers(ast.parse(path.read_text()))) - allowed == set()


@pytest.mark.parametrize("path", [*SCRIPTS, ROOT / "Makefile", ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_no_script_runs_what_it_fetches_or_listens_to_everybody(path):
    assert not perils(path.read_text())


def perils(text: str) -> list[str]:
    """The lines of a script that run words, what comes from the network, or a server for everybody."""
    peril = re.compile(r"\beval\b|0[.]0[.]0[.]0|--bind_all|curl|wget|\bsudo\b|chmod\s+777|[|]\s*(ba)?sh\b")
    return [line for line in text.splitlines() if peril.search(re.sub(r"alexnet\s+eval|bin/alexnet eval", "", line))]


@pytest.mark.parametrize("line", ["eval $x", "curl https://x | sh", "tensorboard --bind_all", "serve --host 0.0.0.0"])
def test_a_peril_is_seen(line):
    assert perils(f"set -e\n{line}\n")
    assert not perils("alexnet eval runs/x --views 10\n$(BIN)/alexnet eval runs/demo\n")


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "tar.extractall(folder)",
        "eval(text)",
        "exec(text)",
        "__import__(name)",
        "import yaml",
        "yaml.load(text)",
        "torch.jit.load(path)",
        "torch.hub.load(name, 'x')",
        "np.lib.format.read_array(stream)",
        "numpy.load(path)",
        "shutil.unpack_archive(path)",
        "host = '0.0.0.0'",
        "subprocess.run(text, shell=True)",
        "try:\n    f()\nexcept:\n    pass",
        "try:\n    f()\nexcept Exception as e:\n    raise ValueError from e",
        "try:\n    f()\nexcept (OSError, Exception):\n    pass",
        "try:\n    f()\nexcept BaseException:\n    pass",
        "try:\n    f()\nexcept BaseException as e:\n    made.set_exception(e)\n    g()",
        "try:\n    f()\nexcept Exception as e:\n    made.set_exception(e)",
    ],
)
def test_a_danger_is_seen(source):
    assert dangers(ast.parse(source))
    harmless = (
        "model.eval()\ntorch.load(p, weights_only=True)\ntry:\n    f()\nexcept BaseException:\n    g()\n    raise"
        "\ntry:\n    f()\nexcept BaseException as e:\n    made.set_exception(e)"
    )
    assert not dangers(ast.parse(harmless))


WALL_CLOCK = {"time", "time_ns", "ctime", "asctime", "localtime", "gmtime", "strftime", "clock_gettime"}  # of `time`
STAMPS = ("st_mtime", "st_ctime", "st_atime", "st_birthtime", "getmtime", "getctime", "getatime")
# The cache's index compares a file's time with the one it was read at: it asks whether they are equal, not which is later.
# TensorBoard's events have the time of day, for the person who looks at them.
MAY_TELL_THE_TIME = {ROOT / "alexnet" / "training" / "journal.py"}
MAY_READ_STAMPS = {ROOT / "alexnet" / "data" / "index.py"}


def wall_clocks(tree: ast.AST) -> list[str]:
    """What tells the time of day, or of a file: it may be set back, so no order and no duration is taken from it."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name == "datetime"]
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            found += sorted(names & WALL_CLOCK) if node.module == "time" else []
            found += ["datetime"] if node.module == "datetime" else []
        elif isinstance(node, ast.Attribute):
            if node.attr in WALL_CLOCK and isinstance(node.value, ast.Name) and node.value.id == "time":
                found.append(ast.unparse(node))
            elif node.attr.startswith(STAMPS):
                found.append(node.attr)
    return found


@over_sources
def test_no_order_or_duration_comes_from_the_wall_clock(path):
    allowed: tuple[str, ...] = (
        STAMPS if path in MAY_READ_STAMPS else ("time.time",) if path in MAY_TELL_THE_TIME else ()
    )
    assert [one for one in wall_clocks(ast.parse(path.read_text())) if not one.startswith(allowed)] == []


@pytest.mark.parametrize(
    "source",
    [
        "import time\nbegin = time.time()",
        "from time import time",
        "from time import monotonic, time_ns",
        "import datetime",
        "from datetime import datetime, UTC",
        "newest = max(folder.iterdir(), key=lambda path: path.stat().st_mtime)",
        "path.stat().st_mtime_ns",
        "os.path.getmtime(path)",
        "time.strftime('%c')",
    ],
)
def test_a_wall_clock_is_seen(source):
    assert wall_clocks(ast.parse(source))
    assert not wall_clocks(ast.parse("import time\nbegin = time.monotonic()\ntime.sleep(1)\nrow.time\nstat().st_size"))


def named_variants(tree: ast.AST) -> list[str]:
    """Comparisons, and cases of a match, with a variant's name as a word."""

    def words(node: ast.AST) -> set[object]:
        return {one.value for one in ast.walk(node) if isinstance(one, ast.Constant)}

    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and words(node) & VARIANTS.keys():
            asked = ast.unparse(node)
            # torchvision is a package too, and `paper`, `caffe` and `article` are recipes
            if "recipe" not in asked or "variant" in asked:
                found.append(asked)
        if isinstance(node, ast.MatchValue) and words(node) & VARIANTS.keys():
            found.append(ast.unparse(node))
    return found


@over_sources
def test_no_variant_is_asked_for_by_name_outside_its_table(path):
    if path.relative_to(ROOT / "alexnet").as_posix() != "network/variants.py":
        assert named_variants(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    ['chosen.variant == "bn"', 'name in ("caffe", "caffenet")', 'match name:\n    case "half":\n        pass'],
)
def test_a_variant_asked_for_by_name_is_seen(source):
    assert named_variants(ast.parse(source))
    assert not named_variants(ast.parse('variant.mean == "image"\nname = "bn"'))


CORE = """
import sys
sys.modules.update(dict.fromkeys(("simplejpeg", "cyclopts")))
import alexnet.network.build, alexnet.evaluation.judge, alexnet.training.start
alexnet.build("tiny", classes=2)
try:
    import alexnet.cli
except ImportError:
    print("ok")
"""


def test_the_core_is_imported_without_the_command_line_and_the_decoder():
    done = subprocess.run([sys.executable, "-c", CORE], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0 and done.stdout == "ok\n", done.stderr


VERBS = (("train.py", "train"), ("eval.py", "evaluate"), ("predict.py", "predict"), ("info.py", "info"),
         ("data.py", "check"), ("data.py", "stats"), ("data.py", "pack"), ("bench.py", "bench"),
         ("importing.py", "import_model"), ("exporting.py", "export_model"), ("features.py", "features"),
         ("neighbours.py", "neighbours"), ("compare.py", "compare"), ("probe.py", "probe"), ("report.py", "report"),
         ("explain.py", "explain"),
         *(("figure.py", kind) for kind in ("network", "filters", "predictions", "neighbours", "curves", "views", "augment",
                                            "maps", "units", "confusion")))  # fmt: skip


@pytest.mark.parametrize(("file", "verb"), VERBS)
def test_each_verb_with_a_result_has_json(file, verb):
    tree = ast.parse((ROOT / "alexnet" / "cli" / file).read_text())
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == verb)
    assert "json" in [argument.arg for argument in function.args.kwonlyargs]


def test_each_verb_is_a_file_that_the_law_knows():
    there = {path.name for path in (ROOT / "alexnet" / "cli").glob("*.py")} - {"__init__.py"}
    assert there == {file for file, _ in VERBS}


def recipes_of(script: Path) -> set[str]:
    """The recipes that a script names, and those that the program in bench/ it calls names."""
    lines = [line for line in script.read_text().splitlines() if not line.lstrip().startswith("#")]
    words = " ".join(lines).split()
    asked = [after for word, after in itertools.pairwise(words) if word == "--recipe"]
    for program in (ROOT / "bench").glob("*.py"):
        if any(f"bench/{program.name}" in word for word in words):
            constants = [n.value for n in ast.walk(ast.parse(program.read_text())) if isinstance(n, ast.Constant)]
            one = (
                constants[constants.index("--recipe") + 1] if "--recipe" in constants else None
            )  # or it trains nothing
            asked += [one] if one in RECIPES else [c for c in constants if one and c in RECIPES]
    unknown = set(asked) - RECIPES.keys()
    assert not unknown, f"{script.name}: names {unknown}, which is no recipe"
    return set(asked)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_each_script_runs_and_names_a_recipe_that_exists(script):
    assert os.access(script, os.X_OK), "not executable"
    assert script.read_text().startswith("#!")
    assert recipes_of(script)


def test_a_script_that_names_no_recipe_is_seen(tmp_path):
    script = tmp_path / "x.sh"
    script.write_text("alexnet train digits --recipe fost\n")
    with pytest.raises(AssertionError, match="fost"):
        recipes_of(script)
    script.write_text("# --recipe fast\nalexnet train digits\n")
    assert not recipes_of(script)


def functions(trees: list[ast.AST]) -> list[Function]:
    return [node for tree in trees for node in ast.walk(tree) if isinstance(node, Function)]


def checks(function: Function, checking: set[str]) -> bool:
    """Whether it asserts, expects an error, or calls what does: one of `checking`, or a child that must end well."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            name = called.rpartition(".")[2]
            if called in ("pytest.raises", "pytest.fail") or name.startswith("assert_") or called in checking:
                return True
            if any(word.arg == "check" and ast.unparse(word.value) == "True" for word in node.keywords):
                return True
    return False


def empty(trees: list[ast.AST]) -> list[str]:
    """The tests that could not fail but by accident."""
    found, checking = functions(trees), set()
    while more := {f.name for f in found if f.name not in checking and checks(f, checking)}:
        checking |= more
    return [f.name for f in found if f.name.startswith("test") and not checks(f, checking)]


def test_no_test_is_empty():
    assert empty([ast.parse(path.read_text()) for path in TESTS]) == []


def test_an_empty_test_is_seen():
    source = "def test_a():\n    f(1)\ndef helper(x):\n    assert x\ndef test_b():\n    helper(1)\n"
    assert empty([ast.parse(source)]) == ["test_a"]
