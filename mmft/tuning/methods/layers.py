"""Methods that train a subset of an encoder's own parameters, chosen by layer, name or kind."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mmft.models.encoder import Encoder
from mmft.tuning.methods.base import Start, TuningMethod, usable


class Full(TuningMethod):
    """Trains every parameter."""

    name = "full"
    default_lr = 5e-5

    def trained(self, encoder: Encoder) -> set[str]:
        """All parameters that contribute to the output."""
        return usable(encoder)


class Freeze(TuningMethod):
    """Trains nothing; the encoder stays in eval mode, its buffers unchanged."""

    name = "freeze"
    default_lr = 0.0
    trains_layers = False

    def trained(self, encoder: Encoder) -> set[str]:
        """None."""
        return set()


class _ByLayer(TuningMethod):
    """Base: selects by a number of layers; a ConvNet's layers are its stages.

    Args:
        key: as in `TuningMethod`.
        layers: number of layers; None for 1.
        lr: as in `TuningMethod`.
    """

    default_lr = 5e-5

    def __init__(self, key: str, layers: int | None = None, lr: float | None = None) -> None:
        super().__init__(key, lr)
        self.layers = 1 if layers is None else layers


class LastN(_ByLayer):
    """Trains the last layers and the final norm."""

    name = "last_n"

    def trained(self, encoder: Encoder) -> set[str]:
        """The parameters of the last layers and the final norm."""
        blocks = encoder.top_layer - 1
        if self.layers > blocks:
            raise self.error(
                "layers", f"{self.layers} is more than the {blocks} layers of {encoder.source.name}. Type tune=full"
            )
        return _from_layer(encoder, encoder.top_layer - self.layers)


class FirstFrozen(_ByLayer):
    """Freezes the embeddings and the first layers and trains the rest; 0 layers freezes only the embeddings."""

    name = "first_frozen"

    def trained(self, encoder: Encoder) -> set[str]:
        """The parameters above the frozen layers."""
        blocks = encoder.top_layer - 1
        if self.layers >= blocks:
            raise self.error("layers", f"{self.layers} freezes all {blocks} layers of {encoder.source.name}")
        return _from_layer(encoder, self.layers + 1)


class Pattern(TuningMethod):
    """Trains the parameters whose names match a regular expression.

    Args:
        key: as in `TuningMethod`.
        pattern: searched for in the library's parameter names (`blocks.11.mlp.fc1.weight`).
        lr: as in `TuningMethod`.
    """

    name = "pattern"
    default_lr = 5e-5

    def __init__(self, key: str, pattern: str, lr: float | None = None) -> None:
        super().__init__(key, lr)
        self.pattern = pattern

    def trained(self, encoder: Encoder) -> set[str]:
        """The matching parameters."""
        names = usable(encoder)
        found = {name for name in names if re.search(self.pattern, name.removeprefix("backbone."))}
        if not found:
            some = ", ".join(sorted(name.removeprefix("backbone.") for name in names)[:3])
            raise self.error("pattern", f"{self.pattern!r} matches no parameter of {encoder.source.name} ({some}, ...)")
        return found


class Gradual(TuningMethod):
    """Gradual unfreezing from the top layer down (Howard and Ruder 2018, arXiv 1801.06146).

    Args:
        key: as in `TuningMethod`.
        schedule: epoch or optimizer step -> number of last layers trained from then on, -1 for the whole encoder.
            None for the last layer from 0, all from 1.
        unit: unit of the schedule, `epoch` or `step`.
        warmup: optimizer steps of learning-rate warm-up for a newly unfrozen layer.
        lr: as in `TuningMethod`.
    """

    name = "gradual"
    default_lr = 5e-5

    def __init__(
        self,
        key: str,
        schedule: Mapping[int, int] | None = None,
        unit: str = "epoch",
        warmup: int = 0,
        lr: float | None = None,
    ) -> None:
        super().__init__(key, lr)
        self.schedule = dict(sorted(({0: 1, 1: -1} if schedule is None else schedule).items()))
        self.unit, self.warmup = unit, warmup

    def trained(self, encoder: Encoder) -> set[str]:
        """The parameters of all layers that are unfrozen at any time."""
        return _from_layer(encoder, self._lowest(encoder, max(self.schedule)))

    def starts(self, encoder: Encoder) -> dict[int, Start]:
        """Each layer starts at the first schedule entry that includes it."""
        found: dict[int, Start] = {}
        for at in self.schedule:
            for layer in range(self._lowest(encoder, at), encoder.top_layer + 1):
                found.setdefault(layer, Start(at, self.unit, self.warmup if at else 0))
        return {layer: start for layer, start in found.items() if start.at}

    def _lowest(self, encoder: Encoder, at: int) -> int:
        count, blocks = self.schedule[at], encoder.top_layer - 1
        if count > blocks:
            raise self.error(
                "schedule", f"{at}: {count} is more than the {blocks} layers of {encoder.source.name}; -1 is all of it"
            )
        return 0 if count < 0 else encoder.top_layer - count


class BitFit(TuningMethod):
    """Trains only biases (Ben Zaken et al. 2022, arXiv 2106.10199)."""

    name = "bitfit"
    default_lr = 5e-4
    trains_layers = False

    def trained(self, encoder: Encoder) -> set[str]:
        """The biases."""
        return self._checked(encoder, biases(encoder), "biases")

    def _checked(self, encoder: Encoder, found: set[str], what: str) -> set[str]:
        if not found:
            raise self.error("", f"{encoder.source.name} has no {what}. Choose another method")
        return found


class Norms(BitFit):
    """Trains only weights and biases of norms (Zhao et al. 2024, arXiv 2312.11420); running statistics stay fixed."""

    name = "norms"
    default_lr = 5e-4

    def trained(self, encoder: Encoder) -> set[str]:
        """The norms' parameters."""
        return self._checked(encoder, norms(encoder), "norms with weights")


def biases(encoder: Encoder) -> set[str]:
    """Names of all biases that contribute to the output."""
    return {name for name in usable(encoder) if name.endswith(("bias", "_bias"))}


def norms(encoder: Encoder) -> set[str]:
    """Names of the norms' parameters that contribute to the output, found by module type or by class name."""
    found = {
        f"{name}.{own}"
        for name, module in encoder.named_modules()
        if _is_norm(module)
        for own, _ in module.named_parameters(recurse=False)
    }
    return found & usable(encoder)


def _from_layer(encoder: Encoder, lowest: int) -> set[str]:
    layers = encoder.layers()
    return {name for name in usable(encoder) if layers[name] >= lowest}


def _is_norm(module: nn.Module) -> bool:
    torchs = isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm))
    return torchs or type(module).__name__.endswith(("Norm", "Norm2d"))
