"""Small pretrained pairs of every family with random weights, as the folders that `save_pretrained` writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tiny_tokenizers import make_tokenizer

WIDTH, SHARED, IMAGE_SIZE, PATCH_SIZE, MAX_LENGTH = 32, 24, 32, 8, 24
"""Of the encoders, of the shared space, of images in pixels, and the longest text in tokens."""
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
_BLOCKS: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
_VISION: dict[str, Any] = {**_BLOCKS, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {**_BLOCKS, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": MAX_LENGTH, **more}


def _clip(tokenizer: Any) -> Any:
    config = hf.CLIPConfig(text_config=_text(tokenizer), vision_config=_VISION, projection_dim=SHARED)
    return hf.CLIPModel(config)


def _metaclip_2(tokenizer: Any) -> Any:
    own = {"projection_dim": SHARED}
    config = hf.MetaClip2Config(text_config=_text(tokenizer) | own, vision_config=_VISION | own, projection_dim=SHARED)
    return hf.MetaClip2Model(config)


def _siglip(tokenizer: Any) -> Any:
    return hf.SiglipModel(hf.SiglipConfig(text_config=_text(tokenizer), vision_config=_VISION))


def _chinese_clip(tokenizer: Any) -> Any:
    config = hf.ChineseCLIPConfig(text_config=_text(tokenizer), vision_config=_VISION, projection_dim=SHARED)
    return hf.ChineseCLIPModel(config)


def _altclip(tokenizer: Any) -> Any:
    text = _text(tokenizer, project_dim=28, max_position_embeddings=MAX_LENGTH + tokenizer.pad_token_id + 1)
    return hf.AltCLIPModel(hf.AltCLIPConfig(text_config=text, vision_config=_VISION, projection_dim=SHARED))


def _align(tokenizer: Any) -> Any:
    small = {"width_coefficient": 0.2, "depth_coefficient": 0.2, "hidden_dim": 64, "image_size": IMAGE_SIZE}
    config = hf.AlignConfig(text_config=_text(tokenizer), vision_config=small, projection_dim=64)  # its image width
    return hf.AlignModel(config)


def _dual(tokenizer: Any) -> Any:
    image, text = hf.Dinov2Model(hf.Dinov2Config(**_VISION)), hf.BertModel(hf.BertConfig(**_text(tokenizer)))
    config = hf.VisionTextDualEncoderConfig.from_vision_text_configs(image.config, text.config, projection_dim=SHARED)
    return hf.VisionTextDualEncoderModel(config, vision_model=image, text_model=text)


FAMILIES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "clip": (_clip, "clip"),
    "metaclip_2": (_metaclip_2, "roberta"),
    "siglip": (_siglip, "bert"),
    "chinese_clip": (_chinese_clip, "bert"),
    "altclip": (_altclip, "roberta"),
    "align": (_align, "bert"),
    "vision-text-dual-encoder": (_dual, "bert"),
}
"""What makes the model, and the kind of its tokenizer, by transformers' `model_type`."""


def make_pair(out: Path, captions: Iterable[str], seed: int = 0, kind: str = "clip") -> Path:
    """Writes a pair of two-layer encoders for images of 32 pixels.

    Args:
        out: the folder; made where it is not there.
        captions: the texts that the vocabulary comes from.
        seed: of the weights.
        kind: one of `FAMILIES`.

    Returns:
        The folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    make, words = FAMILIES[kind]
    tokenizer = make_tokenizer(words, captions)
    tokenizer.model_max_length = MAX_LENGTH
    tokenizer.save_pretrained(out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make(tokenizer)
        for name, parameter in model.named_parameters():  # ones and zeros would hide what is not used, or not loaded
            if parameter.ndim < 2 and "logit" not in name and name != "temperature":
                parameter.data += 0.2 * torch.randn_like(parameter)
        for module in model.modules():  # at this width, weights of 0.02 would leave nothing of the input
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                torch.nn.init.kaiming_normal_(module.weight)
        if kind == "siglip":
            model.logit_scale.data.fill_(2.3)
            model.logit_bias.data.fill_(-3.0)
        model.save_pretrained(out)
    crops = kind not in ("siglip", "align")
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": MEAN,
        "image_std": STD,
        "size": {"shortest_edge": IMAGE_SIZE} if crops else side,
        "do_center_crop": crops,
        "crop_size": side,
    }
    (out / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    return out
