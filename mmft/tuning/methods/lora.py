"""Methods that adapt linear layers through peft: LoRA, LoRA on 8-bit or 4-bit weights, LoHa, IA3."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, ClassVar

from mmft.models.encoder import Encoder
from mmft.models.frozen_layers import FrozenLayers
from mmft.tuning.methods.base import TuningMethod, usable
from mmft.tuning.methods.layers import biases, norms
from mmft.tuning.quantize import Bits, Quantized, dequantize, quantize
from mmft.tuning.targets import target_modules


class Added(TuningMethod):
    """Base: peft adds parameters to the encoder's linear layers, and only these are trained.

    Args:
        key: as in `TuningMethod`.
        targets: `attention`, `mlp` or `all`; None for attention, or all without attention.
        pattern: instead of `targets`, a regular expression for the layers' names.
        biases: whether to train the encoder's biases, too.
        norms: whether to train weights and biases of the encoder's norms, too.
        lr: as in `TuningMethod`.
    """

    default_lr = 5e-4
    trains_layers = False
    bits: ClassVar[Bits | None] = None

    def __init__(
        self,
        key: str,
        targets: str | None = None,
        pattern: str | None = None,
        biases: bool = False,
        norms: bool = False,
        lr: float | None = None,
    ) -> None:
        super().__init__(key, lr)
        self.targets, self.pattern = targets, pattern
        self.biases, self.norms = biases, norms

    @abstractmethod
    def config(self, modules: list[str]) -> Any:
        """Peft's config for these modules."""

    def frozen_layers(self) -> FrozenLayers:
        """Quantized if `bits` is set, else in 16 bits where these hold the weights."""
        return FrozenLayers() if self.bits is None else Quantized(self.bits)

    def apply(self, encoder: Encoder) -> None:
        """Quantizes the encoder's linear layers if `bits` is set, and wraps the target layers in peft's."""
        from peft import inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        modules = target_modules(encoder, self.key, self.targets, self.pattern)
        if self.bits is not None and not quantize(encoder, self.bits):
            raise self.error(
                "", f"{encoder.source.name} has no linear layers to quantize. Type {self.key.replace('.', '/')}=lora"
            )
        taking_part = {id(p) for p in encoder.parameters() if p.requires_grad}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="peft")  # about saving a peft model, which we do not
            inject_adapter_in_model(self.config(modules), encoder.backbone)
        self._added = {name for name, p in encoder.named_parameters() if p.requires_grad}
        for parameter in encoder.parameters():  # peft has frozen all others: unfreeze
            parameter.requires_grad_(parameter.requires_grad or id(parameter) in taking_part)
        encoder.adapters = {name for name, module in encoder.named_modules() if isinstance(module, BaseTunerLayer)}

    def trained(self, encoder: Encoder) -> set[str]:
        """The added parameters, and biases and norms if requested."""
        found = set(self._added)
        if self.biases:
            found |= biases(encoder)
        if self.norms:
            found |= norms(encoder)
        return found & usable(encoder)

    def merge(self, encoder: Encoder) -> None:
        """Merges the learned update into the weights, in float32, and removes peft's layers."""
        if self.bits is not None:
            dequantize(encoder)
        for name in sorted(encoder.adapters):
            layer: Any = encoder.get_submodule(name)
            if self.bits is None:
                layer.merge(safe_merge=True)
            else:  # peft would quantize the sum again
                layer.get_base_layer().weight.data += layer.get_delta_weight("default")
            encoder.set_submodule(name, layer.get_base_layer())
        encoder.adapters = set()


class LowRank(Added):
    """Base: weight updates of low rank, or composed of such.

    Args:
        key: as in `TuningMethod`.
        rank: None for 8.
        alpha: the update is scaled by alpha / rank; None for twice the rank.
        dropout: None for 0.
        others: as in `Added`.
    """

    def __init__(
        self,
        key: str,
        rank: int | None = None,
        alpha: float | None = None,
        dropout: float | None = None,
        **others: Any,
    ) -> None:
        super().__init__(key, **others)
        self.rank = 8 if rank is None else rank
        self.alpha = 2.0 * self.rank if alpha is None else alpha
        self.dropout = dropout or 0.0


class LoRA(LowRank):
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): W x + (alpha / rank) B A x, with B zero at first.

    Args:
        key: as in `TuningMethod`.
        rslora: scale by alpha / sqrt(rank) instead (arXiv 2312.03732).
        dora: train magnitude and direction of the weights separately (arXiv 2402.09353).
        others: as in `LowRank`; dropout is applied to the input of A.
    """

    name = "lora"
    default_lr = 2e-3  # best on validation rows, see docs/decisions.md
    kept_factors = frozenset({"lora_A"})

    def __init__(self, key: str, rslora: bool | None = None, dora: bool | None = None, **others: Any) -> None:
        super().__init__(key, **others)
        self.rslora, self.dora = bool(rslora), bool(dora)

    def config(self, modules: list[str]) -> Any:
        """Peft's `LoraConfig`."""
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type] # a float works, too
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
            use_dora=self.dora,
            target_modules=modules,
            bias="none",
        )


class LoRA8bit(LoRA):
    """LoRA on frozen 8-bit linear weights (Dettmers et al. 2022, arXiv 2208.07339)."""

    name = "lora_8bit"
    bits = 8


class LoRA4bit(LoRA):
    """LoRA on frozen 4-bit linear weights, NF4 (Dettmers et al. 2023, arXiv 2305.14314)."""

    name = "lora_4bit"
    bits = 4


class LoHa(LowRank):
    """Low-rank Hadamard products (Hyeon-Woo et al. 2022, arXiv 2108.06098).

    The rank is that of each factor; dropout drops rows of the weight update in training.
    """

    name = "loha"
    kept_factors = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_t1", "hada_t2"})

    def config(self, modules: list[str]) -> Any:
        """Peft's `LoHaConfig`."""
        from peft import LoHaConfig

        return LoHaConfig(
            r=self.rank,
            alpha=self.alpha,  # type: ignore[arg-type]
            rank_dropout=self.dropout,
            target_modules=modules,
        )


class IA3(Added):
    """Learned scaling of every output feature of the layers, 1 at first (Liu et al. 2022, arXiv 2205.05638)."""

    name = "ia3"
    default_lr = 5e-3

    def config(self, modules: list[str]) -> Any:
        """Peft's `IA3Config`, with all layers scaled at their output."""
        from peft import IA3Config

        return IA3Config(target_modules=modules, feedforward_modules=[])
