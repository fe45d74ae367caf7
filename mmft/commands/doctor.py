"""`mmft doctor`: checks this machine and installation for training; nothing is loaded or downloaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from mmft.config.compose import Composed
from mmft.config.plugins import installed
from mmft.config.schema.root import DoctorConfig
from mmft.errors import ExitCode
from mmft.reports.machine.devices import cpu, gpus
from mmft.reports.machine.diagnosis import Diagnosis
from mmft.reports.machine.packages import own_version, packages, plugin, python
from mmft.reports.machine.places import disk, encoder_folders, hub, wandb_login

_WIDTH = 15  # of the name column


def doctor(composed: Composed) -> int:
    """Prints one line per check, then what is wrong and what to type.

    Returns:
        0, or 2 if training could not work here.
    """
    config: DoctorConfig = composed.config
    wrong: list[Diagnosis] = []
    for diagnosis in diagnoses(config.paths.runs):
        print(f"{diagnosis.name:<{_WIDTH}}{diagnosis.value}", flush=True)  # one by one, since imports are slow
        if diagnosis.wrong is not None:
            wrong.append(diagnosis)
    print()
    for diagnosis in wrong:
        print(f"{'WRONG' if diagnosis.fatal else 'warning'}  {diagnosis.name}: {diagnosis.wrong}")
    fatal = [diagnosis.name for diagnosis in wrong if diagnosis.fatal]
    print(f"Training cannot work here: {', '.join(fatal)}." if fatal else "Training can work here.", flush=True)
    return ExitCode.USER if fatal else ExitCode.DONE


def diagnoses(runs: str) -> Iterator[Diagnosis]:
    """All checks, in printing order.

    Args:
        runs: `paths.runs`.
    """
    yield python(sys.version_info[:3], sys.executable)
    yield own_version()
    yield from packages(import_module)
    yield from map(plugin, installed())
    yield cpu()
    yield from gpus()
    yield from hub()
    yield encoder_folders(os.environ.get("MMFT_ENCODERS", ""))
    yield wandb_login(dict(os.environ), Path.home())
    yield disk(runs)
