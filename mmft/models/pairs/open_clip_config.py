"""Reads `open_clip_config.json` without torch: what a pair in open_clip's format is made of, and what mmft refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from mmft.models.loading.source import Source

Text = Literal["causal", "eos", "bidirectional", "transformers"]

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
"""Of the pixels, where `preprocess_cfg` does not say: open_clip's default, OpenAI's."""
RESIZES: dict[str, Literal["crop", "squash", "pad"]] = {"shortest": "crop", "squash": "squash", "longest": "pad"}
"""`preprocess_cfg.resize_mode` -> `data.resize`."""
_BLOCKS: dict[str, tuple[Any, ...]] = {
    "ls_init_value": (None,),
    "block_type": (None, "default"),
    "qk_norm": (False,),
    "scaled_cosine_attn": (False,),
    "scale_heads": (False,),
    "scale_attn_inner": (False,),
    "scale_attn": (False,),
    "scale_fc": (False,),
    "output_tokens": (False,),
}
# The values that each key may have; None: every value is understood, or changes nothing that is computed.
_ROOT: dict[str, tuple[Any, ...] | None] = {
    **dict.fromkeys(("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale")),
    **dict.fromkeys(("init_logit_bias", "nonscalar_logit_scale", "output_dict", "cast_dtype")),
}
_IMAGE: dict[str, tuple[Any, ...] | None] = {
    **dict.fromkeys(("layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "patch_dropout")),
    **dict.fromkeys(("act_kwargs", "norm_kwargs", "final_ln_after_pool", "attn_pooler_queries", "attn_pooler_heads")),
    **dict.fromkeys(("timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias")),
    **dict.fromkeys(("timm_drop", "timm_drop_path")),
    **_BLOCKS,
    "attentional_pool": (False,),
    "no_ln_pre": (False,),
    "pos_embed_type": ("learnable",),
    "pool_type": ("tok",),
}
_TEXT: dict[str, tuple[Any, ...] | None] = {
    **dict.fromkeys(("context_length", "vocab_size", "hf_tokenizer_name", "tokenizer_kwargs", "width", "heads")),
    **dict.fromkeys(("layers", "mlp_ratio", "pad_id", "eos_id", "no_causal_mask", "pool_type", "proj_bias")),
    **dict.fromkeys(("act_kwargs", "norm_kwargs", "final_ln_after_pool", "hf_model_name", "hf_model_pretrained")),
    **dict.fromkeys(("hf_proj_type", "hf_pooler_type")),
    **_BLOCKS,
    "embed_cls": (False,),
    "proj_type": ("linear", "none"),
    "tokenizer_mode": (None, ""),
}
_POOLERS = {"mean_pooler": "mean", "cls_pooler": "own", "cls_last_hidden_state_pooler": "cls"}
_KINDS: dict[tuple[bool, str], Text] = {
    (False, "argmax"): "causal",
    (False, "eos"): "eos",
    (True, "last"): "bidirectional",
}


def model_config(source: Source) -> dict[str, Any]:
    """`model_cfg` of the folder's `open_clip_config.json`."""
    found = source.config.get("model_cfg")
    return found if isinstance(found, dict) else {}


def preprocessing(source: Source) -> dict[str, Any]:
    """`preprocess_cfg`, without the keys that are null."""
    found = source.config.get("preprocess_cfg") or {}
    return {key: value for key, value in found.items() if value is not None}


def text_kind(text: dict[str, Any]) -> Text:
    """What a checked `text_cfg` describes.

    Returns:
        `causal`: open_clip's own transformer, pooled at the highest token; `eos`: the same, at `eos_id`;
        `bidirectional`: SigLIP's, pooled at the last position; `transformers`: `hf_model_name`.
    """
    if text.get("hf_model_name"):
        return "transformers"
    return _KINDS[bool(text.get("no_causal_mask")), text.get("pool_type", "argmax")]


def text_pool(text: dict[str, Any]) -> str:
    """How mmft's text encoder pools: `mean`, `cls`, or `own`, the text transformer's own output."""
    return _POOLERS[text.get("hf_pooler_type", "mean_pooler")] if text.get("hf_model_name") else "own"


