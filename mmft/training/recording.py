"""Records a run's status in its folder, during the run and at its end."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import torch

from mmft import logs
from mmft.config.schema.model import ENCODERS
from mmft.errors import MmftError, TrainingError, dead_workers, of_the_disk
from mmft.ranks import Ranks
from mmft.run_folder import RunFolder
from mmft.signals import Stopped, StopRequest
from mmft.training.callbacks.pruning import Pruned

log = logging.getLogger(__name__)


@contextmanager
def recorded(folder: RunFolder, seed: int, ranks: Ranks, request: StopRequest) -> Iterator[None]:
    """Keeps `status` up to date and the log open while the run lasts."""
    folder.path.mkdir(parents=True, exist_ok=True)
    logs.configure(folder.path / "train.log", ranks.rank)
    status = "failed"
    try:
        folder.start(seed=seed, versions=_versions())
        with request.told(), dead_workers():
            yield
        status = "completed"
    except Pruned as pruned:  # a regular end of a search's trial, not an error
        status = "pruned"
        folder.update_summary(**pruned.summary)
        log.info("%s", pruned)
    except Stopped as stop:
        status = "stopped"
        told = Stopped(stop.number, stop.saved, folder.way_on())
        log.debug("%s", told)  # the command prints it
        raise told from stop
    except SystemExit:
        status = "stopped"
        raise
    except MmftError as error:
        failed = TrainingError(f"{error} {folder.way_on()}") if isinstance(error, TrainingError) else error
        _record(folder, error=str(failed))
        log.debug("failed: %s", failed)
        raise failed from error.__cause__
    except torch.OutOfMemoryError as error:
        _record(folder, error=str(error))
        why = str(error).splitlines()[0]
        raise TrainingError(f"Out of memory: {why} {_smaller(folder)} {folder.way_on()}") from error
    except Exception as error:
        if disk := of_the_disk(error):
            failed = TrainingError(f"{str(disk).removesuffix('.')}. {folder.way_on()}")
            _record(folder, error=str(failed))
            raise failed from error
        _record(folder, error=f"{type(error).__name__}: {error}")
        log.debug("a bug in mmft", exc_info=True)
        raise
    finally:
        with request.held():
            _record(folder, status=status)
            logs.close()


def _record(folder: RunFolder, **values: str) -> None:
    """Updates the summary; on a full disk it stays as it is, since the error that ends the run counts more."""
    try:
        folder.update_summary(**values)
    except OSError as error:
        log.warning("%s was not updated: %s", folder.summary, error.strerror)
        if values.get("status") == "completed":
            raise of_the_disk(error) or error from error


def _smaller(folder: RunFolder) -> str:
    """What would take less memory and is not so already."""
    config = folder.read_config()
    ways = ["a smaller model.image_encoder.image_size"]
    if config["data"]["micro_batch_size"] != 1 and config["data"]["batch_size"] != 1:
        ways.insert(0, "a smaller data.micro_batch_size (the result stays the same)")
    if any(config["tune"][encoder]["type"] != "freeze" for encoder in ENCODERS):
        ways.append("tune=head_only")
    return f"Try {', or '.join(ways)}."


def _versions() -> dict[str, str]:
    packages = ("mmft", "torch", "lightning", "transformers", "timm", "hydra-core")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
