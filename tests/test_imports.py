"""The shape of the source: imports point one way, nothing unsafe, all small and documented."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "circuitprune"
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))

ORDER = [
    "errors",
    "files",
    "data",
    "metrics",
    "circuits",
    "models",
    "engine",
    "patching",
    "training",
    "lens",
    "attribution",
    "evidence",
    "config",
    "runs",
    "views",
    "pipelines",
    "cli",
    "__main__",
    "__init__",
]
"""Every room of the house: each imports only from the left."""

LONG_FILES = {
    "circuit.py": 350,
    "config.py": 350,
    "cli.py": 350,
    "graph.py": 350,
}
"""Files beyond 300 lines, and what they may grow to."""
HOOKS = ("forward", "training_step", "configure_optimizers")
"""Methods whose meaning torch and Lightning document."""
LONGEST_FILE, LONGEST_FUNCTION, MEDIAN_FUNCTION, MOST_ANY = 320, 45, 8, 40


def place(path: Path) -> str:
    """The entry of `ORDER` that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> Iterator[str]:
    """The parts of the package that a file imports, wherever in the file the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            from_top = module == "circuitprune"
            names = [f"{module}.{a.name}" for a in node.names] if from_top else [module]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "circuitprune":
                yield rest.split(".")[0] or "__init__"


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_file = pytest.mark.parametrize("path", FILES, ids=named)
every_source = pytest.mark.parametrize("path", FILES + SCRIPTS, ids=named)


# ---------------------------------------------------------------- imports


def test_every_module_has_a_place_in_the_order():
    assert {place(path) for path in FILES} <= set(ORDER)
    assert len(ORDER) == len(set(ORDER))


@every_file
def test_imports_point_one_way(path):
    here = ORDER.index(place(path))
    for there in imported(path):
        assert ORDER.index(there) <= here, f"{path.name} imports {there}"


def test_only_the_outermost_modules_know_the_config():
    knowing = {place(path) for path in FILES if "config" in imported(path)}
    assert {"pipelines"} <= knowing <= {"config", "runs", "pipelines", "cli", "__init__"}


def test_only_the_trainers_know_lightning():
    allowed = {
        "data/pairs.py",
        "training/checkpoints.py",
        "training/module.py",
        "training/tuning.py",
        "pipelines/learning.py",
        "pipelines/train.py",
        "pipelines/logs.py",
    }
    allowed |= {"data/together.py", "pipelines/together.py"}
    allowed |= {"models/zoo/training.py", "training/dictionary.py", "pipelines/dictionaries.py"}
    allowed |= {"views/tensorboard/callback.py", "views/training.py"}
    knowing = {path for path in FILES if "from lightning" in path.read_text()}
    assert {str(path.relative_to(PACKAGE)) for path in knowing} == allowed


def test_the_graph_knows_no_model():
    for path in (PACKAGE / "circuits").rglob("*.py"):
        assert "transformers" not in path.read_text()


# ---------------------------------------------------------------- dependencies


MODULE_OF = {"pyyaml": "yaml", "pillow": "PIL"}
"""Distributions whose module has another name."""
THROUGH = {"torch.utils.tensorboard": "tensorboard"}
"""Modules that are another distribution's under the name of the first."""


def modules_of(requirements: list[str]) -> set[str]:
    """The modules that these requirements install."""
    names = {re.split(r"[<>=\[]", requirement)[0].strip().lower() for requirement in requirements}
    return {MODULE_OF.get(name, name) for name in names}


def foreign_imports() -> set[str]:
    """Modules that the package imports and that are neither its own nor Python's."""
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                found.add(THROUGH.get(module, module.split(".")[0]))
    return found - set(sys.stdlib_module_names) - {"circuitprune"}


def test_what_is_imported_is_what_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = modules_of(project["optional-dependencies"]["figures"])
    for extra in ("gguf", "graph", "peft"):
        optional |= modules_of(project["optional-dependencies"][extra])
    assert foreign_imports() - optional == modules_of(project["dependencies"])


# ---------------------------------------------------------------- safety


def call_name(node: ast.Call) -> str:
    return ast.unparse(node.func)


