"""What transformers' CLIP and SigLIP are in open_clip's format: `model_cfg`, and SigLIP's images as a model of timm.

Legend: N patches, W width.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmft.errors import UserError

log = logging.getLogger(__name__)
KINDS = ("clip", "metaclip_2", "siglip")
"""The `model_type` of the pairs that open_clip has, too."""
_ACTIVATIONS: dict[str, dict[str, Any]] = {"quick_gelu": {}, "gelu": {}}
_ACTIVATIONS["gelu_pytorch_tanh"] = {"act_kwargs": {"approximate": "tanh"}}
# transformers' name -> timm's, of a weight or of a module; * stands for the number of a block.
_SIGLIP = {
    "embeddings.patch_embedding": "patch_embed.proj",
    "embeddings.position_embedding.weight": "pos_embed",
    "post_layernorm": "norm",
    "head.probe": "attn_pool.latent",
    "head.attention.out_proj": "attn_pool.proj",
    "head.layernorm": "attn_pool.norm",
    "head.mlp": "attn_pool.mlp",
    "encoder.layers.*.layer_norm1": "blocks.*.norm1",
    "encoder.layers.*.layer_norm2": "blocks.*.norm2",
    "encoder.layers.*.self_attn.out_proj": "blocks.*.attn.proj",
    "encoder.layers.*.mlp": "blocks.*.mlp",
}


def model_cfg(image: Any, text: Any, width: int, image_size: int, where: str) -> dict[str, Any]:
    """open_clip's `model_cfg` of a CLIP or a SigLIP.

    Args:
        image: the vision model of transformers, whose weights are final.
        text: the text model.
        width: of the shared space.
        image_size: side of the images in pixels.
        where: key and name of the pair, for messages.

    Raises:
        UserError: open_clip has no such model.
    """
    vision, words = image.config, text.config
    quick = {part.hidden_act == "quick_gelu" for part in (vision, words)}
    for part in (vision, words):
        if part.hidden_act not in _ACTIVATIONS:
            raise UserError(f"{where}: open_clip does not have its activation {part.hidden_act}.")
    text_cfg = {**_blocks(words), "heads": words.num_attention_heads, "context_length": words.max_position_embeddings}
    text_cfg["vocab_size"] = words.vocab_size
    if vision.model_type.startswith("siglip"):
        text_cfg |= {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
        trunk = {"timm_model_name": _timm_name(image, image_size, where), "timm_pool": "map", "timm_proj": "none"}
        return {
            "embed_dim": width,
            "custom_text": True,
            "vision_cfg": {"image_size": image_size, **trunk},
            "text_cfg": text_cfg,
        }
    if len(quick) > 1:
        raise UserError(f"{where}: open_clip cannot have quick_gelu in one of its encoders alone.")
    ends = words.eos_token_id
    if ends != words.vocab_size - 1 and (ends != 2 or words.model_type.startswith("metaclip")):
        text_cfg |= {"pool_type": "eos", "eos_id": ends}
    vision_cfg = {**_blocks(vision), "head_width": vision.hidden_size // vision.num_attention_heads}
    vision_cfg |= {"image_size": image_size, "patch_size": vision.patch_size}
    return {"embed_dim": width, "quick_gelu": quick == {True}, "vision_cfg": vision_cfg, "text_cfg": text_cfg}


def _blocks(config: Any) -> dict[str, Any]:
    """Sizes of open_clip's own transformer."""
    width, inner = config.hidden_size, config.intermediate_size
    ratio = inner / width
    found = {
        "width": width,
        "layers": config.num_hidden_layers,
        "mlp_ratio": ratio if int(width * ratio) == inner else (inner + 0.5) / width,
        **_ACTIVATIONS[config.hidden_act],
    }
    return found if config.layer_norm_eps == 1e-5 else {**found, "norm_kwargs": {"eps": config.layer_norm_eps}}


def positions(image: Any, image_size: int) -> Tensor:
    """The positions (N, W) of a CLIP's or SigLIP's vision model, resampled to an image size as it does itself."""
    weight, config = image.embeddings.position_embedding.weight, image.config
    own, wanted = ((side // config.patch_size) ** 2 for side in (config.image_size, image_size))
    tokens = torch.zeros(1, len(weight) - own + wanted, weight.shape[-1])  # with a class token, if there is one
    with torch.no_grad():
        found: Tensor = image.embeddings.interpolate_pos_encoding(tokens, image_size, image_size)
    return found.reshape(tokens.shape[1:])


def siglip_to_timm(image: Any, image_size: int) -> dict[str, Tensor]:
    """The state dict of SigLIP's vision model by timm's names."""
    state: dict[str, Tensor] = dict(image.state_dict())
    state["embeddings.position_embedding.weight"] = positions(image, image_size).unsqueeze(0)
    found: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        query, *rest = state.pop(f"head.attention.in_proj_{kind}").chunk(3)
        found |= {f"attn_pool.q.{kind}": query.contiguous(), f"attn_pool.kv.{kind}": torch.cat(rest)}
        for number in range(image.config.num_hidden_layers):
            own = f"encoder.layers.{number}.self_attn"
            found[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat([state.pop(f"{own}.{x}_proj.{kind}") for x in "qkv"])
    for name, value in state.items():
        number_in = re.search(r"\.(\d+)\.", name)
        general = name.replace(number_in[0], ".*.", 1) if number_in else name
        theirs = next(key for key in _SIGLIP if general == key or general.startswith(f"{key}."))
        new = _SIGLIP[theirs] + general[len(theirs) :]
        found[new.replace("*", number_in[1]) if number_in else new] = value
    return found


def _timm_name(image: Any, image_size: int, where: str) -> str:
    """The architecture of timm that is this SigLIP's vision model.

    Raises:
        UserError: there is none.
    """
    import timm

    config, shapes = image.config, _shapes(siglip_to_timm(image, image_size))
    for name in timm.list_models(f"*_patch{config.patch_size}_siglip_{image_size}"):
        with torch.device("meta"):
            model: Any = timm.create_model(name, num_classes=0, global_pool="map")
        if _shapes(model.state_dict()) == shapes and model.blocks[0].attn.num_heads == config.num_attention_heads:
            tanh = "tanh" in repr(model.blocks[0].mlp.act).lower()
            if tanh != (config.hidden_act == "gelu_pytorch_tanh"):
                log.warning(
                    "%s: open_clip's %s computes GELU %s, the pair %s: similarities will differ slightly",
                    *(where, name),
                    *(("by tanh", "exactly") if tanh else ("exactly", "by tanh")),
                )
            return name
    raise UserError(
        f"{where}: timm, from which open_clip takes SigLIP's image encoders, has none of width {config.hidden_size} "
        f"with {config.num_hidden_layers} blocks for {image_size} pixels in patches of {config.patch_size}. Type "
        "format=transformers"
    )


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}
