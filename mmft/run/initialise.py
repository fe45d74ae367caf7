"""`init=RUN`: starts from another run's weights. Unlike a resume, optimizer, row order and schedule start afresh."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from mmft.config.schema.model import ENCODERS
from mmft.errors import UserError
from mmft.models.frozen_layers import widen
from mmft.models.vision_language_model import VisionLanguageModel, part_of
from mmft.run.saved_model import SavedModel, load_model
from mmft.run_folder import init_folder
from mmft.tasks.base import Task

log = logging.getLogger(__name__)
Tensors = dict[str, Tensor]


def initialise_from(run: str, runs: Path, model: VisionLanguageModel, task: Task) -> set[str]:
    """Copies a finished run's weights into `model`: the encoders', and whatever fits of the modules after them.

    A typical use is contrastive training first, whose fusion no other task can have, then a classifier.

    Args:
        run: a run folder, its `model` folder, or `last`: the newest completed run under `runs`.
        runs: where to look for `last`.
        model: built from this run's config.
        task: fitted on this run's labels.

    Returns:
        The encoders whose weights no longer are those of their source.

    Raises:
        UserError: there is no finished model, or its encoders have other shapes.
    """
    saved = load_model(init_folder(run, runs))
    try:
        saved.merge()
    except UserError as error:
        added = " and ".join(f"tune/{encoder}={method.name}" for encoder, method in saved.methods.items())
        raise UserError(
            f"init={run}: it was tuned by {added}, whose added weights are separate from the encoders' own; only the "
            "latter can be copied. Start from a run of another method, such as tune=lora"
        ) from error
    theirs, ours = saved.model.state_dict(), model.state_dict()
    _check_encoders(run, theirs, ours)
    anew = _anew(saved, model, task)
    state = {name: value for name, value in theirs.items() if name in ours and not name.startswith(tuple(anew))}
    if "fusion." in anew:
        log.info("init: weights from %s; head and fusion are new: that run has another fusion", run)
    elif "head." in anew:
        log.info("init: weights from %s; the head is new: its outputs have another meaning there", run)
    else:
        log.info("init: all weights from %s", run)
    changed = {part_of(name) for name, value in state.items() if not _equal(value, ours[name])}
    for encoder in changed & set(ENCODERS):
        widen(getattr(model, encoder))
    model.load_state_dict(state, strict=False)
    model.started |= {*ENCODERS, *state}
    return changed & set(ENCODERS)


def _check_encoders(run: str, theirs: Tensors, ours: Tensors) -> None:
    wrong = [
        name for name in theirs.keys() | ours.keys() if part_of(name) in ENCODERS and not _fits(name, theirs, ours)
    ]
    if wrong:
        keys = " and ".join(f"model.{encoder}" for encoder in ENCODERS if encoder in set(map(part_of, wrong)))
        raise UserError(
            f"init={run}: its encoders differ: {len(wrong)} tensors differ in name or shape, e.g. {min(wrong)}. "
            f"Use the same {keys}."
        )


def _anew(saved: SavedModel, model: VisionLanguageModel, task: Task) -> set[str]:
    """Name prefixes of the tensors that are not copied.

    Nothing of a different fusion is copied, since shapes alone may agree by chance. A head reads the fusion's features,
    so it is of no use with another fusion. A stand-in has learned to be a token or pooled features.
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
        both = [getattr(one, stand_in, None) for one in (saved.model, model)]
        same = len({None if one is None else one.reads for one in both}) == 1
        if not same or differs(f"{stand_in}."):
            anew.add(f"{stand_in}.")
    return anew


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether all values are equal, in the wider of both dtypes."""
    dtype = torch.promote_types(one.dtype, other.dtype)
    return torch.equal(one.to(device=other.device, dtype=dtype), other.to(dtype))


def _fits(name: str, theirs: Tensors, ours: Tensors) -> bool:
    return name in theirs and name in ours and theirs[name].shape == ours[name].shape
