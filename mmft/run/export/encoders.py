"""Saves encoders in their own library's format, in float32."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from mmft.config.schema.model import ENCODERS
from mmft.data.images.squares import Squaring, squaring
from mmft.errors import UserError
from mmft.models.encoder import Encoder
from mmft.models.feature_layer import with_end
from mmft.models.image_encoder import KEY, ImageEncoder, TimmImageEncoder
from mmft.models.layers import blocks
from mmft.models.pairs.open_clip_config import model_config
from mmft.models.preprocessing import mean_and_std
from mmft.models.text_encoder import TextEncoder
from mmft.run.export.adapters import write_adapters
from mmft.run.export.card import model_card
from mmft.run.saved_model import SavedModel

log = logging.getLogger(__name__)
PREPROCESSOR = "preprocessor_config.json"
_CROP_MODES = {"squash": "squash", "crop": "center", "pad": "border"}
"""timm's names for the values of `data.resize`. It pads with the mean colour, whatever `data.background` is."""


def write_encoders(saved: SavedModel, summary: Mapping[str, Any], folder: Path) -> str:
    """Writes both encoders, each in its library's format, and the adapters that peft added; returns the model card.

    Args:
        saved: not merged.
        summary: the run's summary.json, for the model card.
        folder: exists.
    """
    adapters = write_adapters(saved, folder)
    saved.merge()
    for name in ENCODERS:
        write_encoder(getattr(saved.model, name), folder / name, squaring(saved.config.data))
    return model_card(saved, summary, adapters)


def write_encoder(encoder: Encoder, folder: Path, how: Squaring) -> None:
    """Writes an encoder in its library's format.

    Args:
        encoder: merged.
        folder: created.
        how: images became square; the exported transform does the same.

    Raises:
        UserError: no library could load it.
    """
    if encoder.source.library == "own":
        raise UserError(f"{encoder.source.name} is a custom encoder, which neither timm nor transformers can load.")
    folder.mkdir(parents=True)
    backbone: Any = encoder.backbone.float().cpu()
    with with_end(encoder):
        if isinstance(encoder, TimmImageEncoder):
            _write_timm(backbone, encoder, folder, how)
            return
        with _with_mask_token(backbone):
            backbone.save_pretrained(folder)
    if isinstance(encoder, TextEncoder):
        encoder.tokenizer.save_pretrained(folder)
    elif isinstance(encoder, ImageEncoder):
        (folder / PREPROCESSOR).write_text(json.dumps(processor_of(encoder, how), indent=2) + "\n", encoding="utf-8")


@contextmanager
def _with_mask_token(backbone: Any) -> Iterator[None]:
    """Context with zeros for the token of masked pretraining, which an encoder of mmft lacks: libraries ask for it."""
    embeddings: Any = getattr(backbone, "embeddings", None)
    if getattr(embeddings, "mask_token", False) is not None:
        yield
        return
    with torch.device("meta"):
        shape = type(backbone)(backbone.config).embeddings.mask_token.shape
    embeddings.mask_token = nn.Parameter(torch.zeros(shape))
    try:
        yield
    finally:
        embeddings.mask_token = None


def processor_of(encoder: ImageEncoder, how: Squaring) -> dict[str, Any]:
    """Preprocessing for `AutoImageProcessor` as in the run, which the encoder's own processor may not support.

    transformers has no padding before resizing: `pad` becomes a plain resize that distorts, with a warning.
    """
    if how.resize == "pad":
        log.warning("data.resize=pad: image processors of transformers cannot pad; the exported one squashes images")
    scaled, side = how.scaled(encoder.image_size), {"height": encoder.image_size, "width": encoder.image_size}
    mean, std = pixel_statistics(encoder)
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": scaled} if how.resize == "crop" else {"height": scaled, "width": scaled},
        "resample": int(Image.Resampling[how.resample.upper()]),
        "do_center_crop": how.resize == "crop" or scaled > encoder.image_size,
        "crop_size": side,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }


def pixel_statistics(encoder: ImageEncoder) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the pixels, three numbers each, of values from 0 to 1."""
    mean, std = ([float(f"{x / 255:.8g}") for x in encoder.get_buffer(n).flatten().tolist()] for n in ("mean", "std"))
    return mean, std


def _write_timm(backbone: Any, encoder: Encoder, folder: Path, how: Squaring) -> None:
    """Writes the source's own config.json, at the current input size, without a classifier."""
    assert isinstance(encoder, ImageEncoder)
    config, side = encoder.source.config, encoder.image_size
    if encoder.source.library == "open_clip":
        config = _timm_config(backbone, encoder)
    config["num_classes"] = 0
    if encoder.after_blocks is not None:
        config["model_args"] = config.get("model_args", {}) | _depth(backbone, encoder)
    images = {"input_size": [3, side, side], "crop_pct": how.crop_pct, "crop_mode": _CROP_MODES[how.resize]}
    images["interpolation"] = how.resample
    config["pretrained_cfg"] = config.get("pretrained_cfg", {}) | {"num_classes": 0, **images}
    if hasattr(getattr(backbone, "patch_embed", None), "img_size"):  # it has position embeddings for this many patches
        config["model_args"] = config.get("model_args", {}) | {"img_size": side}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    backbone.reset_classifier(0)  # an encoder of open_clip's may have one
    state = {name: value.detach().contiguous() for name, value in backbone.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _depth(backbone: Any, encoder: Encoder) -> dict[str, int]:
    """How many blocks timm builds; raises UserError if it builds as many as it wants."""
    if "depth" not in inspect.signature(type(backbone).__init__).parameters:
        raise UserError(
            f"timm cannot build {type(backbone).__name__} ({encoder.source.name}) without its last blocks, which "
            "model.image_encoder.feature_layer left out. Train without that key"
        )
    return {"depth": len(blocks(backbone))}


def _timm_config(backbone: Any, encoder: ImageEncoder) -> dict[str, Any]:
    """Timm's config.json of an encoder from a pair in open_clip's format, with the pair's own pooling."""
    mean, std = mean_and_std(encoder.source, KEY)
    args = {"global_pool": getattr(backbone, "global_pool", None)}
    if hasattr(backbone, "fc_norm"):
        args["fc_norm"] = not isinstance(backbone.fc_norm, nn.Identity)
    return {
        "architecture": model_config(encoder.source)["vision_cfg"]["timm_model_name"],
        "model_args": {name: value for name, value in args.items() if value is not None},
        "pretrained_cfg": {"mean": list(mean), "std": list(std)},
    }
