"""Hands a validated config to Hydra: one job, or something to be shown of it.

Hydra's own classes are driven directly instead of through `hydra.main`, which would read `sys.argv`
again, exit with code 1 on every error, and put a user's `--config-dir` behind mmft's folder. Sweeps are
`mmft.launch.sweep`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig

from mmft.config.compose import Composed, recompose
from mmft.config.loader import Loader

Job = Callable[[Callable[[], Composed], Path], None]
"""Gets what gives the job's config, judged once more (it may raise `UserError`), and the job's folder."""


class Session:
    """Hydra over mmft's search path; use as a context manager."""

    def __init__(self, command: str, config_dirs: Sequence[Path]) -> None:
        self.command = command
        self.hydra = Hydra(task_name="mmft", config_loader=Loader(config_dirs))

    def __enter__(self) -> Session:
        GlobalHydra.instance().initialize(self.hydra)
        return self

    def __exit__(self, *_: object) -> None:
        GlobalHydra.instance().clear()

    def run(self, composed: Composed, folder: Path, job: Job) -> None:
        """Runs one job in `folder`."""

        def task(config: DictConfig) -> None:
            job(lambda: recompose(self.command, config, composed.typed, composed.choices), folder)

        overrides = [*composed.lines, f"hydra.run.dir={quoted(folder)}", "hydra.mode=RUN"]
        self.hydra.run(self.command, task, overrides)

    def show(self, kind: str, overrides: list[str], *, resolve: bool) -> None:
        """Prints the config: `job`, `hydra` or `all`."""
        self.hydra.show_cfg(self.command, overrides, cfg_type=kind, package=None, resolve=resolve)

    def info(self, kind: str, overrides: list[str]) -> None:
        """Prints how the config is composed."""
        self.hydra.show_info(kind, config_name=self.command, overrides=overrides)

    def help(self) -> None:
        """Prints Hydra's own help."""
        parser = get_args_parser()
        self.hydra.hydra_help(self.command, args_parser=parser, args=parser.parse_args([]))


def quoted(path: Path) -> str:
    """A path as the value of an override, whatever characters it has."""
    text: Any = QuotedString(str(path).replace("${", "\\${"), Quote.single).with_quotes()
    return str(text)
