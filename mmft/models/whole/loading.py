"""Loads a vision-language model of transformers with its processor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from mmft.clock import importing
from mmft.errors import UserError, first_line
from mmft.models.frozen_layers import FrozenLayers
from mmft.models.loading.loaded import check_weights
from mmft.models.loading.source import Source
from mmft.models.loading.trust import check_folder

KEY = "model.whole"


Frozen = Mapping[str, FrozenLayers]
"""How linear layers of `image_encoder` and `text_encoder` are kept if they are never trained."""


def load_whole(source: Source, pretrained: bool, frozen: Frozen | None = None) -> Any:
    """The model as `AutoModelForImageTextToText` loads it, in float32 but for what is kept small.

    Args:
        source: its folder; without weights only if not `pretrained`.
        pretrained: False for random weights.
        frozen: how layers that are never trained are kept, by encoder.

    Raises:
        UserError: loading it would run code, it is another model, it cannot be loaded, or weights are missing.
    """
    where = f"{KEY}={source.name}"
    check_folder(source, KEY)
    with importing():
        import transformers
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    models: Any = transformers.AutoModelForImageTextToText
    try:
        config = transformers.AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
        if source.library != "transformers" or type(config) not in models._model_mapping:
            raise UserError(
                f"{where}: {source.config.get('model_type', source.library)} is not a whole vision-language model. "
                "Name its parts: model/fusion=projector model.image_encoder.name=... model.text_encoder.name=..."
            )
        if not pretrained:
            return models.from_config(config, dtype=torch.float32)
        from mmft.models.loading.frozen_loading import load_model

        parts_of = partial(_parts, frozen) if frozen else None
        whole, info = load_model(models, source.folder, config, parts_of, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: transformers cannot load it: {first_line(error)}") from error
    check_weights(info, where)
    return whole


def core_of(whole: Any) -> Any:
    """The module of a vision-language model that has its parts."""
    return whole.base_model if hasattr(whole.base_model, "get_image_features") else whole


def _parts(frozen: Frozen, whole: Any) -> Iterator[tuple[nn.Module, FrozenLayers]]:
    """The modules of each encoder of which layers are kept small, and how."""
    core = core_of(whole)
    if "image_encoder" in frozen:
        yield core.get_encoder(modality="image"), frozen["image_encoder"]
    if "text_encoder" in frozen:
        yield core.get_decoder(), frozen["text_encoder"]
        yield whole.get_output_embeddings(), FrozenLayers()  # often tied to the embedding: not quantized


def load_processor(source: Source) -> Any:
    """The processor in the model's folder.

    Raises:
        UserError: there is none, or a package that it needs is missing.
    """
    import transformers

    try:
        return transformers.AutoProcessor.from_pretrained(source.folder, trust_remote_code=False)
    except Exception as error:
        raise UserError(f"{KEY}={source.name}: transformers cannot load its processor: {first_line(error)}") from error
