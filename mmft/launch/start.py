"""Starts one run of `mmft train`, in this process or in one process per device."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from mmft import clock
from mmft.config.compose import Composed
from mmft.ranks import environment_kept, started
from mmft.signals import stop_signals


def train_job(composed: Composed, folder: Path) -> int:
    """Trains `composed` in `folder`; returns the exit code.

    Raises:
        MmftError: config, data or training failed, or the run was stopped.
    """
    if started().world > 1:
        import_module("mmft.launch.leading").announce(composed, folder)
        return _here(composed, folder)
    from mmft.launch.supervisor import devices_of, supervise

    world = devices_of(composed)
    return _here(composed, folder) if world == 1 else supervise(composed, folder, world)


def _here(composed: Composed, folder: Path) -> int:
    with stop_signals() as request, environment_kept():
        request.check()
        with clock.importing():
            module = import_module("mmft.commands.train")
        return int(module.train(composed, folder))
