"""`init=RUN`: start from another run's weights. Not a resume: optimizer, order and schedule start anew."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from mmft.errors import UserError
from mmft.config.schema.model import ENCODERS
from mmft.models.vision_language_model import VisionLanguageModel, part_of
from mmft.run_folder import RunFolder, all_runs, newest
from mmft.runs.saved_model import SavedModel, load_model
from mmft.tasks.base import Task

log = logging.getLogger(__name__)
Tensors = dict[str, Tensor]


def initialise_from(run: str, runs: Path, model: VisionLanguageModel, task: Task) -> set[str]:
    """Copies the weights of a finished run into `model`: the encoders', and of what is behind them what fits.

    The usual way is contrastive training first, whose fusion no other task can have, and a classifier after it.

    Args:
        run: a run folder, its `model` folder, or `last`: the newest completed run under `runs`.
        runs: where `last` is looked for.
        model: built by this run's config.
        task: fitted on this run's labels.

    Returns:
        The encoders whose weights are not their own source's any more.

    Raises:
        UserError: there is no finished model, or its encoders have other shapes.
    """
    saved = load_model(_model_folder(run, runs))
    try:
        saved.merge()
    except UserError as error:
        added = " and ".join(f"tune/{encoder}={method.name}" for encoder, method in saved.methods.items())
        raise UserError(
            f"init={run}: it was tuned by {added}; what that added lies beside the encoders' weights, and only these "
            "are taken over. Start from a run of another method, such as tune=lora"
        ) from error
    theirs, ours = saved.model.state_dict(), model.state_dict()
    _check_encoders(run, theirs, ours)
    anew = _anew(saved, model, task)
    state = {name: value for name, value in theirs.items() if name in ours and not name.startswith(tuple(anew))}
    if "fusion." in anew:
        log.info("init: weights from %s; the head starts anew, and so does the fusion: it had another one", run)
    elif "head." in anew:
        log.info("init: weights from %s; the head starts anew: its outputs meant something else there", run)
    else:
        log.info("init: all weights from %s", run)
    changed = {part_of(name) for name, value in state.items() if not torch.equal(value.to(ours[name]), ours[name])}
    model.load_state_dict(state, strict=False)
    return changed & set(ENCODERS)


def _check_encoders(run: str, theirs: Tensors, ours: Tensors) -> None:
    wrong = [name for name in theirs.keys() | ours.keys() if part_of(name) in ENCODERS and not _fits(name, theirs, ours)]
    if wrong:
        keys = " and ".join(f"model.{encoder}" for encoder in ENCODERS if encoder in set(map(part_of, wrong)))
        raise UserError(
            f"init={run}: its encoders are others: {len(wrong)} tensors differ in name or shape, e.g. {min(wrong)}. "
            f"Give the same {keys}."
        )


def _anew(saved: SavedModel, model: VisionLanguageModel, task: Task) -> set[str]:
    """What the names of the tensors begin with that are not taken.

    Of another fusion nothing is: shapes alone may agree by chance. A head reads the fusion's features, so that it is
    of no use behind another one; and of a stand-in, whether it is a token or pooled features is what it has learned.
    """
    theirs, ours = saved.model.state_dict(), model.state_dict()

    def differs(part: str) -> bool:
        names = [name for name in theirs.keys() | ours.keys() if name.startswith(part)]
        return not all(_fits(name, theirs, ours) for name in names)

    anew: set[str] = set()
    if type(saved.model.fusion) is not type(model.fusion) or differs("fusion."):
        anew |= {"fusion.", "head."}
    if differs("head.") or not task.same_outputs(saved.task.state()):
        anew.add("head.")
    for stand_in in ("missing_image", "missing_text"):
        same = getattr(saved.model, stand_in).reads == getattr(model, stand_in).reads
        if not same or differs(f"{stand_in}."):
            anew.add(f"{stand_in}.")
    return anew


def _model_folder(run: str, runs: Path) -> Path:
    if run != "last":
        folder = RunFolder(Path(run)).model
        return folder if folder.is_dir() else Path(run)
    if found := newest(other for other in all_runs(runs) if other.is_completed):
        return found.model
    raise UserError(f"init=last: there is no completed run under {runs}.")


def _fits(name: str, theirs: Tensors, ours: Tensors) -> bool:
    return name in theirs and name in ours and theirs[name].shape == ours[name].shape
