"""Where a wrong key came from: the override that set it, or the YAML file and line. Looked up only on errors."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.errors import HydraException
from hydra.types import RunMode

from mmft.config.overrides import Typed

if TYPE_CHECKING:
    from mmft.config.loader import Loader


class Provenance:
    """The origins of one composition's keys."""

    def __init__(self, loader: Loader, command: str, lines: list[str], values: list[Typed]) -> None:
        self.loader, self.command, self.lines, self.values = loader, command, lines, values

    def of(self, key: str) -> str:
        """` (typed: ...)`, ` (in FILE:LINE)`, or nothing where neither is known."""
        above = [t for t in self.values if t.key == key or key.startswith(f"{t.key}.")]
        below = [t for t in self.values if t.key.startswith(f"{key}.")]
        if above or below:
            return f" (typed: {(above or below)[-1].text})"
        for package, file in reversed(self._files):
            line = _line_of(file, key.split("."), package)
            if line is not None:
                return f" (in {_short(file)}:{line})"
        return ""

    @cached_property
    def _files(self) -> list[tuple[list[str], Path]]:
        """The package and the file of every config, in the order in which they were merged."""
        try:
            defaults = self.loader.compute_defaults_list(self.command, list(self.lines), RunMode.RUN).defaults
        except HydraException:
            return []
        files = self.loader.repository.files
        return [
            ((d.package or "").split(".") if d.package else [], files[d.config_path])
            for d in defaults
            if d.config_path in files
        ]


def _line_of(file: Path, key: list[str], package: list[str]) -> int | None:
    """The line on which a file sets a key; None if it does not."""
    if key[: len(package)] != package:
        return None
    node: Any = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    line = None
    for part in key[len(package) :]:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next(((k, v) for k, v in pairs if k.value == part), None)
        if found is None:
            return line if isinstance(node, yaml.SequenceNode) else None
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _short(file: Path) -> str:
    cwd = Path.cwd()
    return str(file.relative_to(cwd)) if file.is_relative_to(cwd) else str(file)
