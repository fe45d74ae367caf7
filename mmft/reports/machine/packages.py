"""Checks Python and packages: installed, in a suitable version, importable."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import mmft
from mmft.config.plugins import Plugin
from mmft.reports.machine.diagnosis import Diagnosis

Import = Callable[[str], Any]

# Shown in this order and imported; the value is whether training is impossible without it. mmft's other
# requirements are reported only if they are missing or have an unsuitable version.
_SHOWN = {
    "torch": True,
    "torchvision": True,
    "lightning": True,
    "transformers": True,
    "timm": True,
    "hydra-core": True,
    "peft": False,
    "bitsandbytes": False,
    "wandb": False,
}
_MODULES = {"hydra-core": "hydra"}
_OLDEST = (3, 11)


def python(found: tuple[int, ...], executable: str) -> Diagnosis:
    """The interpreter."""
    wrong = None
    if found[:2] < _OLDEST:
        wrong = f"mmft needs Python {_OLDEST[0]}.{_OLDEST[1]} or newer. Create an environment with one."
    return Diagnosis("python", f"{'.'.join(map(str, found))}  {executable}", wrong, wrong is not None)


def own_version() -> Diagnosis:
    """Version and location of mmft itself."""
    return Diagnosis("mmft", f"{mmft.__version__}  {mmft.__path__[0]}")


def packages(import_it: Import) -> Iterator[Diagnosis]:
    """Checks every package that mmft requires.

    Args:
        import_it: `importlib.import_module`.
    """
    ranges = requirements()
    for name, fatal in _SHOWN.items():
        found = installed(name)
        if found is None:
            yield _missing(name, ranges.get(name, ""), fatal)
        elif error := import_error(_MODULES.get(name, name), import_it):
            yield Diagnosis(name, f"{found}  does not import", _why(name, error), fatal)
        else:
            yield Diagnosis(name, found, unfit(name, found, ranges.get(name, "")))
    for name in sorted(ranges.keys() - _SHOWN.keys()):
        found = installed(name)
        if found is None:
            yield _missing(name, ranges[name], fatal=True)
        elif wrong := unfit(name, found, ranges[name]):
            yield Diagnosis(name, found, wrong)


def plugin(found: Plugin) -> Diagnosis:
    """The options of an installed plugin package."""
    value = f"{found.name} of {found.origin}: {', '.join(found.options) or 'no options'}"
    return Diagnosis("plugin", value, f"is ignored: {found.error}. Contact its author" if found.error else None)


def requirements() -> dict[str, str]:
    """Requirements of mmft: package -> version range, without extras."""
    found = [re.match(r"([\w.-]+)\s*([^;]*)$", line) for line in requires("mmft") or ()]
    return {match[1]: match[2].strip() for match in found if match}


def installed(name: str) -> str | None:
    """The version of a package, without importing it; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def import_error(module: str, import_it: Import) -> str | None:
    """Why a module fails to import, on one line; None if it imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, logging.root.manager.disable = logging.root.manager.disable, logging.CRITICAL
        try:
            import_it(module)
        except Exception as error:  # noqa: BLE001 - any error is a diagnosis
            lines = str(error).strip().splitlines() or [""]
            return f"{type(error).__name__}: {lines[0]}"
        finally:
            logging.root.manager.disable = before
    return None


def unfit(name: str, found: str, wanted: str) -> str | None:
    """What is wrong with a version outside mmft's requirements; None if nothing is."""
    from packaging.specifiers import SpecifierSet  # lightning's own requirement

    if SpecifierSet(wanted).contains(found, prereleases=True):
        return None
    return f"mmft is not known to work with {found}. Type {pip(name, wanted)}"


def pip(name: str, wanted: str) -> str:
    """The command that installs a package into this environment."""
    return f"{sys.executable} -m pip install '{name}{wanted}'"


def _missing(name: str, wanted: str, fatal: bool) -> Diagnosis:
    return Diagnosis(name, "not installed", f"is not installed. Type {pip(name, wanted)}", fatal)


def _why(name: str, error: str) -> str:
    if name != "torchvision":
        return f"does not import ({error}). Type {pip(name, '')} --force-reinstall"
    # Each is built against one torch version, and per package index against one build of it (CPU, CUDA).
    return (
        f"does not import with torch {installed('torch')} ({error}): built for another version. Install both from "
        f"the same index: type {sys.executable} -m pip install --force-reinstall torch torchvision"
    )
