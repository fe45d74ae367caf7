"""Records a run's status in its folder, during the run and at its end."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import torch

from mmft import logs
from mmft.errors import MmftError, TrainingError, dead_workers
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
    except (Stopped, SystemExit) as stop:
        status = "stopped"
        log.info("%s To resume: mmft train resume=%s", stop, folder.path)
        raise
    except MmftError as error:
        folder.update_summary(error=str(error))
        log.debug("failed: %s", error)
        raise
    except torch.OutOfMemoryError as error:
        folder.update_summary(error=str(error))
        raise TrainingError(
            f"Out of memory: {str(error).splitlines()[0]} Try a smaller data.micro_batch_size (the result stays the "
            "same), a smaller model.image_encoder.image_size, or tune=head_only."
        ) from error
    except Exception as error:
        folder.update_summary(error=f"{type(error).__name__}: {error}")
        log.debug("a bug in mmft", exc_info=True)
        raise
    finally:
        with request.held():
            folder.update_summary(status=status)
            logs.close()


def _versions() -> dict[str, str]:
    packages = ("mmft", "torch", "lightning", "transformers", "timm", "hydra-core")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
