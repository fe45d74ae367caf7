"""Small pairs in open_clip's format with random weights: the package open_clip makes them, and computes with them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer import VisionTransformer
from tiny_pairs import IMAGE_SIZE, MAX_LENGTH, MEAN, PATCH_SIZE, SHARED, STD, WIDTH
from tiny_tokenizers import make_tokenizer

TIMM_NAME = "vit_mmft_patch8_siglip_32"
_OWN_IMAGE: dict[str, Any] = {
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
    "width": WIDTH,
    "head_width": WIDTH // 2,
    "layers": 2,
    "mlp_ratio": 2.0,
}
_OWN_TEXT: dict[str, Any] = {"width": WIDTH, "heads": 2, "layers": 2, "mlp_ratio": 2.0, "context_length": MAX_LENGTH}
_BOTH_WAYS: dict[str, Any] = {"no_causal_mask": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}


def _timm(**more: Any) -> dict[str, Any]:
    return {"image_size": IMAGE_SIZE, "timm_model_name": TIMM_NAME, **more}


# kind -> the kind of its tokenizer, and its config without sizes that depend on the tokenizer.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "clip": ("clip", {"quick_gelu": True, "vision_cfg": _OWN_IMAGE, "text_cfg": _OWN_TEXT}),
    "gelu": ("clip", {"custom_text": True, "vision_cfg": _OWN_IMAGE, "text_cfg": _OWN_TEXT}),
    "eos": ("roberta", {"custom_text": True, "vision_cfg": _OWN_IMAGE, "text_cfg": {**_OWN_TEXT, "pool_type": "eos"}}),
    "siglip": (
        "bert",
        {
            "custom_text": True,
            "init_logit_bias": -3.0,
            "embed_dim": WIDTH,
            "vision_cfg": _timm(timm_pool="map", timm_proj="none"),
            "text_cfg": {
                **_OWN_TEXT,
                **_BOTH_WAYS,
                "proj_bias": True,
                "act_kwargs": {"approximate": "tanh"},
                "tokenizer_kwargs": {"clean": "canonicalize"},
            },
        },
    ),
    "linear": (
        "bert",
        {
            "custom_text": True,
            "vision_cfg": _timm(timm_pool="avg", timm_proj="linear", timm_proj_bias=True, timm_drop=0.1),
            "text_cfg": {**_OWN_TEXT, **_BOTH_WAYS},
        },
    ),
    "mlp": (
        "clip",
        {"custom_text": True, "vision_cfg": _timm(timm_pool="", timm_proj="mlp"), "text_cfg": _OWN_TEXT},
    ),
    "classifier": (
        "clip",
        {"custom_text": True, "vision_cfg": _timm(timm_pool="avg", timm_proj=None), "text_cfg": _OWN_TEXT},
    ),
    "bert": (
        "bert",
        {"vision_cfg": _OWN_IMAGE, "text_cfg": {"hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"}},
    ),
    "mt5": ("bert", {"vision_cfg": _OWN_IMAGE, "text_cfg": {"hf_pooler_type": "mean_pooler"}}),
    "m2m_100": ("bert", {"vision_cfg": _OWN_IMAGE, "text_cfg": {"hf_pooler_type": "cls_pooler"}}),
    "roberta": ("roberta", {"vision_cfg": _OWN_IMAGE, "text_cfg": {"hf_pooler_type": "mean_pooler"}}),
}


@register_model
def vit_mmft_patch8_siglip_32(pretrained: bool = False, **kwargs: Any) -> Any:
    """The architecture `TIMM_NAME` of timm: SigLIP's with two blocks."""
    sizes = {"img_size": IMAGE_SIZE, "patch_size": PATCH_SIZE, "embed_dim": WIDTH, "depth": 2, "num_heads": 2}
    siglip = {"mlp_ratio": 2, "class_token": False, "global_pool": "map", "act_layer": "gelu_tanh"}
    return build_model_with_cfg(VisionTransformer, TIMM_NAME, pretrained, **{**sizes, **siglip, **kwargs})


def make_open_clip(out: Path, captions: Iterable[str], kind: str, **changes: Any) -> Path:
    """Writes a pair of two-layer encoders for images of 32 pixels.

    Args:
        out: the folder; made where it is not there.
        captions: the texts that the vocabulary comes from.
        kind: one of `KINDS`.
        changes: replaces keys of `text_cfg`.

    Returns:
        The folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    words, own = KINDS[kind]
    tokenizer = make_tokenizer(words, captions)
    tokenizer.model_max_length = MAX_LENGTH
    tokenizer.save_pretrained(out)
    model_cfg = {"embed_dim": SHARED, **copy.deepcopy(own)}
    text = model_cfg["text_cfg"]
    text |= {"vocab_size": len(tokenizer), "hf_tokenizer_name": "tiny", "context_length": MAX_LENGTH}
    text |= changes
    if text.get("pool_type") == "eos":
        text["eos_id"] = tokenizer.eos_token_id
    if "hf_pooler_type" in text:
        text["hf_model_name"] = str(_text_config(kind, tokenizer, out))
    preprocess = {"mean": MEAN, "std": STD, "resize_mode": "squash" if kind == "siglip" else "shortest"}
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{out}", load_weights=False, pretrained_text=False)
        for name, parameter in model.named_parameters():  # ones and zeros would hide what is not used, or not loaded
            if "logit" not in name:
                parameter.data += (0.2 if parameter.ndim < 2 else 0.05) * torch.randn_like(parameter)
    state = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    save_file(state, out / "open_clip_model.safetensors")
    return out


def _text_config(kind: str, tokenizer: Any, out: Path) -> Path:
    """The folder with the config of a text transformer of the library."""
    import transformers as hf

    common: dict[str, Any] = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config: Any
    if kind == "mt5":
        config = hf.MT5Config(d_model=WIDTH, d_kv=16, d_ff=64, num_layers=2, num_heads=2, **common)
    elif kind == "m2m_100":
        heads: Any = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_layers": 1}
        config = hf.M2M100Config(d_model=WIDTH, encoder_layers=2, encoder_ffn_dim=64, **heads, **common)
    else:
        of_kind: Any = {"bert": hf.BertConfig, "roberta": hf.RobertaConfig}[kind]
        config = of_kind(max_position_embeddings=MAX_LENGTH + 2, **sizes, **common)
    config.save_pretrained(out)
    return out
