"""Records a run's status in its folder, during the run and at its end."""

from __future__ import annotations

import logging
import platform
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from traceback import walk_tb
from typing import Any

import torch

from mmft import logs
from mmft.config.registry import modules_of_users
from mmft.config.schema.model import ENCODERS
from mmft.errors import MmftError, TrainingError, dead_workers, first_line, of_the_disk
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
    ending: dict[str, Any] = {"status": "failed"}
    try:
        folder.start(seed=seed, versions=_versions())
        with request.as_interruption(), dead_workers():
            yield
        folder.update_summary(status="completed")
        ending = {}
    except Pruned as pruned:  # a regular end of a search's trial, not an error
        ending = {"status": "pruned", **pruned.summary}
        log.info("%s", pruned)
    except Stopped as stop:
        ending["status"] = "stopped"
        told = Stopped(stop.number, stop.saved, folder.way_on())
        log.debug("%s", told)  # the command prints it
        raise told from stop
    except SystemExit as end:
        ending["status"] = "stopped"
        if isinstance(end.__context__, KeyboardInterrupt):  # of a callback; Lightning exits then
            raise Stopped(signal.SIGINT, advice=folder.way_on()) from end
        raise
    except Exception as error:
        failed = _failed(folder, error)
        ending["error"] = f"{type(error).__name__}: {error}" if failed is None else str(failed)
        if failed is None:
            log.debug("a bug in mmft", exc_info=True)
            raise
        log.debug("failed: %s", failed)
        raise failed from (error.__cause__ if failed is error else error)
    finally:
        with request.held():
            _record(folder, ending)
            logs.close()


def _failed(folder: RunFolder, error: Exception) -> MmftError | None:
    """An error as it is told, with what the run leaves; None for a bug."""
    if isinstance(error, torch.OutOfMemoryError):
        text = f"Out of memory: {first_line(error)} {_smaller(folder)}"
    elif disk := of_the_disk(error, folder.path):
        text = f"{str(disk).removesuffix('.')}."
    elif isinstance(error, TrainingError):
        text = str(error)
    elif (own := _of_users(error)) and not isinstance(error, MmftError):
        text = f"{type(error).__name__}: {error} ({own}, which is your own; MMFT_DEBUG=1 shows the traceback)."
    else:
        return error if isinstance(error, MmftError) else None
    return TrainingError(f"{text} {folder.way_on()}")


def _of_users(error: Exception) -> str | None:
    """The last place in code of a user's option that an error passed through; None if it passed through none."""
    own, walked = modules_of_users(), walk_tb(error.__traceback__)
    frames = [(frame.f_globals.get("__name__"), frame.f_code.co_filename, line) for frame, line in walked]
    first = next((at for at, (name, *_) in enumerate(frames) if str(name).partition(".")[0] == "mmft"), len(frames))
    places = [f"{file}, line {line}" for name, file, line in frames[first:] if name in own]
    return places[-1] if places else None


def _record(folder: RunFolder, values: dict[str, Any]) -> None:
    """Updates the summary; on a full disk it stays as it is, since the error that ends the run counts more."""
    try:
        folder.update_summary(**values)
    except OSError as error:
        log.warning("%s could not be updated: %s", folder.summary, error.strerror)


def _smaller(folder: RunFolder) -> str:
    """What would take less memory and is not so already."""
    config = folder.read_config()
    ways = ["a smaller model.image_encoder.image_size"]
    if config["data"]["micro_batch_size"] != 1 and config["data"]["batch_size"] != 1:
        key = "micro_batch_size" if config["data"].get("micro_batch_tokens") is None else "micro_batch_tokens"
        ways.insert(0, f"a smaller data.{key} (the result stays the same)")
    if any(config["tune"][encoder]["type"] != "freeze" for encoder in ENCODERS):
        ways.append("tune=head_only")
    return f"Try {', or '.join(ways)}."


def _versions() -> dict[str, str]:
    packages = ("mmft", "torch", "lightning", "transformers", "timm", "hydra-core")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
