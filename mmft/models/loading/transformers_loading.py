"""Loads one encoder of a transformers checkpoint in float32, without decoder, heads, and poolers that are not used."""

from __future__ import annotations

import inspect
import sys
from typing import Any, Literal

import torch
from torch import nn

from mmft.clock import importing
from mmft.config.plugins import FLAG, allowed
from mmft.errors import UserError, first_line
from mmft.models.loading.loaded import check_shapes
from mmft.models.loading.source import Source
from mmft.models.loading.trust import check_folder

Encoder = Literal["vision", "text"]


def load_transformers(source: Source, encoder: Encoder, pretrained: bool, key: str, own_pool: bool = False) -> Any:
    """The vision or text transformer in `source.folder`.

    From a checkpoint of both (CLIP, Siglip), or of encoder and decoder (T5, BART), only the requested encoder is
    returned. Weights are always float32.

    Args:
        source: of the encoder.
        encoder: which one of a checkpoint of both.
        pretrained: False for random weights.
        key: the config key of the encoder, for messages.
        own_pool: whether it pools by its own pooling layer, which is left out otherwise.

    Raises:
        UserError: loading it would run code, transformers does not support it, or weights are missing from the file.
    """
    check_folder(source, key)
    with importing():
        import transformers
    transformers.utils.logging.set_verbosity_error()  # unused weights of a checkpoint are skipped on purpose
    transformers.utils.logging.disable_progress_bar()
    try:
        config: Any = transformers.AutoConfig.from_pretrained(source.folder, trust_remote_code=allowed())
        config = getattr(config, f"{encoder}_config", config)
        with importing():
            model_class = _own_class(config, source) or _class_of(transformers, config, encoder)
        _check_inputs(model_class, encoder, source, key)
        options = {} if own_pool else _pooling(model_class, config)
        if not pretrained:
            model = model_class._from_config(config, dtype=torch.float32, **options)
        else:
            model = _load(model_class, source, config, options, key, own_pool)
        if _is_encoder_and_decoder(model_class, config):
            model = model.get_encoder()
            _check_inputs(type(model), encoder, source, key)
            if not isinstance(model, transformers.PreTrainedModel):
                raise UserError(f"{key}.name={source.name}: {type(model).__name__} cannot be used without its decoder.")
        _strip_unused(model)
        if not own_pool:
            _strip_poolers(model)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{key}.name={source.name}: transformers cannot load it: {first_line(error)}") from error
    if getattr(model.config, "use_cache", False):  # of keys and values, for generation
        model.config.use_cache = False
    return model


def _own_class(config: Any, source: Source) -> Any:
    """The model class of the folder's own code; None if it names none, or the command does not allow it to run."""
    named = (getattr(config, "auto_map", None) or {}).get("AutoModel")
    if named is None or not allowed():
        return None
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    model_class: Any = get_class_from_dynamic_module(named, str(source.folder))
    model_class.register_for_auto_class("AutoModel")  # so that an export has the code
    return model_class


def _class_of(transformers: Any, config: Any, encoder: Encoder) -> Any:
    """The model class of a config; AutoModel lacks some encoders of a pair (SigLIP's text, ChineseCLIP's)."""
    from transformers.models.auto.auto_factory import _get_model_class

    kind = type(config)
    if encoder == "text" and kind in transformers.AutoModelForTextEncoding._model_mapping:
        return _get_model_class(config, transformers.AutoModelForTextEncoding._model_mapping)
    by_name = getattr(transformers, kind.__name__.replace("Config", "Model"), None)
    if kind not in transformers.AutoModel._model_mapping and by_name is not None:
        return by_name
    model_class = _get_model_class(config, transformers.AutoModel._model_mapping)
    # An encoder that mmft has taken out of a BART and exported; transformers names it, but maps only the BART.
    alone = next((name for name in config.architectures or () if name.endswith("Encoder")), "")
    return getattr(sys.modules[model_class.__module__], alone, model_class)


def _is_encoder_and_decoder(model_class: Any, config: Any) -> bool:
    return bool(config.is_encoder_decoder) and "decoder_input_ids" in inspect.signature(model_class.forward).parameters