def refusal(source: Source) -> str | None:
    """A sentence that names the first key that mmft would have to compute differently; None if there is none."""
    model = model_config(source)
    image, text = model.get("vision_cfg"), model.get("text_cfg")
    if not isinstance(image, dict) or not isinstance(text, dict) or not isinstance(model.get("embed_dim"), int):
        return "its open_clip_config.json lacks model_cfg with embed_dim, vision_cfg and text_cfg."
    if "multimodal_cfg" in model:
        return "its multimodal_cfg is that of a CoCa, which also writes captions."
    found = next(_refused(source, model, image, text), None)
    return None if found is None else f"its open_clip_config.json has {found}, which mmft cannot compute."


def _refused(source: Source, model: dict[str, Any], image: dict[str, Any], text: dict[str, Any]) -> Iterator[str]:
    """Keys with their values that are not understood."""
    yield from _unknown("model_cfg", model, _ROOT)
    yield from _unknown("vision_cfg", image, _IMAGE, skip=_own_keys(_IMAGE) if image.get("timm_model_name") else ())
    yield from _unknown("text_cfg", text, _TEXT, skip=_own_keys(_TEXT) if text.get("hf_model_name") else ())
    yield from _unknown(
        "preprocess_cfg", preprocessing(source), {"resize_mode": tuple(RESIZES), "mode": ("RGB",)}, True
    )
    size = image.get("image_size")
    if isinstance(size, list) and len(set(size)) > 1:
        yield f"vision_cfg.image_size={size}"
    if image.get("timm_model_name"):
        if image.get("timm_pool") in ("abs_attn", "rot_attn"):
            yield f"vision_cfg.timm_pool={image['timm_pool']}"
    elif not isinstance(image.get("layers", 12), int):
        yield f"vision_cfg.layers={image['layers']} (a ResNet)"
    elif isinstance(image.get("patch_size", 16), list):
        yield f"vision_cfg.patch_size={image['patch_size']}"
    yield from _activations(model, {"vision_cfg": image, "text_cfg": text})
    if text.get("hf_model_name"):
        if text.get("hf_pooler_type", "mean_pooler") not in _POOLERS:
            yield f"text_cfg.hf_pooler_type={text['hf_pooler_type']}"
        if text.get("hf_proj_type", "mlp") not in ("mlp", "linear", None):
            yield f"text_cfg.hf_proj_type={text['hf_proj_type']}"
    elif (bool(text.get("no_causal_mask")), text.get("pool_type", "argmax")) not in _KINDS:
        masked = str(bool(text.get("no_causal_mask"))).lower()
        yield f"text_cfg.pool_type={text.get('pool_type', 'argmax')} with no_causal_mask={masked}"
    elif text.get("no_causal_mask") and not text.get("hf_tokenizer_name"):
        yield "text_cfg.no_causal_mask=true without hf_tokenizer_name"
    options = text.get("tokenizer_kwargs") or {}
    yield from _unknown("text_cfg.tokenizer_kwargs", options, {"clean": ("whitespace", "lower", "canonicalize")})


def _own_keys(known: dict[str, tuple[Any, ...] | None]) -> set[str]:
    """The keys of open_clip's own transformers, which it ignores for encoders of other libraries."""
    return {
        key for key, values in known.items() if values is not None and key not in ("output_tokens", "tokenizer_mode")
    }


def _unknown(
    where: str,
    given: dict[str, Any],
    known: dict[str, tuple[Any, ...] | None],
    others: bool = False,
    skip: set[str] | tuple[str, ...] = (),
) -> Iterator[str]:
    """Keys that are not among `known` (unless `others` are welcome), or have a value that is not."""
    for key, value in given.items():
        if key in skip:
            continue
        allowed = known.get(key)
        if (key not in known and not others) or (allowed is not None and value not in allowed):
            yield f"{where}.{key}={value}"


def _activations(model: dict[str, Any], parts: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, part in parts.items():
        if part.get("timm_model_name") or part.get("hf_model_name"):
            continue
        known = ("approximate",) if not model.get("quick_gelu") else ()
        yield from (f"{name}.act_kwargs.{k}={v}" for k, v in (part.get("act_kwargs") or {}).items() if k not in known)
        yield from (f"{name}.norm_kwargs.{k}={v}" for k, v in (part.get("norm_kwargs") or {}).items() if k != "eps")
