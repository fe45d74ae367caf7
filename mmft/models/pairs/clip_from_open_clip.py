"""transformers' CLIP of a pair in open_clip's format: the inverse of `open_clip_from_transformers`."""

from __future__ import annotations

from typing import Any

from torch import nn

_TEXTS = ("clip_text_model", "metaclip_2_text_model")


def why_no_clip(image: Any, text: Any, text_projection: nn.Module) -> str | None:
    """What in a pair of open_clip neither CLIP nor MetaCLIP 2 has; None if it is one of them.

    Args:
        image: the image encoder's model, of transformers or timm.
        text: the text transformer.
        text_projection: from its pooled features into the shared space.
    """
    if not hasattr(image, "config"):
        return "an image encoder of timm"
    if text.config.model_type not in _TEXTS:
        return f"the text encoder {type(text).__name__}"
    if [name for name, _ in text_projection.named_parameters()] != ["weight"]:
        return "another projection of texts than a matrix"
    return None


def clip_of(image: Any, text: Any, width: int) -> Any:
    """A CLIPModel, or a MetaClip2Model where texts end at another token than the highest, with random weights.

    Args:
        image: open_clip's own vision transformer, as a CLIPVisionModel.
        text: its text transformer, one of transformers, too.
        width: of the shared space.
    """
    import transformers

    kind = "CLIP" if text.config.model_type == _TEXTS[0] else "MetaClip2"
    parts = {"text_config": text.config.to_dict(), "vision_config": image.config.to_dict()}
    for part in parts.values():
        del part["model_type"]  # the class of the whole says it
        part["projection_dim"] = width
    config = getattr(transformers, f"{kind}Config")(**parts, projection_dim=width)
    return getattr(transformers, f"{kind}Model")(config)