def _check_inputs(model_class: Any, encoder: Encoder, source: Source, key: str) -> None:
    """Rejects the wrong kind of encoder, and inputs beyond pixels or ids, before weights are read."""
    given = {"vision": "pixel_values", "text": "input_ids"}
    accepts = inspect.signature(model_class.forward).parameters
    if given[encoder] not in accepts:
        other = "text" if encoder == "vision" else "image"
        hint = f" It is a text encoder: model.{other}_encoder.name" if "input_ids" in accepts else ""
        hint = f" It is an image encoder: model.{other}_encoder.name" if "pixel_values" in accepts else hint
        raise UserError(f"{key}.name={source.name}: {model_class.__name__} does not take {given[encoder]}.{hint}")
    needs = [
        name
        for name, p in accepts.items()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and name not in ("self", given[encoder])
    ]
    if needs:
        raise UserError(
            f"{key}.name={source.name}: {model_class.__name__} also needs {', '.join(needs)}, which mmft does not "
            "provide. Choose an encoder with a fixed image size (Siglip, Dinov2, CLIP, any of timm)."
            if encoder == "vision"
            else f"{key}.name={source.name}: {model_class.__name__} also needs {', '.join(needs)}."
        )


_DROPPED = ".mask_token"
"""A weight that may be missing, since `_strip_unused` drops it."""


def _pooling(model_class: Any, config: Any) -> dict[str, Any]:
    """Options that build a pooler only if it contains the encoder's final norm (BEiT, Data2Vec, Hiera)."""
    if "add_pooling_layer" not in inspect.signature(model_class.__init__).parameters:
        return {}
    return {"add_pooling_layer": bool(getattr(config, "use_mean_pooling", config.model_type == "hiera"))}


def _load(model_class: Any, source: Source, config: Any, options: dict[str, Any], key: str, own_pool: bool) -> Any:
    model, info = model_class.from_pretrained(
        source.folder,
        config=config,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    check_shapes(info, f"{key}.name={source.name}")
    # A missing weight would silently be random. Poolers may be missing where they are dropped below.
    poolers = [name for name in info["missing_keys"] if name.startswith(("pooler.", "head."))]
    if own_pool and poolers:
        raise UserError(
            f"{key}.pool=own: the files of {source.name} have no weights of its pooling layer ({poolers[0]}), which "
            f"would be random. Type {key}.pool=mean, or choose a checkpoint with them"
        )
    missing = [name for name in info["missing_keys"] if name not in poolers and not name.endswith(_DROPPED)]
    if missing:
        hint = f" It names code of its own, which {FLAG} would run." if source.config.get("auto_map") else ""
        raise UserError(
            f"{key}.name={source.name}: {len(missing)} weights are not in its files, first {missing[0]}.{hint}"
        )
    if any(name.startswith("pooler.") for name in poolers):  # saved without one: no norm to keep
        model.pooler = None
    return model


def _strip_poolers(model: Any) -> None:
    """Drops pooling layers whose output is not used: they would be listed as trained but get no gradient."""
    pooler = getattr(model, "pooler", None)
    # A ResNet always calls its pooler, which has no parameters; a BEiT's holds the final norm.
    if isinstance(pooler, nn.Module) and any(True for _ in pooler.parameters()) and pooled_norm(model) is None:
        model.pooler = None
    if getattr(model, "use_head", False):  # Siglip's attention pooling
        model.use_head, model.head = False, None
    if isinstance(getattr(model, "head", None), nn.Linear):  # of SigLIP's text encoder, on its last token
        model.head = nn.Identity()


def _strip_unused(model: Any) -> None:
    """Drops what contributes to no output but that of masked pretraining."""
    embeddings: Any = getattr(model, "embeddings", None)
    if isinstance(getattr(embeddings, "mask_token", None), nn.Parameter):  # only for masked pretraining
        embeddings.mask_token = None
    if hasattr(model.config, "mask_ratio"):  # ViT-MAE masks random patches, even in eval mode
        model.config.mask_ratio = 0.0


def last_hidden_state(output: Any) -> Any:
    """The features in a model's output.

    Raises:
        ValueError: it has none, as of a model that only pools or classifies.
    """
    if (found := getattr(output, "last_hidden_state", None)) is None:
        raise ValueError("its output has no features of tokens (last_hidden_state)")
    return found


def pooled_norm(model: Any) -> nn.LayerNorm | None:
    """The final norm in the pooler of a BEiT, Data2Vec or Hiera, applied to pooled features; None for others."""
    norm = getattr(getattr(model, "pooler", None), "layernorm", None)
    return norm if isinstance(norm, nn.LayerNorm) else None
