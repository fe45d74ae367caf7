"""Which layers a method that adds something is put into, by names that mean the same on any encoder.

What is in the blocks counts, and only that: a pooler or a head behind them may get no gradient, a patch embedding or a
stem is not what these methods were made for. A linear layer below a module that is called attention (`attn`,
`self_attn`, `attention`, `SelfAttention`) is one of `attention`; every other one is one of `mlp`.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from mmft.errors import UserError
from mmft.models.encoder import Encoder
from mmft.models.layers import module_layers

ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)


def target_modules(encoder: Encoder, key: str, targets: str | None, pattern: str | None) -> list[str]:
    """Names of modules of `encoder.backbone`, in their order: linear layers, or a ConvNet's convolutions.

    Args:
        encoder: before anything was added to it.
        key: the config's key of the method, for messages.
        targets: `attention`, `mlp`, `all`; None: attention, or all where there is none.
        pattern: instead of it, a regular expression that is searched for in the names.

    Raises:
        UserError: there are none.
    """
    linear = _matrices(encoder)
    attention = {name for name in linear if ATTENTION.search(name)}
    if pattern is not None:
        chosen = [name for name in linear if re.search(pattern, name)]
        return _some(chosen, f"{key}.pattern: {pattern!r} is found in no layer of {encoder.source.name}", linear)
    if targets is None:
        targets = "attention" if attention else "all"
    wanted = {"attention": attention, "mlp": linear.keys() - attention, "all": linear.keys()}[targets]
    chosen = [name for name in linear if name in wanted]
    return _some(chosen, f"{key}.targets={targets}: {encoder.source.name} has no such layers", linear)


def modules_of_blocks(encoder: Encoder) -> dict[str, nn.Module]:
    """Every module in the blocks of `encoder.backbone`, the blocks among them, by name."""
    modules = dict(encoder.backbone.named_modules())
    layers, top = module_layers(encoder.backbone), encoder.top_layer  # which costs a walk through the encoder
    return {name: modules[name] for name, layer in layers.items() if 0 < layer < top}


def _matrices(encoder: Encoder) -> dict[str, nn.Module]:
    """The linear layers of the blocks; where there are none, as in a ResNet, their convolutions."""
    inside = modules_of_blocks(encoder)
    linear = {name: module for name, module in inside.items() if is_linear(module)}
    return linear or {name: module for name, module in inside.items() if _is_plain_convolution(module)}


def is_linear(module: nn.Module) -> bool:
    """A layer that multiplies by one matrix, and that its owner calls, so that another can take its place."""
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"  # transformers' linear of GPT-2


def _is_plain_convolution(module: Any) -> bool:
    """No depthwise one, whose weights are no matrix of a rank worth lowering."""
    return isinstance(module, nn.Conv2d) and module.groups == 1


def _some(chosen: list[str], problem: str, there: dict[str, nn.Module]) -> list[str]:
    if not chosen:
        some = ", ".join(list(there)[:4])
        raise UserError(f"{problem}; its blocks have {some or 'no linear layer and no convolution'}, ...")
    return chosen
