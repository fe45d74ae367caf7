"""Writes a dual run of two separate encoders as transformers' VisionTextDualEncoder, which `model.pair` takes, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from mmft.config.schema.fusion import DualConfig
from mmft.config.schema.model import ENCODERS
from mmft.errors import UserError, first_line
from mmft.models.similarity import SimilarityHead
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.run.export.pair import check_head, own_size, write_as_class
from mmft.run.export.weights import fill
from mmft.run.saved_model import SavedModel

_KIND = "transformers' VisionTextDualEncoder"
_INSTEAD = "type format=sentence_transformers, or format=hf for the encoders alone"


def check_fits(saved: SavedModel) -> None:
    """Checks that a run with dual fusion has the shape of a VisionTextDualEncoder.

    Raises:
        UserError: it does not; the message says which keys would give it this shape.
    """
    check_head(saved, "transformers")
    try:
        with torch.device("meta"):
            whole = _empty(saved.model)
        held = {"image_encoder": whole.vision_model, "text_encoder": whole.text_model}
        others = [part for part in ENCODERS if not isinstance(getattr(saved.model, part).backbone, type(held[part]))]
        reason = "" if not others else f"it would build a {type(held[others[0]]).__name__}"
    except (AttributeError, ValueError) as error:
        reason = first_line(error).rstrip(".")
    if reason:
        names = " and ".join(dict.fromkeys(getattr(saved.model, part).source.name for part in ENCODERS))
        raise UserError(f"{_KIND} cannot hold {names} ({reason}), so {_INSTEAD}")
    if keys := list(_needed(saved)):
        raise UserError(
            f"format=transformers writes two encoders as {_KIND}, which this run's model does not fit. Train with "
            f"{' '.join(keys)}, or {_INSTEAD}"
        )


def _needed(saved: SavedModel) -> Iterator[str]:
    """What would have to be typed for the shape of a VisionTextDualEncoder."""
    model, fusion = saved.model, saved.config.model.fusion
    assert isinstance(fusion, DualConfig)
    if fusion.norm:
        yield "model.fusion.norm=false"
    if fusion.bias:
        yield "model.fusion.bias=false"
    if fusion.hidden is not None:
        yield "model.fusion.hidden=null"
    yield from (f"model.{part}.pool=own" for part in ENCODERS if getattr(model, part).pool != "own")
    yield from own_size(model.image_encoder)
    assert isinstance(model.head, SimilarityHead)
    if model.head.bias is not None:
        yield "task.loss=info_nce"


def write_dual_encoder(saved: SavedModel, summary: Mapping[str, Any], folder: Path) -> str:
    """Writes both encoders, their projections and the temperature in float32; returns their model card.

    Args:
        saved: with `check_fits`, merged.
        summary: the run's summary.json, for the model card.
        folder: exists.
    """
    model = saved.model.float().cpu()
    whole = _empty(model)
    assert isinstance(model.head, SimilarityHead)
    fill(whole.vision_model, model.image_encoder.backbone.state_dict())
    fill(whole.text_model, model.text_encoder.backbone.state_dict())
    fill(whole.visual_projection, model.fusion.get_submodule("image.1").state_dict())
    fill(whole.text_projection, model.fusion.get_submodule("text.1").state_dict())
    with torch.no_grad():
        whole.logit_scale.copy_(model.head.log_scale)
    return write_as_class(saved, summary, whole, folder)


def _empty(model: VisionLanguageModel) -> Any:
    """The class with the run's configs and random weights; ValueError or AttributeError if it has no such encoder."""
    import transformers

    image, text = (getattr(model, part).backbone for part in ENCODERS)
    if not hasattr(image, "config"):
        raise ValueError("the image encoder is timm's")
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        image.config, text.config, projection_dim=model.fusion.width // 2
    )
    return transformers.VisionTextDualEncoderModel(config)
