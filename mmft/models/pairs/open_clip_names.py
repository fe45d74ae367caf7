"""The weights of a pair by open_clip's names and by mmft's, in both directions.

mmft's names begin with the part of a `Pair`: image, text, image_projection, text_projection, log_scale, bias.

Legend: W width, P width of the shared space.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmft.models.pairs.open_clip_config import text_kind

State = Mapping[str, Tensor]

# open_clip's name -> mmft's, of a weight or of a module; * stands for the number of a block.
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.q_proj": "self_attn.q_proj",  # open_clip's in_proj holds the three one below the other
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_IMAGE = {
    "visual.conv1": "image.embeddings.patch_embedding",
    "visual.class_embedding": "image.embeddings.class_embedding",
    "visual.positional_embedding": "image.embeddings.position_embedding.weight",
    "visual.ln_pre": "image.pre_layrnorm",
    "visual.ln_post": "image.post_layernorm",
    "visual.proj": "image_projection.weight",
    **{f"visual.transformer.resblocks.*.{a}": f"image.encoder.layers.*.{b}" for a, b in _BLOCK.items()},
}
_TIMM = {"visual.trunk": "image", "visual.head": "image_projection"}
_TEXT = {
    "text.token_embedding": "text.embeddings.token_embedding",
    "text.positional_embedding": "text.embeddings.position_embedding.weight",
    "text.ln_final": "text.final_layer_norm",
    **{f"text.transformer.resblocks.*.{a}": f"text.encoder.layers.*.{b}" for a, b in _BLOCK.items()},
}
_TRANSFORMERS = {"text.transformer": "text", "text.proj": "text_projection"}
_SCALARS = {"logit_scale": "log_scale", "logit_bias": "bias"}
_MATRICES = ("visual.proj", "text.text_projection")
"""Parameters (W, P), where a linear layer has (P, W)."""
_NO_WEIGHTS = re.compile(r"(text\.)?(attn_mask|input_resolution|context_length|vocab_size)|.*\.position_ids")
"""What older files hold besides weights."""


def to_ours(state: State, model: Mapping[str, Any]) -> dict[str, Tensor]:
    """open_clip's state dict by mmft's names.

    Args:
        state: with or without the prefix `text.`.
        model: a checked `model_cfg`.

    Raises:
        KeyError: a name is not that of such a model.
    """
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if _NO_WEIGHTS.fullmatch(name):
            continue
        own = name if name.startswith(("visual.", "text.", "logit_")) else f"text.{name}"
        if ".resblocks." in own and ".in_proj_" in own:
            stem, _, kind = own.rpartition("in_proj_")
            found |= {f"{stem}{part}_proj.{kind}": piece for part, piece in zip("qkv", value.chunk(3), strict=True)}
        else:
            found[own] = value.T if own in _MATRICES else value
    return {_renamed(name, _table(model)): value.contiguous() for name, value in found.items()}


def to_open_clip(state: State, model: Mapping[str, Any]) -> dict[str, Tensor]:
    """The inverse of `to_ours`, with the prefix `text.` where `custom_text` or a transformers model wants it."""
    back = {ours: theirs for theirs, ours in _table(model).items()}
    found = {_renamed(name, back): value for name, value in state.items()}
    for name in [name for name in found if ".resblocks." in name and ".q_proj." in name]:
        parts = [found.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        found[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    custom = model.get("custom_text") or model["text_cfg"].get("hf_model_name")
    return {
        (name if custom else name.removeprefix("text.")): (value.T if name in _MATRICES else value).contiguous()
        for name, value in found.items()
    }


def _table(model: Mapping[str, Any]) -> dict[str, str]:
    """open_clip's names -> mmft's for one model."""
    text = model["text_cfg"]
    image_names = _TIMM if model["vision_cfg"].get("timm_model_name") else _IMAGE
    kind = text_kind(text)
    if kind == "transformers":
        return {**image_names, **_TRANSFORMERS, **_SCALARS}
    layer = "text.head" if kind == "bidirectional" else "text_projection"
    projection = {"text.text_projection": layer if text.get("proj_bias") else f"{layer}.weight"}
    return {**image_names, **_TEXT, **projection, **_SCALARS}


def _renamed(name: str, table: Mapping[str, str]) -> str:
    number = re.search(r"\.(\d+)\.", name)
    general = name.replace(number[0], ".*.", 1) if number else name
    known = next((key for key in table if general == key or general.startswith(f"{key}.")), None)
    if known is None:
        raise KeyError(name)
    new = table[known] + general[len(known) :]
    return new.replace("*", number[1]) if number else new
