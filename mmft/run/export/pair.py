"""Writes a fine-tuned pair as the folder of a whole model that plain transformers loads.

README.md, config.json and model.safetensors of the pair's own class, with processor and tokenizer; two separate
encoders with dual fusion as a VisionTextDualEncoder, see `mmft.run.export.dual_encoder`
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmft.config.schema.model import ENCODERS
from mmft.data.images.squares import squaring
from mmft.errors import UserError
from mmft.models.image_encoder import ImageEncoder
from mmft.models.loading.source import Source
from mmft.models.pairs.clip_from_open_clip import clip_of, why_no_clip
from mmft.models.pairs.facts import FAMILIES, crop_pct_of, resample_of, resize_of
from mmft.models.pairs.open_clip_from_transformers import positions
from mmft.models.pairs.open_clip_tokenizer import with_cleaning
from mmft.models.pairs.pair import Pair, checked_family, load_pair, pair_of
from mmft.models.preprocessing import processed_size, side_of
from mmft.models.similarity import SimilarityHead
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.run.export.card import pair_card
from mmft.run.export.encoders import PREPROCESSOR, processor_of
from mmft.run.saved_model import SavedModel

_PROCESSORS = (PREPROCESSOR, "processor_config.json")


def check_is_pair(saved: SavedModel, written: str) -> None:
    """Checks that a run's model is a pair as a whole.

    Args:
        saved: the run's model.
        written: the value of `format`.

    Raises:
        UserError: it is not, or transformers has no class for it.
    """
    if saved.config.model.pair is None or not saved.model.fusion.facts.of_pair:
        or_two = "" if written == "open_clip" else ", or two encoders with model/fusion=dual"
        raise UserError(
            f"format={written} writes a pretrained pair (model.pair with model/fusion=pretrained){or_two}, but this "
            f"run has model/fusion={saved.config.model.fusion.type}. Type format=hf for its encoders alone"
        )
    check_head(saved, written)
    for part in ENCODERS:
        pool = getattr(saved.config.model, part).pool
        if pool not in ("auto", "own") and not (part == "text_encoder" and pool == _text_pool(saved)):
            raise UserError(
                f"format={written} writes a pair, which has a pooling of its own, but this run has "
                f"model.{part}.pool={pool}. Train with model.{part}.pool=own, or type format=hf for the encoders alone"
            )
    embeddings: Any = getattr(saved.model.image_encoder.backbone, "embeddings", None)
    fixed = written != "open_clip" and not hasattr(embeddings, "position_embedding")
    if fixed and (needed := own_size(saved.model.image_encoder)):
        raise UserError(f"format={written} writes the pair for its own image size. Train with {needed[0]}")
    source, head = saved.model.image_encoder.source, saved.model.head
    if written != "open_clip" and source.library == "open_clip":
        _check_is_clip(saved, written)
    elif written != "open_clip" and getattr(head, "bias", None) is not None and not checked_family(source).sigmoid:
        raise UserError(
            f"format={written}: the run has trained a bias of similarities (task.loss=sigmoid), for which model.pair="
            f"{saved.config.model.pair} has no place. Train with task.loss=info_nce, or type format=open_clip"
        )


def _text_pool(saved: SavedModel) -> str:
    """What the pair itself makes of texts."""
    return load_pair(saved.model.image_encoder.source, pretrained=False).family.text_pool


def _check_is_clip(saved: SavedModel, written: str) -> None:
    """Checks that a pair that came in open_clip's format is a CLIP, or raises a UserError."""
    model = saved.model
    parts = (model.image_encoder.backbone, model.text_encoder.backbone, model.fusion.get_submodule("text"))
    why = why_no_clip(*parts)
    if isinstance(model.head, SimilarityHead) and model.head.bias is not None:
        why = why or "a bias of similarities (task.loss=sigmoid)"
    if why:
        raise UserError(
            f"format={written} writes a pair of open_clip as transformers' CLIP, but "
            f"model.pair={saved.config.model.pair} has {why}. Type format=open_clip"
        )


def check_head(saved: SavedModel, written: str) -> None:
    """Checks that a run's model ends in similarities.

    Args:
        saved: the run's model.
        written: the value of `format`.

    Raises:
        UserError: it does not.
    """
    if not isinstance(saved.model.head, SimilarityHead):
        raise UserError(
            f"format={written} writes a pair with its temperature; the head of task={saved.config.task.type} has no "
            "place in it. Type format=hf for the encoders alone"
        )


