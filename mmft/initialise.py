"""`init=RUN`: start from another run's weights. Not a resume: optimizer, order and schedule start anew."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from mmft.errors import UserError
from mmft.models.vision_language_model import VisionLanguageModel, part_of
from mmft.run_folder import RunFolder, all_runs, newest
from mmft.saved_model import load_model
from mmft.tasks.base import Task

log = logging.getLogger(__name__)


def initialise_from(run: str, runs: Path, model: VisionLanguageModel, task: Task) -> set[str]:
    """Copies the weights of a finished run into `model`; the head only where the labels are the same.

    Args:
        run: a run folder, its `model` folder, or `last`: the newest completed run under `runs`.
        runs: where `last` is looked for.
        model: built by this run's config.
        task: fitted on this run's labels.

    Returns:
        The towers whose weights are not their own source's any more.

    Raises:
        UserError: there is no finished model, or its encoders or fusion have other shapes.
    """
    saved = load_model(_model_folder(run, runs))
    saved.merge()
    same_labels = task.same_outputs(saved.task.state())
    state = saved.model.state_dict()
    if not same_labels:
        state = {name: value for name, value in state.items() if not name.startswith("head.")}
        log.info("init: it has other labels; the head starts anew")
    ours = {name: value for name, value in model.state_dict().items() if not name.startswith("auxiliary.")}
    wrong = [n for n in state.keys() | ours.keys() if not _fits(n, state, ours) and (same_labels or n[:5] != "head.")]
    if wrong:
        raise UserError(
            f"init={run}: its model is another one: {len(wrong)} tensors differ in name or shape, e.g. {min(wrong)}. "
            "Give the same model.image_encoder, model.text_encoder and model/fusion."
        )
    log.info("init: %s from %s", "all weights" if same_labels else "all weights but the head's", run)
    changed = {part_of(name) for name, value in state.items() if not torch.equal(value.to(ours[name]), ours[name])}
    model.load_state_dict(state, strict=False)
    return changed & {"image_encoder", "text_encoder"}


def _model_folder(run: str, runs: Path) -> Path:
    if run != "last":
        folder = RunFolder(Path(run)).model
        return folder if folder.is_dir() else Path(run)
    if found := newest(other for other in all_runs(runs) if other.is_completed):
        return found.model
    raise UserError(f"init=last: there is no completed run under {runs}.")


def _fits(name: str, state: dict[str, Tensor], ours: dict[str, Tensor]) -> bool:
    return name in state and name in ours and state[name].shape == ours[name].shape
