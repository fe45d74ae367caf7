"""Random encoders of the real ones' sizes, for where the real ones are not there: memory and time are the same."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import timm
import torch
import transformers as hf
from safetensors.torch import save_file
from tiny_tokenizers import make_tokenizer

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def vit_small(out: Path, image_size: int) -> Path:
    """A ViT-S/14 (12 layers of width 384) in timm's folder format; the folder."""
    if (out / "config.json").exists():
        return out
    out.mkdir(parents=True)
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=image_size)
    config = {
        "architecture": "vit_small_patch14_dinov2",
        "num_classes": 0,
        "num_features": model.num_features,
        "model_args": {"img_size": image_size},
        "pretrained_cfg": {
            "input_size": [3, image_size, image_size],
            "mean": MEAN,
            "std": STD,
            "num_classes": 0,
            "pool_size": None,
        },
    }
    save_file(model.state_dict(), out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config))
    return out


def bert_of_minilms_size(out: Path, captions: Iterable[str]) -> Path:
    """A BERT of 6 layers of width 384 with MiniLM's vocabulary size, and a small tokenizer; the folder."""
    if (out / "config.json").exists():
        return out
    tokenizer = make_tokenizer("bert", captions)
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(out)
    torch.manual_seed(0)
    config = hf.BertConfig(
        vocab_size=30522,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        pad_token_id=tokenizer.pad_token_id,
    )
    hf.BertModel(config).save_pretrained(out)
    return out
