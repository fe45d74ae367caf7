"""Loads a timm model without its classifier."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from mmft.errors import UserError, first_line
from mmft.models.loading.source import Source
from mmft.models.loading.trust import check_folder

_MISSING = re.compile(r"Missing keys \((.*)\) discovered", re.DOTALL)


def load_timm(
    source: Source, image_size: int | None, pretrained: bool, key: str, own_pool: bool = False
) -> tuple[nn.Module, int]:
    """The model in `source.folder`, and the side in pixels of its square images.

    Args:
        source: of the encoder.
        image_size: side of the images, to which positions are resampled; None for the model's own.
        pretrained: False for random weights.
        key: the config key of the encoder, for messages.
        own_pool: whether its attention pooling, if it has one, is used.

    Raises:
        UserError: loading it would run code, timm cannot build it, or weights are missing from the file.
    """
    import timm

    check_folder(source, key)
    own = source.config.get("pretrained_cfg", {}).get("input_size") or (3, 224, 224)
    size = image_size or int(own[-1])
    folder = f"local-dir:{source.folder}"
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    try:
        with _missing_weights() as missing:
            try:
                model: Any = timm.create_model(folder, img_size=size, **options)
            except TypeError as error:  # ConvNets accept any size and lack the argument
                if "img_size" not in str(error):
                    raise
                model = timm.create_model(folder, **options)
    except Exception as error:
        where = f"{key}.name={source.name}, image_size={size}"
        raise UserError(f"{where}: timm cannot build it: {first_line(error)}") from error
    if missing:
        raise UserError(f"{key}.name={source.name}: {len(missing)} weights are not in its files, first {missing[0]}.")
    if not own_pool and getattr(model, "attn_pool", None) is not None:  # unused, so it would get no gradient
        model.attn_pool = None
    return model, size


@contextmanager
def _missing_weights() -> Iterator[list[str]]:
    """Collects the names of weights that timm leaves random; without a classifier it only logs them, as information."""
    found: list[str] = []
    listener = logging.Handler(logging.INFO)
    listener.emit = lambda record: found.extend(  # type: ignore[method-assign]
        name for match in _MISSING.finditer(record.getMessage()) for name in match[1].split(", ")
    )
    logger = logging.getLogger("timm.models._builder")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
        logger.propagate = propagate
