"""Loads one tower of a transformers checkpoint in float32, without poolers and heads that we do not use."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from torch import nn

from mmft.clock import importing
from mmft.errors import UserError
from mmft.models.source import Source

Tower = Literal["vision", "text"]


def load_transformers(source: Source, tower: Tower, pretrained: bool, key: str) -> Any:
    """The vision or text transformer in `source.folder`.

    A checkpoint of both (CLIP, Siglip) gives the one asked for. Weights are float32 whatever the file holds.

    Raises:
        UserError: transformers does not know it, or weights are missing from the file.
    """
    with importing():
        import transformers
    transformers.utils.logging.set_verbosity_error()  # what is left out of a checkpoint is left out on purpose
    transformers.utils.logging.disable_progress_bar()
    try:
        config: Any = transformers.AutoConfig.from_pretrained(source.folder)
        config = getattr(config, f"{tower}_config", config)
        with importing():
            model_class: Any = transformers.AutoModel._model_mapping[type(config)]
        options = {"add_pooling_layer": False} if "add_pooling_layer" in _arguments(model_class) else {}
        if not pretrained:
            model = model_class._from_config(config, dtype=torch.float32, **options)
        else:
            model = _load(model_class, source, config, options, key)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{key}.name={source.name}: transformers cannot load it: {error}") from None
    _strip_unused(model)
    return model


def _load(model_class: Any, source: Source, config: Any, options: dict[str, Any], key: str) -> Any:
    model, info = model_class.from_pretrained(
        source.folder, config=config, dtype=torch.float32, output_loading_info=True, **options
    )
    # A missing weight would be random without a word; poolers are dropped below and may be missing.
    missing = [name for name in info["missing_keys"] if not name.startswith(("pooler.", "head."))]
    if missing:
        raise UserError(f"{key}.name={source.name}: {len(missing)} weights are not in its files, first {missing[0]}.")
    return model


def _strip_unused(model: Any) -> None:
    """Drops what never takes part in the output: it would be listed as trained and never get a gradient."""
    if isinstance(getattr(model, "pooler", None), nn.Module):
        model.pooler = None
    if getattr(model, "use_head", False):  # Siglip's attention pooling
        model.use_head, model.head = False, None
    embeddings: Any = getattr(model, "embeddings", None)
    if isinstance(getattr(embeddings, "mask_token", None), nn.Parameter):  # only for masked pretraining
        embeddings.mask_token = None


def _arguments(model_class: Any) -> Any:
    return inspect.signature(model_class.__init__).parameters
