"""Pairs in transformers' format."""

from __future__ import annotations

from typing import Any

import torch

from mmft.clock import importing
from mmft.errors import UserError, first_line
from mmft.models.loading.loaded import check_weights
from mmft.models.loading.source import Source
from mmft.models.loading.trust import check_folder


def load_whole(source: Source, pretrained: bool, key: str) -> Any:
    """The whole model of transformers' own class for a pair, in float32.

    Args:
        source: a folder of transformers; without weights only if not `pretrained`.
        pretrained: False for random weights.
        key: the config key of the name, for messages.

    Raises:
        UserError: loading it would run code, it cannot be loaded, or weights are missing from its files.
    """
    check_folder(source, key)
    with importing():
        import transformers
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        if pretrained:
            model, info = transformers.AutoModel.from_pretrained(
                source.folder,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
            )
        else:
            config = transformers.AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
            model, info = transformers.AutoModel.from_config(config, dtype=torch.float32), {"missing_keys": []}
    except Exception as error:
        raise UserError(f"{key}={source.name}: transformers cannot load it: {first_line(error)}") from error
    check_weights(info, f"{key}={source.name}")
    return model
