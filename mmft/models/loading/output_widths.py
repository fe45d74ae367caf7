"""The widths of what a transformers vision model puts out, measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmft.errors import UserError, first_line
from mmft.models.loading.source import Source
from mmft.models.loading.transformers_loading import last_hidden_state


class OutputWidths(NamedTuple):
    """What one pass over an image shows of a transformers model.

    Attributes:
        tokens: width of a token.
        own: width of its own pooled output; 0 without one.
    """

    tokens: int
    own: int


def output_widths(backbone: Any, source: Source, image_size: int, options: Mapping[str, Any], key: str) -> OutputWidths:
    """Measures widths: an EfficientNet's config lacks its own, FocalNet's is wrong, SAM's is that of its blocks.

    Args:
        backbone: the model.
        source: where it comes from.
        image_size: side of the image in pixels.
        options: what the model is called with besides pixels.
        key: of the config, for messages.

    Raises:
        UserError: it does not accept images of this size, or returns neither tokens nor a feature map.
    """
    where = f"{key}.name={source.name}, image_size={image_size}"
    was = backbone.training
    try:
        with torch.no_grad():
            pixels = torch.zeros(1, 3, image_size, image_size)
            out = backbone.eval()(pixel_values=pixels, **options)
            features = last_hidden_state(out)
    except Exception as error:
        raise UserError(f"{where}: it does not accept images of this size: {first_line(error)}") from error
    finally:
        backbone.train(was)
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        raise UserError(f"{where}: {type(backbone).__name__} returns neither tokens nor a feature map of an image.")
    declared = getattr(backbone.config, "hidden_size", None)
    last = features.ndim == 3 or (features.shape[1] != declared == features.shape[-1])
    pooled = getattr(out, "pooler_output", None)
    own_width = pooled[0].numel() if isinstance(pooled, Tensor) else 0
    return OutputWidths(int(features.shape[-1] if last else features.shape[1]), own_width)
