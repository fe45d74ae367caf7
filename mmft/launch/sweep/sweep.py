"""`mmft train -m`: asks a sweeper for runs, lets a launcher make them, and ends with one table.

sweeper.ask -> Job -> launcher.run -> Result -> sweeper.tell, until the sweeper has no more; then sweep.csv and the
table. Hydra's own multirun is not used: its plugins want a class to import named in the config, keep what a user may
type unchecked, pickle Hydra's state for another process, and end the sweep at the first run that fails.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from mmft.commands.output import print_path
from mmft.config.compose import Composed
from mmft.config.schema.sweep import JoblibLauncherConfig, OptunaSweeperConfig, SubmititConfig
from mmft.errors import ExitCode, UserError
from mmft.files import write_text
from mmft.launch.sweep.job import Ask, Job, Launcher, Result, Sweeper, varies
from mmft.ranks import started
from mmft.run_folder import SWEEP


def sweep(composed: Composed, config_dirs: Sequence[Path], folder: Path) -> int:
    """Executes all runs of a sweep in its folder; one that fails does not stop the others.

    Returns:
        0 if all succeeded, 2 if all failures are due to the config or the data, else 3; 130 or 143 if it was stopped.

    Raises:
        UserError: nothing can be started.
    """
    assert composed.sweep is not None
    _check_ranks(composed)
    with _sweeper(composed, config_dirs, folder) as sweeper:
        return _run(sweeper, composed, config_dirs, folder)


def _run(sweeper: Sweeper, composed: Composed, config_dirs: Sequence[Path], folder: Path) -> int:
    assert composed.sweep is not None
    record = {
        "overrides": composed.typed,
        "sweeper": composed.sweep.sweeper.type,
        "config_dirs": [str(one) for one in reversed(config_dirs)],  # as typed: the last one is searched first
    }
    write_text(folder / SWEEP, json.dumps(record, indent=2) + "\n")
    results: list[Result] = []
    try:
        ask = _announced(sweeper.ask, [typed.key for typed in composed.parsed if varies(typed)])
        with closing(_launcher(composed, folder).run(ask)) as running:  # type: ignore[type-var]
            for result in running:
                results.append(result)
                result.record()
                sweeper.tell(result)
                _say(result)
    finally:  # a stopped sweep has finished jobs too
        _report(folder)
    if stopped := [result.code for result in results if result.stopped]:
        return stopped[0]
    print_path(folder)
    failed = {result.code for result in results if result.code != ExitCode.DONE}
    if not failed:
        return ExitCode.DONE
    return ExitCode.USER if failed == {ExitCode.USER} else ExitCode.TRAINING


def _check_ranks(composed: Composed) -> None:
    launcher: Any = composed.sweep.launcher if composed.sweep else None
    if launcher.type != "basic" and started().world > 1:
        raise UserError(
            f"hydra/launcher={launcher.type}: torchrun or srun has started these ranks already, for one run "
            "together. Leave it out, or start mmft without torchrun."
        )


@contextmanager
def _sweeper(composed: Composed, config_dirs: Sequence[Path], folder: Path) -> Iterator[Sweeper]:
    assert composed.sweep is not None
    if isinstance(composed.sweep.sweeper, OptunaSweeperConfig):
        from mmft.launch.sweep.study import StudySweeper, the_only_search

        with the_only_search(folder):
            yield StudySweeper(composed, config_dirs, folder)
        return
    from mmft.launch.sweep.grid import Grid

    yield Grid(composed, config_dirs, folder)


def _launcher(composed: Composed, folder: Path) -> Launcher:
    launcher: Any = composed.sweep.launcher if composed.sweep else None
    if isinstance(launcher, JoblibLauncherConfig):
        from mmft.launch.sweep.joblib_launcher import JoblibLauncher

        return JoblibLauncher(launcher, folder)
    if isinstance(launcher, SubmititConfig):
        from mmft.launch.sweep.submitit_launcher import SubmititLauncher

        return SubmititLauncher(launcher, folder)
    from mmft.launch.sweep.in_process import InProcess

    return InProcess()


def _announced(ask: Ask, keys: Sequence[str]) -> Ask:
    """`ask`, printing each job's own overrides."""

    def announce() -> Job | None:
        job = ask()
        if job is not None:
            own = " ".join(text for text in job.overrides if text.partition("=")[0].lstrip("+") in keys)
            print(f"mmft: starting run {job.number} of the sweep: {own or job.folder}", file=sys.stderr)
        return job

    return announce


def _say(result: Result) -> None:
    if result.code != ExitCode.DONE:
        happened = "was stopped; later ones are not started" if result.stopped else "failed"
        print(f"mmft: run {result.job.number} of the sweep {happened}", file=sys.stderr)


def _report(folder: Path) -> None:
    from mmft.run.listing.learning_curve import learning_curves, write_curves
    from mmft.run.listing.sweep import Sweep
    from mmft.run.listing.sweep_page import write_sweep_page
    from mmft.run.logged_not_raised import logged_not_raised

    found = Sweep(folder)
    if found.jobs:
        found.write()
        print(found.table())
        with logged_not_raised():
            write_sweep_page(folder)
    if curves := learning_curves(found):
        write_curves(curves, folder)
        print("", *(curve.text() for curve in curves), sep="\n")
