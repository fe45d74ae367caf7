"""Writes a language model that reads images through a projector as the folder of transformers' LLaVA.

README.md, config.json, generation_config.json, model.safetensors, and processor, tokenizer and chat template
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmft.errors import UserError, first_line
from mmft.models.feature_layer import with_end
from mmft.models.fusion.projector import Projector
from mmft.models.language.generative_model import GenerativeModel
from mmft.run.export.card import writing_card
from mmft.run.export.llava_check import check_same
from mmft.run.export.llava_processor import llava_processor
from mmft.run.export.pair import own_size
from mmft.run.export.vit_from_timm import as_transformers
from mmft.run.export.weights import fill
from mmft.run.export.writing import generation_config, show_prompt
from mmft.run.saved_model import SavedModel

_KIND = "transformers' LLaVA"
_INSTEAD = "type format=hf for the encoders alone"


def check_is_llava(saved: SavedModel) -> None:
    """Checks that a run of `task=generation` has the shape of a LLaVA.

    Raises:
        UserError: it does not; the message says which keys would give it this shape, or what LLaVA lacks.
    """
    model = saved.model
    assert isinstance(model, GenerativeModel)
    if not isinstance(model.fusion, Projector):
        raise UserError(f"{_KIND} has a projector of linear layers, no {type(model.fusion).__name__}, so {_INSTEAD}")
    if lacking := next(_lacking(model), None):
        raise UserError(f"{_KIND} cannot hold {lacking}, so {_INSTEAD}")
    if keys := list(_needed(model)):
        raise UserError(
            f"format=transformers writes a language model with a projector as {_KIND}, which this run's model does not "
            f"fit. Train with {' '.join(keys)}, or {_INSTEAD}"
        )


def _needed(model: GenerativeModel) -> Iterator[str]:
    """What would have to be typed for the shape of a LLaVA."""
    assert isinstance(model.fusion, Projector)
    if model.image_encoder.after_blocks is None:
        yield "model.image_encoder.feature_layer=-1"
    if model.fusion.tokens != "all":
        yield "model.fusion.tokens=all"
    yield from own_size(model.image_encoder)


def _lacking(model: GenerativeModel) -> Iterator[str]:
    """What a LLaVA has no place for."""
    text, image = model.text_encoder, model.image_encoder
    if image.prefix > 1:
        yield f"{image.source.name}, which has {image.prefix} tokens in front of the patches, where it drops one"
    if text.logit_scale != 1 or text.logit_soft_cap is not None:
        yield f"{text.source.name}, which scales or caps its logits"
    if text.head.bias is not None:
        yield f"{text.source.name}, whose head has a bias"
    try:
        with torch.device("meta"):
            _empty(model, image_token=0)
    except ValueError as error:
        yield f"{image.source.name} and {text.source.name} ({error})"


def write_llava(saved: SavedModel, summary: Mapping[str, Any], folder: Path) -> str:
    """Writes the model in float32, after comparing it with the run's; returns its model card.

    Args:
        saved: with `check_is_llava`, merged.
        summary: the run's summary.json, for the model card.
        folder: exists.

    Raises:
        UserError: what it computes is not what the run's model does.
    """
    model = saved.model.float().cpu().eval()
    assert isinstance(model, GenerativeModel)
    processor = llava_processor(saved)
    image_token = processor.image_token_id
    whole = _filled(model, image_token)
    check_same(saved, whole, processor)
    whole.generation_config = generation_config(model, [image_token])
    whole.save_pretrained(folder)
    processor.save_pretrained(folder)
    return writing_card(saved, summary, type(whole).__name__, show_prompt(saved, processor))


def _filled(model: GenerativeModel, image_token: int) -> Any:
    """The whole model with the run's weights, and with an embedding for the token that stands for an image."""
    whole = _empty(model, image_token).eval()
    backbone: Any = model.text_encoder.backbone
    with with_end(model.image_encoder):
        fill(whole.model.vision_tower, as_transformers(model.image_encoder).state_dict())
    whole.model.language_model.load_state_dict(backbone.base_model.state_dict())
    _fill_projector(whole.model.multi_modal_projector, model.fusion)
    with torch.no_grad():
        whole.lm_head.weight.copy_(model.text_encoder.head.weight)
        if image_token >= len(whole.lm_head.weight):
            whole.resize_token_embeddings(image_token + 1, mean_resizing=False)
            for layer in (whole.get_input_embeddings(), whole.lm_head):
                layer.weight[model.text_encoder.head.out_features :] = 0
    return whole


def _empty(model: GenerativeModel, image_token: int) -> Any:
    """The class with the run's configs and random weights; ValueError if it has no such encoder."""
    import transformers

    assert isinstance(model.fusion, Projector)
    backbone: Any = model.text_encoder.backbone
    text = backbone.config
    with with_end(model.image_encoder):
        image = as_transformers(model.image_encoder)
    vision = type(image.config)(**image.config.to_dict())
    if hasattr(vision, "vision_use_head"):
        vision.vision_use_head = False  # SigLIP's pooling, which is not read
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=type(text)(**text.to_dict()),
        image_token_index=image_token,
        image_seq_length=model.image_tokens,
        projector_hidden_act="gelu" if len(model.fusion.layers) > 1 else "linear",
        vision_feature_select_strategy="default" if model.image_encoder.prefix else "full",
        vision_feature_layer=-1,  # the last one that there is
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )
    try:
        whole = transformers.LlavaForConditionalGeneration(config)
    except Exception as error:  # many language models tie their weights otherwise
        raise ValueError(first_line(error).rstrip(".")) from error
    for held, own in ((whole.model.vision_tower, image), (whole.model.language_model, backbone.base_model)):
        if type(held) is not type(own):
            raise ValueError(f"it would build a {type(held).__name__} in place of a {type(own).__name__}")
    return whole


def _fill_projector(theirs: Any, ours: Any) -> None:
    """LLaVA has two layers; one layer is that layer and an identity behind it."""
    first, last = ours.layers[0], ours.layers[-1]
    theirs.linear_1.load_state_dict(first.state_dict())
    if last is not first:
        theirs.linear_2.load_state_dict(last.state_dict())
        return
    with torch.no_grad():
        nn.init.eye_(theirs.linear_2.weight)
        theirs.linear_2.bias.zero_()