def unsafe(tree: ast.AST) -> Iterator[str]:
    """What RELIABILITY.md F45 forbids."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in ("pickle", "dill", "marshal"))
        elif isinstance(node, ast.ImportFrom):
            if node.module in ("pickle", "dill", "marshal", "__future__"):
                yield node.module
        elif isinstance(node, ast.Call):
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if call_name(node) in ("eval", "exec", "yaml.load", "os.system", "torch.save"):
                yield call_name(node)
            if call_name(node) == "torch.load" and keywords.get("weights_only") != "True":
                yield "torch.load without weights_only=True"
            if keywords.get("shell") == "True":
                yield "shell=True"
            if keywords.get("trust_remote_code", "False") != "False":
                yield "trust_remote_code"


SAVES = PACKAGE / "training" / "checkpoints.py"
"""Where Lightning's checkpoints are written, in its own form; they are read by weights alone."""


@every_source
def test_nothing_unsafe(path):
    found = list(unsafe(ast.parse(path.read_text())))
    assert found == ["torch.save"] * (path == SAVES)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "from __future__ import annotations",
        "eval('1')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text)",
        "run('ls', shell=True)",
        "M.from_pretrained(x, trust_remote_code=True)",
    ],
)
def test_the_guard_against_the_unsafe_works(line):
    assert list(unsafe(ast.parse(line)))


# ---------------------------------------------------------------- size, documents, types


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef, bool]]:
    """Name, node, and whether it is public: no underscore in it or in what holds it."""

    def walk(node: ast.AST, prefix: str, public: bool, inside: bool) -> Iterator:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                shown = public and not inside and not child.name.startswith("_")
                if isinstance(child, ast.FunctionDef):
                    yield prefix + child.name, child, shown
                deeper = inside or isinstance(child, ast.FunctionDef)
                yield from walk(child, f"{prefix}{child.name}.", shown, deeper)
            else:
                yield from walk(child, prefix, public, inside)

    return walk(ast.parse(path.read_text()), "", True, False)


@every_source
def test_files_are_small(path):
    n_lines = len(path.read_text().splitlines())
    assert n_lines <= LONG_FILES.get(path.name, LONGEST_FILE)


def length(node: ast.FunctionDef) -> int:
    """Lines of a function behind its docstring."""
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return node.end_lineno - (first.end_lineno if documented else node.lineno)


@every_source
def test_functions_are_small(path):
    for name, node, _ in functions(path):
        assert length(node) <= LONGEST_FUNCTION, f"{name} is too long"


def test_most_functions_are_a_few_lines():
    assert (
        median(length(node) for path in FILES for _, node, _ in functions(path)) <= MEDIAN_FUNCTION
    )


def test_what_is_untyped_is_rare():
    """`Any` stands for what libraries leave open, not for what nobody wrote down."""
    names = (node for path in FILES for node in ast.walk(ast.parse(path.read_text())))
    assert sum(isinstance(node, ast.Name) and node.id == "Any" for node in names) <= MOST_ANY


@every_file
def test_public_names_are_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the file says nothing about itself"
    for name, node, public in functions(path):
        inherited = name.split(".")[-1] in HOOKS
        assert ast.get_docstring(node) or not public or inherited, f"{name} has no docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@every_file
def test_signatures_are_annotated(path):
    for name, node, _ in functions(path):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        extra = [a for a in (node.args.vararg, node.args.kwarg) if a]
        bare = [a.arg for a in arguments + extra if a.annotation is None]
        assert set(bare) <= {"self", "cls", "_", "__"}, f"{name} leaves {bare} untyped"
        assert node.returns is not None, f"{name} does not say what it returns"


FETCHES = "get_real_model.py"
"""The one script with work of its own: the package itself downloads nothing."""


@pytest.mark.parametrize("path", SCRIPTS, ids=named)
def test_scripts_are_thin(path):
    assert len(path.read_text().splitlines()) <= (100 if path.name == FETCHES else 40)


def test_the_public_names_are_few_and_exist():
    import circuitprune

    assert len(circuitprune.__all__) <= 15
    assert all(hasattr(circuitprune, name) for name in circuitprune.__all__)
