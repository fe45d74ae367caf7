"""`init=RUN`: start from another run's weights. Not a resume: optimizer, order and schedule start anew."""

from __future__ import annotations

import logging
from pathlib import Path

from mmft.errors import UserError
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.run_folder import RunFolder
from mmft.saved_model import load_model
from mmft.tasks.base import Task

log = logging.getLogger(__name__)


def initialise_from(run: Path, model: VisionLanguageModel, task: Task) -> None:
    """Copies the weights of a finished run into `model`; the head only where the labels are the same.

    Args:
        run: a run folder, or its `model` folder.
        model: built by this run's config.
        task: fitted on this run's labels.

    Raises:
        UserError: there is no finished model, or its encoders or fusion have other shapes.
    """
    folder = RunFolder(run).model
    saved = load_model(folder if folder.is_dir() else run)
    same_labels = saved.task.state().get("labels") == task.state().get("labels")
    state = saved.model.state_dict()
    if not same_labels:
        state = {name: value for name, value in state.items() if not name.startswith("head.")}
        log.info("init: %s has other labels; the head starts anew", run)
    ours = model.state_dict()
    wrong = [n for n in state.keys() | ours.keys() if not _fits(n, state, ours) and (same_labels or n[:5] != "head.")]
    if wrong:
        raise UserError(
            f"init={run}: its model is another one: {len(wrong)} tensors differ in name or shape, e.g. {min(wrong)}. "
            "Give the same model.image_encoder, model.text_encoder and model/fusion."
        )
    model.load_state_dict(state, strict=False)


def _fits(name: str, state: dict, ours: dict) -> bool:  # type: ignore[type-arg]
    return name in state and name in ours and state[name].shape == ours[name].shape
