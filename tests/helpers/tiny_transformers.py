"""Tiny encoders of many of transformers' architectures, with random weights, as `AutoModel.from_config` makes them.

`tools/tiny_encoders.py` has the few that every tuning method is tested on; these are for the wide tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tiny_tokenizers import FAMILIES, make_tokenizer

IMAGE_SIZE = 64  # what all of `IMAGES` take; positions are interpolated where they are for 32
MAX_LENGTH = 64

_BLOCKS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_VIT = {**_BLOCKS, "image_size": 32, "patch_size": 8}
_DINO = {**{key: value for key, value in _VIT.items() if key != "intermediate_size"}, "mlp_ratio": 2}
_STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
_PYRAMID = {**_STAGES, "num_attention_heads": [1, 1, 2, 2], "image_size": 64}
_WINDOWS = {"image_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
_FOCAL = {"embed_dim": 16, "depths": [1, 1], "focal_levels": [1, 1], "focal_windows": [3, 3]}

IMAGES: dict[str, Callable[[], Any]] = {
    "dinov2": lambda: hf.Dinov2Config(**_DINO),
    "dinov2_with_registers": lambda: hf.Dinov2WithRegistersConfig(num_register_tokens=2, **_DINO),
    "dinov3_vit": lambda: hf.DINOv3ViTConfig(num_register_tokens=2, **_VIT),
    "siglip": lambda: hf.SiglipVisionConfig(**_VIT),
    "clip": lambda: hf.CLIPVisionConfig(**_VIT),
    "vit": lambda: hf.ViTConfig(**_VIT),
    "beit": lambda: hf.BeitConfig(**_VIT),
    "data2vec": lambda: hf.Data2VecVisionConfig(**_VIT),
    "deit": lambda: hf.DeiTConfig(**_VIT),
    "mae": lambda: hf.ViTMAEConfig(**_VIT),
    "ijepa": lambda: hf.IJepaConfig(**_VIT),
    "swin": lambda: hf.SwinConfig(**_WINDOWS),
    "swinv2": lambda: hf.Swinv2Config(**_WINDOWS),
    "hiera": lambda: hf.HieraConfig(embed_dim=16, image_size=[64, 64], depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8]),
    "focalnet": lambda: hf.FocalNetConfig(**_FOCAL),
    "convnext": lambda: hf.ConvNextConfig(**_STAGES),
    "convnextv2": lambda: hf.ConvNextV2Config(**_STAGES),
    "resnet": lambda: hf.ResNetConfig(embedding_size=8, **_STAGES),
    "regnet": lambda: hf.RegNetConfig(embedding_size=8, groups_width=8, **_STAGES),
    "bit": lambda: hf.BitConfig(embedding_size=8, num_groups=4, **_STAGES),
    "efficientnet": lambda: hf.EfficientNetConfig(width_coefficient=0.25, depth_coefficient=0.3, hidden_dim=320),
    "mobilenet_v2": lambda: hf.MobileNetV2Config(depth_multiplier=0.35),
    "mobilevitv2": lambda: hf.MobileViTV2Config(image_size=64, width_multiplier=0.25),
    "pvt_v2": lambda: hf.PvtV2Config(**_PYRAMID),
    "segformer": lambda: hf.SegformerConfig(**_PYRAMID),
    "poolformer": lambda: hf.PoolFormerConfig(**_STAGES),
}

_RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
_NARROW = {**_BLOCKS, "embedding_size": 16}

TEXTS: dict[str, Callable[..., Any]] = {
    "bert": lambda **own: hf.BertConfig(**_BLOCKS, **own),
    "roberta": lambda **own: hf.RobertaConfig(**_BLOCKS, **own),
    "xlm_roberta": lambda **own: hf.XLMRobertaConfig(**_BLOCKS, **own),
    "roberta_prelayernorm": lambda **own: hf.RobertaPreLayerNormConfig(**_BLOCKS, **own),
    "xmod": lambda **own: hf.XmodConfig(languages=["en_XX"], default_language="en_XX", **_BLOCKS, **own),
    "distilbert": lambda **own: hf.DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, **own),
    "deberta": lambda **own: hf.DebertaConfig(**_RELATIVE, **_BLOCKS, **own),
    "deberta_v2": lambda **own: hf.DebertaV2Config(position_buckets=8, **_RELATIVE, **_BLOCKS, **own),
    "modernbert": lambda **own: hf.ModernBertConfig(**_BLOCKS, **own),
    "nomic_bert": lambda **own: hf.NomicBertConfig(**_BLOCKS, **own),
    "eurobert": lambda **own: hf.EuroBertConfig(**_BLOCKS, **own),
    "clip": lambda **own: hf.CLIPTextConfig(**_BLOCKS, **own),
    "siglip": lambda **own: hf.SiglipTextConfig(projection_size=32, **_BLOCKS, **own),
    "chinese_clip": lambda **own: hf.ChineseCLIPTextConfig(**_BLOCKS, **own),
    "mpnet": lambda **own: hf.MPNetConfig(**_BLOCKS, **own),
    "electra": lambda **own: hf.ElectraConfig(**_NARROW, **own),
    "albert": lambda **own: hf.AlbertConfig(**_NARROW, **own),
    "convbert": lambda **own: hf.ConvBertConfig(**_NARROW, **own),
    "mobilebert": lambda **own: hf.MobileBertConfig(intra_bottleneck_size=16, **_NARROW, **own),
    "ernie": lambda **own: hf.ErnieConfig(**_BLOCKS, **own),
    "nystromformer": lambda **own: hf.NystromformerConfig(**_BLOCKS, **own),
    "fnet": lambda **own: hf.FNetConfig(**_BLOCKS, **own),
}

# What mmft refuses: encoder, model, and what it says.
REFUSED: dict[str, tuple[str, Callable[[], Any], str]] = {
    "siglip2": (
        "image_encoder",
        lambda: hf.Siglip2VisionModel(hf.Siglip2VisionConfig(num_patches=16, **_VIT)),
        "Siglip2VisionModel also needs pixel_attention_mask, spatial_shapes, which mmft does not provide",
    ),
    "imagegpt": (
        "image_encoder",
        lambda: hf.ImageGPTModel(hf.ImageGPTConfig(n_embd=32, n_layer=2, n_head=2)),
        "ImageGPTModel does not take pixel_values",
    ),
}


def write_image_encoder(kind: str, out: Path) -> Path:
    """Writes one of `IMAGES` to the folder `out`, as a pretrained one lies on the hub."""
    torch.manual_seed(0)
    hf.AutoModel.from_config(IMAGES[kind]()).save_pretrained(out)
    return out


def write_text_encoder(kind: str, captions: Iterable[str], out: Path) -> Path:
    """Writes one of `TEXTS` to the folder `out`, with a tokenizer of its family (or BERT's) that knows `captions`."""
    tokenizer = make_tokenizer(kind if kind in FAMILIES else "bert", captions)
    tokenizer.model_max_length = MAX_LENGTH
    tokenizer.save_pretrained(out)
    own = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    # RoBERTa counts positions from behind its padding index
    config = TEXTS[kind](max_position_embeddings=MAX_LENGTH + 2, **own)
    model_class = getattr(hf, type(config).__name__.replace("Config", "Model"))  # AutoModel knows not all
    model_class._from_config(config).save_pretrained(out)
    return out
