"""Where the YAML files are: mmft's own `conf/`, and a user's folder in front of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mmft.config.registry import choices
from mmft.config.schema.tune import both_encoders

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
    """What groups and options there are: those of the registry, and those of YAML files in a list of folders."""

    def __init__(self, config_dirs: Sequence[Path]) -> None:
        self.folders = [*config_dirs, conf_dir()]
        self.registered = {group: set(named) for group, named in choices().items()}
        self.registered["tune"] = set(both_encoders())

    def exists(self, group: str) -> bool:
        """Whether there is such a group."""
        if not group or group.partition("/")[0] in NO_GROUPS:
            return False
        return group in self.registered or any((folder / group).is_dir() for folder in self.folders)

    def options(self, group: str) -> list[str]:
        """The names of a group's options."""
        files = {path.stem for folder in self.folders for path in (folder / group).glob("*.yaml")}
        return sorted(files | self.registered.get(group, set()))

    def has(self, group: str, option: str) -> bool:
        """Whether a group has an option."""
        files = (folder / group / f"{option}.yaml" for folder in self.folders)
        return option in self.registered.get(group, ()) or any(file.is_file() for file in files)

    def names(self) -> list[str]:
        """All groups but Hydra's own; of a user's folder only those at its top, for it may be any folder."""
        *config_dirs, own = self.folders
        found = {child.relative_to(own).as_posix() for child in own.rglob("*") if child.is_dir()} | {*self.registered}
        found |= {child.name for folder in config_dirs for child in folder.iterdir() if child.is_dir()}
        return sorted(n for n in found if n.split("/")[0] not in NO_GROUPS and not n.startswith("."))
