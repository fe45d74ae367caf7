"""Where the YAML files are: users' folders first, then mmft's own `conf/`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mmft.config.registry import choices
from mmft.config.schema.tune import both_encoders

NO_GROUPS = ("hydra", "schema", "sweep")
"""Folders of conf/ that are not groups: Hydra's own, and the files of `wandb sweep`."""


@cache
def conf_dir() -> Path:
    """`conf/` beside the package in a checkout, or inside the package in a wheel.

    The checkout has priority, because an editable install by hatchling also leaves a stale copy in site-packages.
    """
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    if (checkout / "conf" / "train.yaml").is_file() and (checkout / "pyproject.toml").is_file():
        return checkout / "conf"
    return package / "conf"


class Groups:
    """The groups and options of the registry, and of the YAML files in a list of folders."""

    def __init__(self, config_dirs: Sequence[Path]) -> None:
        self.folders = [*config_dirs, conf_dir()]
        self.registered = {group: set(named) for group, named in choices().items()}
        self.registered["tune"] = set(both_encoders())

    def exists(self, group: str) -> bool:
        """Whether a group exists."""
        if not group or group.partition("/")[0] in NO_GROUPS:
            return False
        return group in self.registered or any((folder / group).is_dir() for folder in self.folders)

    def options(self, group: str) -> list[str]:
        """The names of a group's options."""
        files = {path.stem for folder in self.folders for path in (folder / group).glob("*.yaml")}
        return sorted(files | self.registered.get(group, set()))

    def has(self, group: str, option: str) -> bool:
        """Whether a group has an option."""
        files = (folder / group / f"{option}.yaml" for folder in self.folders)  # `mine`, or `folder/mine`
        try:
            return option in self.registered.get(group, ()) or any(file.is_file() for file in files)
        except OSError:  # longer than a file's name can be
            return False

    def names(self) -> list[str]:
        """All groups except Hydra's; only top-level ones of a user's folder, because it may be any folder."""
        *config_dirs, own = self.folders
        found = {child.relative_to(own).as_posix() for child in own.rglob("*") if child.is_dir()} | {*self.registered}
        found |= {child.name for folder in config_dirs for child in folder.iterdir() if child.is_dir()}
        return sorted(n for n in found if n.split("/")[0] not in NO_GROUPS and not n.startswith("."))
