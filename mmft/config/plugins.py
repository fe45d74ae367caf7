"""Plugins: register your own fusion, task or tuning method as an option.

There are two ways. An installed package names its module as an entry point of the group `mmft.options`:

    [project.entry-points."mmft.options"]
    my_fusions = "my_fusions"

Its options are always available, because installing the package is consent to run it. Or a config names a module, on
the path or as a file: `plugins=[my_fusions]`, `plugins=[./my_fusions.py]`. That runs code named by a config, so it
needs `--allow-code` on the command line or `allow_code=True` in Python; a config cannot allow it.

Importing the module registers its options through `mmft.config.registry.option`; see docs/extend.md.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from mmft.config.registry import OptionConfig, choices
from mmft.errors import UserError
from mmft.files import located

GROUP = "mmft.options"
FLAG = "--allow-code"

_allowed = False
_imported: set[str] = set()


@dataclass(frozen=True)
class Plugin:
    """A module of an installed package that registers options.

    Attributes:
        name: the name of the entry point.
        origin: the package with its version.
        options: the options that it registers, as typed: `model/fusion=mine`.
        error: why it could not be imported; "" if it was.
    """

    name: str
    origin: str
    options: tuple[str, ...]
    error: str = ""


def allow_code() -> None:
    """Allows this process to import the modules that `plugins` names."""
    global _allowed
    _allowed = True


@contextmanager
def code_allowed(also: bool) -> Iterator[None]:
    """Context that allows it, too, if `also` is true."""
    global _allowed
    before, _allowed = _allowed, _allowed or also
    try:
        yield
    finally:
        _allowed = before


def allowed() -> bool:
    """Whether this process may import them."""
    return _allowed


@cache
def installed() -> tuple[Plugin, ...]:
    """The plugins of installed packages, imported once; one that cannot be imported is reported and skipped."""
    return tuple(_of_package(point) for point in entry_points(group=GROUP))


def _of_package(point: EntryPoint) -> Plugin:
    package = "" if point.dist is None else f"{point.dist.name} {point.dist.version}"
    before = _typed_options()
    try:
        point.load()
    except Exception as error:  # noqa: BLE001 - a broken package must not break every command
        plugin = Plugin(point.name, package, (), f"{type(error).__name__}: {error}")
        print(f"mmft: warning: skipped the plugin {point.name} of {package}: {plugin.error}", file=sys.stderr)  # noqa: T201
        return plugin
    return Plugin(point.name, package, tuple(sorted(_typed_options() - before)))


def import_plugins(names: Iterable[str], base: Path | None = None, copies: Path | None = None) -> None:
    """Imports the modules that `plugins` names, each once.

    Args:
        names: modules on the path, or files (`my_fusions.py`, `folder/my_fusions.py`).
        base: the folder that file names are relative to; None: the working directory.
        copies: the folder with a final model's copies of its plugin files, used if the original file is gone.

    Raises:
        UserError: code is not allowed, the module does not exist, or its import fails.
    """
    for name in names:
        if name in _imported or not isinstance(name, str):
            continue  # what is no text is refused with all else that is wrong with the config
        if not _allowed:
            raise UserError(
                f"plugins: importing {name} runs its code, which needs {FLAG} on the command line "
                "(allow_code=True in Python)"
            )
        try:
            _import_file(name, base, copies) if name.endswith(".py") else import_module(name)
        except UserError:
            raise
        except Exception as error:
            file = located(f"{name}.py", base or Path.cwd())
            better = f". For the file here type plugins=[./{name}.py]" if file.is_file() else ""
            raise UserError(f"plugins: {name} cannot be imported: {type(error).__name__}: {error}{better}") from error
        _imported.add(name)


def files_of(names: Sequence[str], base: Path) -> list[Path]:
    """The files among `plugins`, which are copied into a final model's folder."""
    return [located(name, base) for name in names if name.endswith(".py")]


def packages_of(config: Any) -> dict[str, str]:
    """Maps each option of a config that an installed package provides to the package with its version."""
    chosen = set(_chosen(config))
    return {option: plugin.origin for plugin in installed() for option in plugin.options if option in chosen}


def _chosen(config: Any) -> Iterator[str]:
    """`group=name` of every option in a config."""
    if isinstance(config, OptionConfig):
        yield f"{config.group_path}={config.type}"
    if is_dataclass(config):
        for f in fields(config):
            yield from _chosen(getattr(config, f.name))
    elif isinstance(config, Mapping):
        for value in config.values():
            yield from _chosen(value)


def _import_file(name: str, base: Path | None, copies: Path | None) -> Any:
    file = located(name, base or Path.cwd())
    if not file.is_file() and copies is not None:
        file = copies / file.name
    if not file.is_file():
        raise UserError(f"plugins: there is no file {file}")
    known = sys.modules.get(file.stem)
    if known is not None:
        if _digest(Path(str(known.__file__))) == _digest(file):
            return known
        raise UserError(f"plugins: {name}: another module is already called {file.stem}; rename the file")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # its options refer to their classes by this name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[file.stem]
        raise
    return module


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _typed_options() -> set[str]:
    return {f"{group}={name}" for group, named in choices().items() for name in named}
