"""timm's vision transformers as those of transformers that compute the same: DINOv2, CLIP, SigLIP and ViT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from mmft.run.export.weights import fill


class _Kind(NamedTuple):
    """A model of transformers: the beginning of its classes' names, and its names by timm's.

    `names` are of a weight or of a module; `blocks` of those below a block, `block` what stands before these.
    """

    classes: str
    names: Mapping[str, str]
    block: str
    blocks: Mapping[str, str]


_DINOV2_PATCHES = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "norm": "layernorm",
}
_SIGLIP_PATCHES = {
    "patch_embed.proj": "embeddings.patch_embedding",
    "pos_embed": "embeddings.position_embedding.weight",
    "norm": "post_layernorm",
}
_SIGLIP_BLOCK = {"attn": "self_attn", "attn.proj": "self_attn.out_proj", "mlp": "mlp"}
_SIGLIP_BLOCK |= {"norm1": "layer_norm1", "norm2": "layer_norm2"}
_VIT_BLOCK = {"attn": "attention", "attn.proj": "attention.o_proj", "mlp": "mlp"}
_OF_TIMM = {"GELUTanh": "gelu_pytorch_tanh", "QuickGELU": "quick_gelu"}
_SCALE = "layer_scale{}.lambda1"
_DINOV2 = _Kind(
    "Dinov2",
    _DINOV2_PATCHES,
    "encoder.layer",
    {**_VIT_BLOCK, "norm1": "norm1", "norm2": "norm2", "ls1.gamma": _SCALE.format(1), "ls2.gamma": _SCALE.format(2)},
)
_CLIP = _Kind(
    "CLIPVision",
    {**_SIGLIP_PATCHES, "cls_token": "embeddings.class_embedding", "norm_pre": "pre_layrnorm"},
    "encoder.layers",
    _SIGLIP_BLOCK,
)
_SIGLIP = _Kind("SiglipVision", _SIGLIP_PATCHES, "encoder.layers", _SIGLIP_BLOCK)
_VIT = _Kind("ViT", _DINOV2_PATCHES, "layers", {**_VIT_BLOCK, "norm1": "layernorm_before", "norm2": "layernorm_after"})


def as_transformers(encoder: Any) -> Any:
    """The model of transformers that an image encoder is; one of timm becomes a model that computes the same.

    Raises:
        ValueError: transformers has no such model.
    """
    backbone: Any = encoder.backbone
    if hasattr(backbone, "config"):
        return backbone
    import transformers

    if type(backbone).__name__ != "VisionTransformer":
        raise ValueError(f"transformers has no {type(backbone).__name__} of timm")
    kind = _kind_of(backbone)
    config = getattr(transformers, f"{kind.classes}Config")(**_settings(backbone, encoder.image_size))
    model = getattr(transformers, f"{kind.classes}Model")(config)
    state = {name: value.reshape(model.get_parameter(name).shape) for name, value in _renamed(backbone, kind).items()}
    fill(model, state)
    return model


def _kind_of(backbone: Any) -> _Kind:
    if not isinstance(backbone.blocks[0].ls1, nn.Identity):
        return _DINOV2
    if not isinstance(backbone.norm_pre, nn.Identity):
        return _CLIP
    return _SIGLIP if backbone.cls_token is None else _VIT


def _settings(backbone: Any, image_size: int) -> dict[str, Any]:
    """The config of transformers; only what the class has a place for matters."""
    block = backbone.blocks[0]
    width, inner = backbone.num_features, block.mlp.fc1.out_features
    return {
        "hidden_size": width,
        "num_hidden_layers": len(backbone.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": inner,
        "mlp_ratio": inner // width,
        "hidden_act": _activation(block.mlp.act),
        "layer_norm_eps": block.norm1.eps,
        "image_size": image_size,
        "patch_size": backbone.patch_embed.patch_size[0],
    }


def _activation(module: nn.Module) -> str:
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_pytorch_tanh"
    kind = type(module).__name__
    if kind not in _OF_TIMM:
        raise ValueError(f"transformers' encoders have no {kind}")
    return _OF_TIMM[kind]


def _renamed(backbone: Any, kind: _Kind) -> dict[str, Tensor]:
    """Timm's state dict by the names of transformers."""
    found: dict[str, Tensor] = {}
    for name, value in backbone.state_dict().items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.*)", name)
        own, names = (block[2], kind.blocks) if block else (name, kind.names)
        prefix = f"{kind.block}.{block[1]}." if block else ""
        if own.startswith("fc_norm."):
            continue  # behind the blocks, where the other kinds have `norm`
        if own.startswith("attn.qkv."):
            parts = zip("qkv", value.chunk(3), strict=True)
            found |= {f"{prefix}{names['attn']}.{part}_proj.{own[9:]}": piece for part, piece in parts}
            continue
        theirs = max((key for key in names if own == key or own.startswith(f"{key}.")), key=len, default=None)
        if theirs in (None, "attn"):
            raise ValueError(f"transformers' {kind.classes} has no {own} of timm")
        found[prefix + names[theirs] + own[len(theirs) :]] = value
    return found
