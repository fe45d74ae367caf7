"""Loads a transformers model whose frozen layers are kept small, one weight after the other.

transformers lets a quantizer of one's own decide what becomes of each weight as it is read from the file, so that the
whole model is never in memory in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from mmft.models.frozen_layers import FrozenLayers, kept_layers

Parts = Iterable[tuple[nn.Module, FrozenLayers]]
_METHOD = "mmft"


class _Config(QuantizationConfigMixin):
    """What the quantizer knows: `parts_of` of `load_model`."""

    def __init__(self, parts_of: Callable[[Any], Parts]) -> None:
        self.quant_method = _METHOD  # type: ignore[assignment] # any registered name
        self.parts_of = parts_of


@register_quantizer(_METHOD)
class _Quantizer(HfQuantizer):
    """Keeps the weights of some layers small as they are read."""

    def __init__(self, quantization_config: Any, **options: Any) -> None:
        super().__init__(quantization_config, **options)
        self.layers: dict[str, FrozenLayers] = {}

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        parts = self.quantization_config.parts_of(model)  # type: ignore[attr-defined]
        self.layers = kept_layers(model, parts)

    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        """Whether it is the weight of such a layer."""
        del model
        return param_name.endswith(".weight") and param_name.removesuffix(".weight") in self.layers

    def get_quantize_ops(self) -> ConversionOps:
        """What is done to each of these weights."""
        return _Keep(self.layers)

    def is_serializable(self) -> bool:
        """No."""
        return False

    @property
    def is_trainable(self) -> bool:
        """Yes."""
        return True


class _Keep(ConversionOps):
    """Turns the weight of a layer into how it is kept."""

    def __init__(self, layers: Mapping[str, FrozenLayers]) -> None:
        self.layers = layers

    @torch.no_grad()
    def convert(self, input_dict: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        """Parameter name -> float32 values (or a list of one) to parameter name -> parameter."""
        found = {}
        for name, given in input_dict.items():
            layer = name.removesuffix(".weight")
            values = given[0] if isinstance(given, list) else given
            found[name] = self.layers[layer].weight(values)
        return found


def load_model(
    models: Any, folder: Path, config: Any, parts_of: Callable[[Any], Parts] | None, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """A model in float32 but for layers that are kept small, and what transformers tells about loading it.

    Args:
        models: an Auto class of transformers.
        folder: of the model.
        config: of the model.
        parts_of: from the model, without weights, to parts of which layers are kept small, and how; None for nothing.
        options: of `from_pretrained`.
    """
    if parts_of is not None and getattr(config, "quantization_config", None) is None:
        options["quantization_config"] = _Config(parts_of)
    model, told = models.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    if "quantization_config" in options:
        layers = model.hf_quantizer.layers
        model.hf_quantizer.remove_quantization_config(model)  # else transformers refuses to convert or save it
        for module in model.modules():
            vars(getattr(module, "config", module)).pop("_is_quantized", None)
        for name, frozen in layers.items():
            model.set_submodule(name, frozen.layer(model.get_submodule(name)))
    return model, told
