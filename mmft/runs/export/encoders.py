"""Encoders as their own libraries save them, in float32, and what peft added to them in peft's own format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from mmft.runs.export.card import shown
from mmft.errors import UserError
from mmft.models.encoder import Encoder
from mmft.models.image_encoder import ImageEncoder
from mmft.models.text_encoder import TextEncoder

_PREPROCESSOR = "preprocessor_config.json"
_CROP_MODES = {"squash": "squash", "crop": "center", "pad": "border"}
"""What timm calls the ways of `data.resize`. It pads with the mean colour, whatever `data.background` is."""


def write_adapter(encoder: Encoder, folder: Path) -> bool:
    """Writes what peft has added to `encoder`, as `PeftModel.from_pretrained` reads it.

    Args:
        encoder: not merged.
        folder: made if there is something to write.

    Returns:
        Whether there was.
    """
    backbone: Any = encoder.backbone
    if not hasattr(backbone, "peft_config"):
        return False
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True)
    found = get_peft_model_state_dict(backbone, state_dict=backbone.state_dict(), save_embedding_layers=False)
    state = {f"base_model.model.{name}": value.detach().cpu().contiguous() for name, value in found.items()}
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = backbone.peft_config["default"]
    config.base_model_name_or_path, config.inference_mode = shown(encoder.source.name), True
    config.save_pretrained(folder)
    return True


def write_encoder(encoder: Encoder, folder: Path, resize: str) -> None:
    """Writes an encoder as its library saves one.

    Args:
        encoder: merged.
        folder: made.
        resize: how images became square, as in `data.resize`; the folder's own transform then makes them so, too.

    Raises:
        UserError: no library could load it.
    """
    if encoder.source.library == "own":
        raise UserError(f"{encoder.source.name} is an encoder of your own, which neither timm nor transformers can load.")
    folder.mkdir(parents=True)
    backbone: Any = encoder.backbone.float().cpu()
    if encoder.source.library == "timm":
        _write_timm(backbone, encoder, folder, _CROP_MODES[resize])
        return
    backbone.save_pretrained(folder)
    if isinstance(encoder, TextEncoder):
        encoder.tokenizer.save_pretrained(folder)
    elif isinstance(encoder, ImageEncoder):
        (folder / _PREPROCESSOR).write_text(json.dumps(_processor(encoder, resize), indent=2) + "\n", encoding="utf-8")


def _processor(encoder: ImageEncoder, resize: str) -> dict[str, Any]:
    """What `AutoImageProcessor` makes of images, as the run did; the encoder's own processor may know no such way.

    None of transformers pads before it resizes: instead of `pad` it squashes.
    """
    side = {"height": encoder.image_size, "width": encoder.image_size}
    crops = resize == "crop"
    mean, std = ([round(x / 255, 6) for x in encoder.get_buffer(name).flatten().tolist()] for name in ("mean", "std"))
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": encoder.image_size} if crops else side,
        "resample": 3,  # bicubic
        "do_center_crop": crops,
        "crop_size": side,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }


def _write_timm(backbone: Any, encoder: Encoder, folder: Path, crop_mode: str) -> None:
    """The source's own config.json, at the size that the weights have now, without a classifier."""
    assert isinstance(encoder, ImageEncoder)
    config, side = encoder.source.config, encoder.image_size
    config["num_classes"] = 0
    images = {"input_size": [3, side, side], "crop_pct": 1.0, "crop_mode": crop_mode, "interpolation": "bicubic"}
    config["pretrained_cfg"] = config.get("pretrained_cfg", {}) | {"num_classes": 0, **images}
    if hasattr(getattr(backbone, "patch_embed", None), "img_size"):  # it has positions, of this many patches
        config["model_args"] = config.get("model_args", {}) | {"img_size": side}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    state = {name: value.detach().contiguous() for name, value in backbone.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
