"""Writes small encoders with random weights in the ordinary folder formats of timm and transformers.

They load like any pretrained encoder (`timm.create_model("local-dir:...")`, `AutoModel.from_pretrained`),
so that the tests meet every architecture that mmft takes, without a download. One seed, one set of weights.
`tools/make_shapes.py` is the command; here are the two functions and the table of kinds of each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import timm
import torch
import transformers as hf
from safetensors.torch import save_file
from tiny_tokenizers import make_tokenizer

IMAGE_SIZE, PATCH_SIZE = 32, 8
MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
MAX_LENGTH = 64

# What a timm architecture is shrunk to, by width.
TIMM: dict[str, tuple[str, Callable[[int], dict[str, Any]]]] = {
    "timm_vit": (
        "vit_tiny_patch16_224",
        lambda w: {"embed_dim": w, "depth": 2, "num_heads": 2, "patch_size": PATCH_SIZE, "img_size": IMAGE_SIZE},
    ),
    "timm_convnext": ("convnext_atto", lambda w: {"depths": [1, 1, 1, 1], "dims": [w // 4, w // 4, w // 2, w]}),
    "timm_resnet": (
        "resnet18",
        lambda w: {"layers": [1, 1, 1, 1], "channels": [w // 4, w // 4, w // 2, w], "stem_width": w // 4},
    ),
}

HF_IMAGE: dict[str, tuple[type, type]] = {
    "hf_dinov2": (hf.Dinov2Config, hf.Dinov2Model),
    "hf_siglip": (hf.SiglipVisionConfig, hf.SiglipVisionModel),
    "hf_clip": (hf.CLIPVisionConfig, hf.CLIPVisionModel),
}

HF_TEXT: dict[str, tuple[type, type]] = {
    "bert": (hf.BertConfig, hf.BertModel),
    "roberta": (hf.RobertaConfig, hf.RobertaModel),
    "deberta_v2": (hf.DebertaV2Config, hf.DebertaV2Model),
    "modernbert": (hf.ModernBertConfig, hf.ModernBertModel),
    "clip": (hf.CLIPTextConfig, hf.CLIPTextModel),
}

# What makes a small one of its kind: DeBERTa is about relative positions.
HF_TEXT_OPTIONS: dict[str, dict[str, Any]] = {
    "deberta_v2": {
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
    }
}

IMAGE_KINDS = [*TIMM, *HF_IMAGE]
TEXT_KINDS = list(HF_TEXT)


def make_image_encoder(out: Path, seed: int = 0, kind: str = "timm_vit", width: int = 32) -> Path:
    """Writes an image encoder of two layers (or four stages) for 32-pixel images.

    Args:
        out: the folder; made where it is not there.
        seed: of the weights.
        kind: one of `IMAGE_KINDS`.
        width: of the tokens, or of the last stage; a multiple of 8.

    Returns:
        The folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind in TIMM:
            _write_timm(out, *TIMM[kind], width=width)
        else:
            _write_hf_image(out, *HF_IMAGE[kind], width=width)
    return out


def _write_timm(out: Path, architecture: str, shrink: Callable[[int], dict[str, Any]], width: int) -> None:
    model = timm.create_model(architecture, num_classes=0, **shrink(width))
    size = [3, IMAGE_SIZE, IMAGE_SIZE]
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": model.num_features,
        "model_args": shrink(width),
        "pretrained_cfg": {"input_size": size, "mean": MEAN, "std": STD, "num_classes": 0, "pool_size": None},
    }
    save_file(model.state_dict(), out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _write_hf_image(out: Path, config_class: type, model_class: type, width: int) -> None:
    sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 2 * width}
    config = config_class(**sizes, mlp_ratio=2, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE)
    model_class(config).save_pretrained(out)
    processor = {
        "image_processor_type": "BitImageProcessor",
        "image_mean": MEAN,
        "image_std": STD,
        "size": {"shortest_edge": IMAGE_SIZE},
    }
    (out / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


def make_text_encoder(out: Path, captions: Iterable[str], seed: int = 0, kind: str = "bert", width: int = 32) -> Path:
    """Writes a text encoder of two layers, and a tokenizer of its family that knows `captions`.

    Args:
        out: the folder; made where it is not there.
        captions: the texts that the vocabulary comes from.
        seed: of the weights.
        kind: one of `TEXT_KINDS`.
        width: of the tokens; a multiple of 2.

    Returns:
        The folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(kind, captions)
    tokenizer.model_max_length = MAX_LENGTH
    tokenizer.save_pretrained(out)
    config_class, model_class = HF_TEXT[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = _text_config(config_class, tokenizer, width, HF_TEXT_OPTIONS.get(kind, {}))
        model_class(config).save_pretrained(out)
    return out


def _text_config(config_class: type, tokenizer: Any, width: int, options: dict[str, Any]) -> Any:
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id if cls is None else cls,
        "eos_token_id": tokenizer.eos_token_id if sep is None else sep,
        "cls_token_id": cls,
        "sep_token_id": sep,
    }
    return config_class(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * width,
        # RoBERTa counts positions from behind its padding index
        max_position_embeddings=MAX_LENGTH + 2,
        **{name: number for name, number in ids.items() if number is not None},
        **options,
    )