def write_pair(saved: SavedModel, summary: Mapping[str, Any], folder: Path) -> str:
    """Writes the whole pair in float32; returns its model card.

    Args:
        saved: with `check_is_pair`, merged.
        summary: the run's summary.json, for the model card.
        folder: exists.
    """
    model, source = saved.model.float().cpu(), saved.model.image_encoder.source
    if source.library == "open_clip":
        whole = clip_of(model.image_encoder.backbone, model.text_encoder.backbone, model.fusion.width // 2)
        pair = pair_of(source, FAMILIES[whole.config.model_type], whole)
    else:
        pair = load_pair(source, pretrained=False)
    _fill(pair, model)
    _resize(pair, model.image_encoder)
    card = write_as_class(saved, summary, pair.whole, folder)
    _write_own_processor(saved, source, folder)
    return card


def write_as_class(saved: SavedModel, summary: Mapping[str, Any], whole: Any, folder: Path) -> str:
    """Writes a model of transformers with the run's tokenizer and preprocessing, and returns its model card.

    Args:
        saved: the run's model, merged.
        summary: the run's summary.json, for the model card.
        whole: with the run's weights.
        folder: exists.
    """
    model = saved.model
    whole.save_pretrained(folder)
    tokenizer = model.text_encoder.tokenizer
    if not model.text_encoder.fixed_length:  # so that texts are truncated as in the run
        tokenizer.model_max_length = model.text_encoder.max_length
    if model.text_encoder.source.library == "open_clip":
        tokenizer = with_cleaning(tokenizer)
    tokenizer.save_pretrained(folder)
    processor = processor_of(model.image_encoder, squaring(saved.config.data))
    (folder / PREPROCESSOR).write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
    return pair_card(saved, summary, type(whole).__name__)


def _fill(pair: Pair, model: VisionLanguageModel) -> None:
    """Copies the weights of the model's parts into those of a whole pair."""
    parts: list[tuple[nn.Module, nn.Module]] = [
        (pair.image, model.image_encoder.backbone),
        (pair.text, model.text_encoder.backbone),
        (pair.image_projection, model.fusion.get_submodule("image")),
        (pair.text_projection, model.fusion.get_submodule("text")),
    ]
    for theirs, ours in parts:
        theirs.load_state_dict(ours.state_dict())
    head = model.head
    assert isinstance(head, SimilarityHead)
    with torch.no_grad():
        scale = head.log_scale.detach()
        if pair.family.has_temperature:
            pair.whole.temperature.fill_(scale.neg().exp())
        else:
            pair.whole.logit_scale.fill_(scale)
        if pair.bias is not None:  # after training by InfoNCE, which is the same with any bias, there is none
            pair.whole.logit_bias.fill_(0.0 if head.bias is None else head.bias.detach())


def _resize(pair: Pair, encoder: ImageEncoder) -> None:
    """Gives a pair the positions of the run's image size, which else would have to be asked for at each call."""
    if not own_size(encoder):
        return
    resampled = positions(encoder.backbone, encoder.image_size)
    pair.image.embeddings.position_embedding = nn.Embedding.from_pretrained(resampled, freeze=False)
    pair.image.config.image_size = pair.whole.config.vision_config.image_size = encoder.image_size


def own_size(encoder: Any) -> list[str]:
    """What to type for the only image size that a model of transformers takes by itself; empty if it is the run's."""
    side = side_of(getattr(encoder.backbone, "config", None))
    takes_one = "interpolate_pos_encoding" in getattr(encoder, "options", ())
    return [f"model.image_encoder.image_size={side}"] if takes_one and side != encoder.image_size else []


def _write_own_processor(saved: SavedModel, source: Source, folder: Path) -> None:
    """Replaces the preprocessing by the pair's own processor if images were as it makes them."""
    encoder, how = saved.model.image_encoder, squaring(saved.config.data)
    backbone: Any = encoder.backbone
    if source.library == "open_clip":
        return
    own = next((source.folder / name for name in _PROCESSORS if (source.folder / name).is_file()), None)
    side = processed_size(source) or side_of(backbone.config)
    theirs = (resize_of(source), resample_of(source), crop_pct_of(source))
    if own is not None and how == theirs and encoder.image_size == side:
        (folder / PREPROCESSOR).unlink()
        shutil.copy2(own, folder / own.name)
