"""Where the YAML files are: mmft's own `conf/`, and a user's folder in front of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

NO_GROUPS = ("hydra", "schema", "sweep")
"""Folders of conf/ that are no groups: Hydra's own, and `wandb sweep`'s files."""


@cache
def conf_dir() -> Path:
    """`conf/` beside the package in a checkout, or inside the package in a wheel.

    The checkout goes first: in an editable install hatchling also leaves a frozen copy in site-packages.
    """
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    if (checkout / "conf" / "train.yaml").is_file() and (checkout / "pyproject.toml").is_file():
        return checkout / "conf"
    return package / "conf"


class Groups:
    """What groups and options there are in a list of folders, by looking at the folders alone."""

    def __init__(self, config_dirs: Sequence[Path]) -> None:
        self.folders = [*config_dirs, conf_dir()]

    def exists(self, group: str) -> bool:
        """Whether any folder has this group."""
        first = group.partition("/")[0]
        return bool(group) and first != "sweep" and any((folder / group).is_dir() for folder in self.folders)

    def options(self, group: str) -> list[str]:
        """The names of a group's options."""
        return sorted({p.stem for folder in self.folders for p in (folder / group).glob("*.yaml")})

    def has(self, group: str, option: str) -> bool:
        """Whether a group has an option."""
        return any((folder / group / f"{option}.yaml").is_file() for folder in self.folders)

    def names(self) -> list[str]:
        """All groups but Hydra's own; of a user's folder only those at its top, for it may be any folder."""
        *config_dirs, own = self.folders
        found = {child.relative_to(own).as_posix() for child in own.rglob("*") if child.is_dir()}
        found |= {child.name for folder in config_dirs for child in folder.iterdir() if child.is_dir()}
        return sorted(n for n in found if n.split("/")[0] not in NO_GROUPS and not n.startswith("."))
