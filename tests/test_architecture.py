"""The shape of the code: which way imports go, who builds, how long things are. Read by `ast`, nothing is imported.

cli -> launch -> commands -> run -> reports -> build -> training -> data -> cache -> {tasks, tuning} -> models ->
config -> what lies in mmft/ itself
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
PACKAGE = CHECKOUT / "mmft"

# From the ground up: a module may import those of its own room, and those of rooms below it.
ROOMS = [
    {"errors"},
    {"batch", "clock", "files", "logs", "ranks", "signals"},
    {"run_folder"},
    {"config"},
    {"models"},
    {"tasks", "tuning"},
    {"cache"},
    {"data"},
    {"training"},
    {"build"},
    {"reports"},
    {"run"},
    {"commands"},
    {"launch"},
    {"cli"},
    {"__init__", "__main__"},
]

# Beyond the order of rooms: room -> what it must not import.
FORBIDDEN = {
    "models": ["lightning", "pytorch_lightning", "hydra", "omegaconf"],
    "tuning": ["lightning", "pytorch_lightning", "hydra", "omegaconf", "mmft.tasks"],
    "tasks": ["lightning", "pytorch_lightning", "hydra", "omegaconf", "mmft.tuning"],
    "training": ["hydra", "omegaconf"],
    "data": ["hydra", "omegaconf", "mmft.models", "mmft.tuning"],
    "config": ["torch", "lightning", "transformers", "timm", "peft", "wandb", "bitsandbytes"],
}

# Tasks by name are known in the room of tasks alone; whoever else asks a task asks its facts, or the task.
CONCRETE_TASKS = (
    "Classification",
    "Contrastive",
    "Generation",
    "Matching",
    "MultiLabel",
    "QuestionAnswering",
    "Regression",
    "Several",
)

LONGEST_FILE, LONGEST_FUNCTION, USUAL_FUNCTION = 300, 60, 40


def files(*folders: str) -> list[Path]:
    """All Python files below these folders of the checkout."""
    return sorted(path for folder in folders for path in (CHECKOUT / folder).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def room(module: str) -> str:
    """The part of mmft that `module` belongs to: `mmft.data.table` -> `data`; the package itself -> `__init__`."""
    return [*module.split("."), "__init__"][1]


def floor(module: str) -> int:
    """The place of a module's room in `ROOMS`, 0 the lowest."""
    return next(number for number, names in enumerate(ROOMS) if room(module) in names)


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, anywhere in it, with the line."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            # `from mmft import clock` imports mmft.clock, `from mmft.batch import Batch` mmft.batch
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if node.module == "mmft" or is_module(inner) else str(node.module)), node.lineno


@cache
def is_module(name: str) -> bool:
    """Whether there is a file of this name in mmft."""
    return CHECKOUT.joinpath(*name.split(".")).with_suffix(".py").is_file()


def module_name(path: Path) -> str:
    """`mmft/data/sources/memory.py` -> `mmft.data.sources.memory`."""
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def belongs(module: str, parent: str) -> bool:
    """Whether `module` is `parent` or lies below it."""
    return module == parent or module.startswith(parent + ".")


def test_every_room_has_its_place() -> None:
    there = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()}
    assert there - {"__pycache__", "py", "samples"} == set().union(*ROOMS)
    assert len(there - {"__pycache__"}) <= 24


def test_imports_go_one_way() -> None:
    """Deferred imports and those for types alone count, too."""
    wrong = [
        f"{path.relative_to(CHECKOUT)}:{line} imports {name}, which lies above it"
        for path in files("mmft")
        for name, line in imported(path)
        if belongs(name, "mmft") and name not in ("mmft", "mmft.__version__") and floor(name) > floor(module_name(path))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_comes_round() -> None:
    modules = {module_name(path): path for path in files("mmft")}
    below = {name: {one for one, _ in imported(path) if one in modules} - {name} for name, path in modules.items()}
    done: set[str] = set()

    def descend(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for one in below[name]:
                descend(one, (*above, name))
        done.add(name)

    for name in modules:
        descend(name, ())


def test_concrete_tasks_are_asked_for_in_their_room_alone() -> None:
    named = {f"{task}{suffix}" for task in CONCRETE_TASKS for suffix in ("", "Config")}
    wrong = [
        f"{path.relative_to(CHECKOUT)}:{node.lineno}"
        for path in files("mmft")
        if PACKAGE / "tasks" not in path.parents
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
        if named & {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("part", FORBIDDEN)
def test_rooms_do_not_know(part: str) -> None:
    wrong = [
        f"{path.relative_to(CHECKOUT)}:{line} imports {name}"
        for path in files(f"mmft/{part}")
        for name, line in imported(path)
        if any(belongs(name, parent) for parent in FORBIDDEN[part])
    ]
    assert not wrong, "\n".join(wrong)


def test_only_build_instantiates_from_config() -> None:
    """`registry.build` is called in build/ alone, and Hydra's `instantiate` nowhere."""
    wrong = []
    for path in files("mmft"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom):
                taken = {f"{node.module}.{alias.name}" for alias in node.names}
                used = bool(taken & {"mmft.config.registry.build", "hydra.utils.instantiate", "hydra.utils.call"})
            else:
                used = isinstance(node, ast.Attribute) and ast.unparse(node) in {"registry.build", "hydra.utils"}
            if used and PACKAGE / "build" not in path.parents:
                wrong.append(f"{path.relative_to(CHECKOUT)}:{node.lineno} builds from config")  # type: ignore[attr-defined]
    assert not wrong, "\n".join(wrong)


def test_functions_are_short() -> None:
    lengths = {
        f"{path.relative_to(CHECKOUT)}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in files("mmft", "tools")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    too_long = {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION}
    assert not too_long
    long = {name: lines for name, lines in lengths.items() if lines > USUAL_FUNCTION}
    assert len(long) <= 0.05 * len(lengths), long


def test_files_are_short() -> None:
    lengths = {path.relative_to(CHECKOUT): len(path.read_text().splitlines()) for path in files("mmft", "tools")}
    assert not {str(name): lines for name, lines in lengths.items() if lines > LONGEST_FILE}


def test_every_module_says_what_it_is() -> None:
    silent = [
        path for path in files("mmft", "tools", "tests") if parsed(path).body and not ast.get_docstring(parsed(path))
    ]
    assert not silent


def test_no_utils() -> None:
    assert not [path for path in files("mmft", "tools", "tests") if "utils" in path.as_posix()]
