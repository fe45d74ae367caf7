"""An image encoder's folder as transformers' Dinov2, whose pooler output is the class token after the last norm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import load_file
from torch import Tensor

from mmft.training.hardware import has_bf16

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet, as both of our encoders have them


def load(folder: Path) -> hf.Dinov2Model:
    """The encoder of a folder of transformers, or of a plain vision transformer of timm, which is converted.

    Raises:
        ValueError: it is of another architecture.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "architecture" in config:
        return _converted(config, load_file(folder / "model.safetensors"))
    if config.get("model_type") != "dinov2":
        raise ValueError(f"{folder}: neither a Dinov2 of transformers nor a vision transformer of timm")
    return hf.Dinov2Model.from_pretrained(folder, dtype=torch.float32)


def half_precision() -> torch.autocast:
    """Autocast to bfloat16 where this processor has it; emulated, a product of matrices takes forty times as long."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bf16(torch.device("cpu")))


def processor(side: int) -> dict[str, Any]:
    """What goes into preprocessor_config.json: images are squashed to a square, as mmft does."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "processor_class": "VisionTextDualEncoderProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }


def _converted(config: dict[str, Any], state: dict[str, Tensor]) -> hf.Dinov2Model:
    """A Dinov2 with layer scales of 1 computes what a plain vision transformer does."""
    width = state["cls_token"].shape[-1]
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    side = config["pretrained_cfg"]["input_size"][-1]
    patch = state["patch_embed.proj.weight"].shape[-1]
    model = hf.Dinov2Model(
        hf.Dinov2Config(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=width // 64,
            mlp_ratio=state["blocks.0.mlp.fc1.bias"].shape[0] // width,
            image_size=side,
            patch_size=patch,
            layerscale_value=1.0,
        )
    )
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".attn.qkv." in name:
            for part, third in zip("qkv", value.chunk(3), strict=True):
                renamed[_named(name).replace("attn.qkv", f"attention.{part}_proj")] = third
        else:
            renamed[_named(name)] = value
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    if unexpected or not all(name.endswith((".lambda1", "mask_token")) for name in missing):
        raise ValueError(f"not a plain vision transformer: {[*missing, *unexpected]}")
    return model


def _named(name: str) -> str:
    """What transformers calls the weight that timm calls `name`."""
    for old, new in _NAMES:
        name = name.replace(old, new)
    return f"layer{name}" if name.startswith("norm.") else name


_NAMES = (
    ("blocks.", "encoder.layer."),
    ("attn.proj.", "attention.o_proj."),
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
)
