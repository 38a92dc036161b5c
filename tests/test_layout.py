"""Who may import whom, read from the import statements."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("agents", "envs", "experiments")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*.py"))
}
CORE = [name for name in FILES if name.startswith("agents.core")]


def imported(name, everywhere=True):
    """Modules that module `name` imports, as dotted names of modules where they are ours. `everywhere`: also inside
    functions and under TYPE_CHECKING; without it, only what importing the module imports."""
    path = FILES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    pending = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            # `from envs import base` imports envs.base, `from envs.base import step` imports envs.base
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= (inner & FILES.keys()) or {base}
            if inner - FILES.keys():
                found.add(base)
        elif everywhere or not (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        ):
            pending += ast.iter_child_nodes(node)
    return found


def rooms(names):
    return {name.partition(".")[0] for name in names}


TOKENIZER_FILES = {"envs.tokens.chat", "envs.tokens.published_tokenizer"}


@pytest.mark.parametrize("name", CORE)
def test_core_imports_jax_and_jaxtyping_alone(name):
    modules = imported(name)
    assert rooms(modules) - sys.stdlib_module_names <= {"jax", "jaxtyping", "agents"}
    assert {m for m in modules if m.startswith("agents")} <= {*CORE}


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("agents")])
def test_agents_know_the_contract_of_environments_and_no_more(name):
    modules = imported(name)
    assert "experiments" not in rooms(modules)
    assert {m for m in modules if m.startswith("envs")} <= {"envs.base"}
    # Gymnasium for its spaces, in which environments say what they want.
    libraries = {"jax", "jaxtyping", "flax", "optax", "numpy", "gymnasium"}
    assert rooms(modules) - sys.stdlib_module_names <= libraries | {"agents", "envs"}


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("envs")])
def test_envs_know_neither_agents_nor_experiments(name):
    assert not rooms(imported(name)) & {"agents", "experiments"}


@pytest.mark.parametrize("name", [n for n in FILES if not n.startswith("experiments")])
def test_files_clocks_progress_bars_and_arguments_belong_to_experiments(name):
    """Model files apart: envs may use pathlib, and tokenizers are in JSON."""
    forbidden = {"argparse", "tyro", "rich", "tqdm", "time", "datetime", "json", "csv", "pickle"}
    forbidden |= {"orbax", "matplotlib", "logging", "shutil", "tempfile", "subprocess"}
    forbidden -= {"json"} if name in TOKENIZER_FILES else set()
    modules = rooms(imported(name))
    assert not modules & forbidden
    if name.startswith("agents"):
        assert not modules & {"os", "sys", "io", "pathlib"}


def test_no_circles():
    """Follows what importing a module imports; importing a.b imports a first."""
    graph = {}
    for name in FILES:
        direct = imported(name, everywhere=False) & FILES.keys()
        parents = {p for module in direct for p in _packages(module)}
        graph[name] = (direct | parents) - {name, *_packages(name)}
    finished, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in finished:
            path.append(name)
            for module in sorted(graph[name]):
                visit(module)
            path.pop()
            finished.add(name)

    for name in FILES:
        visit(name)


def _packages(name):
    parts = name.split(".")
    return {".".join(parts[:i]) for i in range(1, len(parts))} & FILES.keys()


# Rooms of experiments/ by floors: a room imports from lower floors, and from itself.
FLOORS = (
    {"console", "figures"},
    {"evaluation", "weights"},
    {"user_envs", "actors", "data"},
    {"run"},
    {"analysis", "grids", "recording"},
    {"pages"},
    {"benchmarks"},
    {"front doors"},
)


def _room(name):
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in set().union(*FLOORS) else "front doors"


def _floor(room):
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("experiments.")])
def test_no_room_of_experiments_imports_from_its_own_floor_or_above(name):
    here = _room(name)
    for module in imported(name) & FILES.keys():
        # The package itself holds `load` and the version.
        if module.startswith("experiments.") and _room(module) != here:
            assert _floor(_room(module)) < _floor(here), f"{name} imports {module}"


MAX_FILE, MAX_FUNCTION = 350, 80  # lines


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_are_short(name):
    source = FILES[name].read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_FILE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= MAX_FUNCTION, f"{node.name} has {lines} lines"


# A command is described by its module; kinds of JSON by the protocol that they follow.
DESCRIBED_ELSEWHERE = {"main", "fault", "words"}


@pytest.mark.parametrize("name", FILES)
def test_public_classes_and_functions_have_docstrings(name):
    def undocumented(node):
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if child.name.startswith("_") or child.name in DESCRIBED_ELSEWHERE:
                continue
            if not ast.get_docstring(child):
                yield child.name
            if isinstance(child, ast.ClassDef):
                yield from undocumented(child)

    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert list(undocumented(tree)) == []
