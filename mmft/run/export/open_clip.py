"""Writes a fine-tuned pair as a folder that the package open_clip loads.

README.md, open_clip_config.json, open_clip_model.safetensors, and the tokenizer's files
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from mmft.data.images.image import background_colour, background_of
from mmft.data.images.squares import squaring
from mmft.errors import UserError
from mmft.models import image_encoder
from mmft.models.pairs.open_clip_config import RESIZES, model_config, preprocessing
from mmft.models.pairs.open_clip_from_transformers import KINDS, model_cfg, positions, siglip_to_timm
from mmft.models.pairs.open_clip_names import to_open_clip
from mmft.models.pairs.open_clip_pair import save_missing_files
from mmft.models.preprocessing import mean_and_std
from mmft.models.similarity import SimilarityHead
from mmft.models.text_encoder import TextEncoder
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.run.export.card import open_clip_card, shown
from mmft.run.saved_model import SavedModel

log = logging.getLogger(__name__)
_MODES = {ours: theirs for theirs, ours in RESIZES.items()}


def check_has_format(saved: SavedModel) -> None:
    """Checks that open_clip has the pair's kind of model.

    Raises:
        UserError: it does not.
    """
    source = saved.model.image_encoder.source
    kind = source.config.get("model_type")
    if source.library != "open_clip" and kind not in KINDS:
        raise UserError(
            f"format=open_clip writes pairs in open_clip's format and transformers' {', '.join(KINDS)}, but model.pair="
            f"{source.name} is a {kind}. Type format=transformers"
        )


def write_open_clip(saved: SavedModel, summary: Mapping[str, Any], folder: Path) -> str:
    """Writes the whole pair in float32; returns its model card.

    Args:
        saved: with `check_is_pair` and `check_has_format`, merged.
        summary: the run's summary.json, for the model card.
        folder: exists.

    Raises:
        UserError: open_clip has no such model.
    """
    model = saved.model.float().cpu()
    source, text = model.image_encoder.source, model.text_encoder
    state, bias = _state(model), _bias(model)
    if source.library == "open_clip":
        config = _own_config(model, state)
        save_missing_files(source, text.backbone, text.tokenizer, folder)
    else:
        config = _from_transformers(saved, state)
    _cut_texts(text, state, config["text_cfg"])
    if bias is not None:
        state["bias"], config["init_logit_bias"] = bias, float(bias)
    content = {"model_cfg": config, "preprocess_cfg": _preprocess(saved)}
    (folder / "open_clip_config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    save_file(to_open_clip(state, config), folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    text.tokenizer.save_pretrained(folder)
    return open_clip_card(saved, summary)


def _state(model: VisionLanguageModel) -> dict[str, Tensor]:
    """The weights by mmft's names, without the bias."""
    parts = {
        "image": model.image_encoder.backbone,
        "text": model.text_encoder.backbone,
        "image_projection": model.fusion.get_submodule("image"),
        "text_projection": model.fusion.get_submodule("text"),
    }
    found = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    assert isinstance(model.head, SimilarityHead)
    return {**found, "log_scale": model.head.log_scale.detach()}


def _bias(model: VisionLanguageModel) -> Tensor | None:
    """The bias of similarities; zero where a pair with one was trained by a loss that is the same with any."""
    assert isinstance(model.head, SimilarityHead)
    source = model.image_encoder.source
    if model.head.bias is not None:
        return model.head.bias.detach().reshape(())
    had = model_config(source).get("init_logit_bias") is not None or source.config.get("model_type") == "siglip"
    return model.head.log_scale.detach() * 0 if had else None


def _own_config(model: VisionLanguageModel, state: dict[str, Tensor]) -> dict[str, Any]:
    """`model_cfg` of a pair that came in open_clip's format, for the run's image size.

    Raises:
        UserError: open_clip would build the image encoder for another size.
    """
    encoder: Any = model.image_encoder
    config = copy.deepcopy(model_config(encoder.source))
    image, size = config["vision_cfg"], encoder.image_size
    own = image.get("image_size", 224)
    if size == (own[0] if isinstance(own, list) else own):
        return config
    if not image.get("timm_model_name"):
        state["image.embeddings.position_embedding.weight"] = positions(encoder.backbone, size)
    elif hasattr(encoder.backbone, "set_input_size"):
        raise UserError(
            f"model.image_encoder.image_size={size}: open_clip builds {image['timm_model_name']} for its own size "
            "alone. Type format=hf for the encoders"
        )
    image["image_size"] = size
    return config


def _from_transformers(saved: SavedModel, state: dict[str, Tensor]) -> dict[str, Any]:
    """`model_cfg` of a CLIP or SigLIP of transformers, whose image weights are replaced by those that open_clip has."""
    model = saved.model
    image, size = model.image_encoder.backbone, model.image_encoder.image_size
    name = model.image_encoder.source.name
    width = model.fusion.width // 2
    config = model_cfg(image, model.text_encoder.backbone, width, size, f"model.pair={name}")
    config["text_cfg"]["hf_tokenizer_name"] = shown(name)
    if "timm_model_name" in config["vision_cfg"]:
        for own in [own for own in state if own.startswith("image.")]:
            del state[own]
        state |= {f"image.{own}": value for own, value in siglip_to_timm(image, size).items()}
    else:
        state["image.embeddings.position_embedding.weight"] = positions(image, size)
    return config


def _cut_texts(text: TextEncoder, state: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Lets open_clip cut texts where the run did."""
    if text.fixed_length or text.max_length >= config.get("context_length", 77):
        return
    config["context_length"] = text.max_length
    if (name := "text.embeddings.position_embedding.weight") in state:
        state[name] = state[name][: text.max_length].clone()


def _preprocess(saved: SavedModel) -> dict[str, Any]:
    """`preprocess_cfg` that makes images as in the run."""
    source, data = saved.model.image_encoder.source, saved.config.data
    resize, resample, crop_pct = squaring(data)
    if crop_pct != 1:
        raise UserError(
            f"format=open_clip has no place for data.crop_pct={crop_pct:g}. Train with data.crop_pct=1, or type "
            "format=transformers"
        )
    mean, std = mean_and_std(source, image_encoder.KEY)
    found = {"size": saved.model.image_encoder.image_size, "mode": "RGB", "mean": list(mean), "std": list(std)}
    found |= {"interpolation": resample, "resize_mode": _MODES[resize]}
    if resize == "pad":
        colour = background_colour(data)
        found["fill_color"] = colour[0]
        if len(set(colour)) > 1:
            log.warning("open_clip pads with a grey: data.background=%s becomes %d", background_of(data), colour[0])
    return {**(preprocessing(source) if source.library == "open_clip" else {}), **found}
