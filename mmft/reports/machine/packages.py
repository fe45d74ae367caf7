"""Python and packages: is everything there, in a version that fits, and does it import?"""

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
from mmft.reports.machine.finding import Finding

Import = Callable[[str], Any]

# Shown, in this order, and imported; whether training is impossible without it. The others of mmft's
# requirements are only told where they are missing or have a version that does not fit.
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


def python(found: tuple[int, ...], executable: str) -> Finding:
    """The interpreter."""
    wrong = None
    if found[:2] < _OLDEST:
        wrong = f"mmft needs Python {_OLDEST[0]}.{_OLDEST[1]} or newer. Make an environment of a newer one."
    return Finding("python", f"{'.'.join(map(str, found))}  {executable}", wrong, wrong is not None)


def own_version() -> Finding:
    """The package itself."""
    return Finding("mmft", f"{mmft.__version__}  {mmft.__path__[0]}")


def packages(import_it: Import) -> Iterator[Finding]:
    """Every package that mmft asks for.

    Args:
        import_it: `importlib.import_module`.
    """
    ranges = requirements()
    for name, fatal in _SHOWN.items():
        found = installed(name)
        if found is None:
            yield _missing(name, ranges.get(name, ""), fatal)
        elif error := import_error(_MODULES.get(name, name), import_it):
            yield Finding(name, f"{found}  does not import", _why(name, error), fatal)
        else:
            yield Finding(name, found, unfit(name, found, ranges.get(name, "")))
    for name in sorted(ranges.keys() - _SHOWN.keys()):
        found = installed(name)
        if found is None:
            yield _missing(name, ranges[name], fatal=True)
        elif wrong := unfit(name, found, ranges[name]):
            yield Finding(name, found, wrong)


def plugin(found: Plugin) -> Finding:
    """Options of somebody else's package."""
    value = f"{found.name} of {found.origin}: {', '.join(found.options) or 'no options'}"
    return Finding("plugin", value, f"is left out: {found.error}. Ask its author" if found.error else None)


def requirements() -> dict[str, str]:
    """What mmft asks for: package -> range of versions, without the extras."""
    found = [re.match(r"([\w.-]+)\s*([^;]*)$", line) for line in requires("mmft") or ()]
    return {match[1]: match[2].strip() for match in found if match}


def installed(name: str) -> str | None:
    """The version of a package, without importing it; None: it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def import_error(module: str, import_it: Import) -> str | None:
    """Why a module does not import, on one line; None: it does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, logging.root.manager.disable = logging.root.manager.disable, logging.CRITICAL
        try:
            import_it(module)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is wrong
            lines = str(error).strip().splitlines() or [""]
            return f"{type(error).__name__}: {lines[0]}"
        finally:
            logging.root.manager.disable = before
    return None


def unfit(name: str, found: str, wanted: str) -> str | None:
    """What is wrong with a version that mmft's requirements leave out; None: nothing."""
    from packaging.specifiers import SpecifierSet  # lightning's own requirement

    if SpecifierSet(wanted).contains(found, prereleases=True):
        return None
    return f"{found} is none of the versions that mmft is known to work with. Type {pip(name, wanted)}"


def pip(name: str, wanted: str) -> str:
    """The command that installs a package into this environment."""
    return f"{sys.executable} -m pip install '{name}{wanted}'"


def _missing(name: str, wanted: str, fatal: bool) -> Finding:
    return Finding(name, "not installed", f"is not installed. Type {pip(name, wanted)}", fatal)


def _why(name: str, error: str) -> str:
    if name != "torchvision":
        return f"does not import ({error}). Type {pip(name, '')} --force-reinstall"
    # Each is built against one torch, and one from another index against another build of it (CPU, CUDA).
    return (
        f"does not import with torch {installed('torch')} ({error}): it is built for another torch. Install both from "
        f"the same place: type {sys.executable} -m pip install --force-reinstall torch torchvision"
    )
