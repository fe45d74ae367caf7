"""Methods that train some of an encoder's own parameters: by layer, by name, by kind."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mmft.models.encoder import Encoder
from mmft.tuning.methods.base import Start, TuningMethod, usable


class Full(TuningMethod):
    """Every parameter is trained."""

    name = "full"
    default_lr = 5e-5

    def trained(self, encoder: Encoder) -> set[str]:
        """All that take part in the output."""
        return usable(encoder)


class Freeze(TuningMethod):
    """Nothing is trained; the encoder stays in eval mode, its buffers unchanged."""

    name = "freeze"
    default_lr = 0.0

    def trained(self, encoder: Encoder) -> set[str]:
        """None."""
        return set()


class _ByLayer(TuningMethod):
    """Base: a number of layers says what is trained; a ConvNet's layers are its stages.

    Args:
        key: as in `TuningMethod`.
        layers: how many; None: 1.
        lr: as in `TuningMethod`.
    """

    default_lr = 5e-5

    def __init__(self, key: str, layers: int | None = None, lr: float | None = None) -> None:
        super().__init__(key, lr)
        self.layers = 1 if layers is None else layers


class LastN(_ByLayer):
    """The last layers are trained, and the norm behind them."""

    name = "last_n"

    def trained(self, encoder: Encoder) -> set[str]:
        """Those of the last layers."""
        blocks = encoder.top_layer - 1
        if self.layers > blocks:
            raise self.error(
                "layers", f"{self.layers} is more than the {blocks} of {encoder.source.name}. Type tune=full"
            )
        return _from_layer(encoder, encoder.top_layer - self.layers)


class FirstFrozen(_ByLayer):
    """The embeddings and the first layers stay as they are, all others are trained; with 0 the embeddings alone do."""

    name = "first_frozen"

    def trained(self, encoder: Encoder) -> set[str]:
        """Those above."""
        blocks = encoder.top_layer - 1
        if self.layers >= blocks:
            raise self.error("layers", f"{self.layers} leaves nothing of the {blocks} of {encoder.source.name}")
        return _from_layer(encoder, self.layers + 1)


class Pattern(TuningMethod):
    """The parameters whose names a regular expression finds are trained.

    Args:
        key: as in `TuningMethod`.
        pattern: searched for in names as the library has them (`blocks.11.mlp.fc1.weight`).
        lr: as in `TuningMethod`.
    """

    name = "pattern"
    default_lr = 5e-5

    def __init__(self, key: str, pattern: str, lr: float | None = None) -> None:
        super().__init__(key, lr)
        self.pattern = pattern

    def trained(self, encoder: Encoder) -> set[str]:
        """Those that are found."""
        names = usable(encoder)
        found = {name for name in names if re.search(self.pattern, name.removeprefix("backbone."))}
        if not found:
            some = ", ".join(sorted(name.removeprefix("backbone.") for name in names)[:3])
            raise self.error("pattern", f"{self.pattern!r} is in no parameter of {encoder.source.name} ({some}, ...)")
        return found


class Gradual(TuningMethod):
    """Layers join from the top down while training goes on (Howard and Ruder 2018, arXiv 1801.06146).

    Args:
        key: as in `TuningMethod`.
        schedule: how many of the last layers are trained from which epoch or optimizer step on; -1: all of the encoder.
            None: the last one from 0, all from 1.
        unit: `epoch` or `step`: what the schedule counts.
        warmup: optimizer steps over which a layer that joins comes to its full rate.
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
        """All that ever join."""
        return _from_layer(encoder, self._lowest(encoder, max(self.schedule)))

    def starts(self, encoder: Encoder) -> dict[int, Start]:
        """The first entry of the schedule that has the layer."""
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
    """Biases alone are trained (Ben Zaken et al. 2022, arXiv 2106.10199)."""

    name = "bitfit"
    default_lr = 5e-4

    def trained(self, encoder: Encoder) -> set[str]:
        """The biases."""
        return self._checked(encoder, biases(encoder), "biases")

    def _checked(self, encoder: Encoder, found: set[str], what: str) -> set[str]:
        if not found:
            raise self.error("", f"{encoder.source.name} has no {what}. Choose another method")
        return found


class Norms(BitFit):
    """Weights and biases of norms alone are trained (Zhao et al. 2024, arXiv 2312.11420); statistics stay."""

    name = "norms"
    default_lr = 5e-4

    def trained(self, encoder: Encoder) -> set[str]:
        """The norms' own."""
        return self._checked(encoder, norms(encoder), "norms with weights")


def biases(encoder: Encoder) -> set[str]:
    """Names of all biases that take part."""
    return {name for name in usable(encoder) if name.endswith(("bias", "_bias"))}


def norms(encoder: Encoder) -> set[str]:
    """Names of all norms' parameters that take part, by the module's type, or its name where a library has its own."""
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
