"""Loads a vision-language model of transformers with its processor."""

from __future__ import annotations

from typing import Any

import torch

from mmft.clock import importing
from mmft.errors import UserError, first_line
from mmft.models.source import Source
from mmft.models.trust import check_folder

KEY = "model.whole"


def load_whole(source: Source, pretrained: bool) -> Any:
    """The model as `AutoModelForImageTextToText` loads it, in float32.

    Args:
        source: its folder; without weights only if not `pretrained`.
        pretrained: False for random weights.

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
        whole, info = models.from_pretrained(
            source.folder, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: transformers cannot load it: {first_line(error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"{where}: {len(missing)} weights are not in its files, first {missing[0]}.")
    return whole


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
