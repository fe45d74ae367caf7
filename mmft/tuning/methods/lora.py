"""Methods that add something small to linear layers, through peft: LoRA, the same over 8 or 4 bits, LoHa, IA3."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, ClassVar

from mmft.models.encoder import Encoder
from mmft.tuning.methods.base import TuningMethod, usable
from mmft.tuning.methods.layers import biases, norms
from mmft.tuning.quantize import Bits, dequantize, quantize
from mmft.tuning.targets import target_modules


class Added(TuningMethod):
    """Base: peft puts something into the encoder's linear layers, and only that is trained.

    Args:
        key: as in `TuningMethod`.
        targets: `attention`, `mlp` or `all`; None: attention, or all where there is none.
        pattern: instead of it, a regular expression for the layers' names.
        biases: the encoder's biases are trained too.
        norms: weights and biases of the encoder's norms are trained too.
        lr: as in `TuningMethod`.
    """

    default_lr = 5e-4
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

    def apply(self, encoder: Encoder) -> None:
        """Quantizes the encoder's linear layers if the method does, and puts peft's layers around the chosen ones."""
        from peft import inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        modules = target_modules(encoder, self.key, self.targets, self.pattern)
        if self.bits is not None and not quantize(encoder, self.bits):
            raise self.error(
                "", f"{encoder.source.name} has no linear layers to quantize. Type {self.key.replace('.', '/')}=lora"
            )
        taking_part = {id(p) for p in encoder.parameters() if p.requires_grad}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="peft")  # about how a model of its own would be saved
            inject_adapter_in_model(self.config(modules), encoder.backbone)
        self._added = {name for name, p in encoder.named_parameters() if p.requires_grad}
        for parameter in encoder.parameters():  # peft has frozen all others
            parameter.requires_grad_(parameter.requires_grad or id(parameter) in taking_part)
        encoder.adapters = {name for name, module in encoder.named_modules() if isinstance(module, BaseTunerLayer)}

    def trained(self, encoder: Encoder) -> set[str]:
        """What was added, and biases and norms if they are asked for."""
        found = set(self._added)
        if self.biases:
            found |= biases(encoder)
        if self.norms:
            found |= norms(encoder)
        return found & usable(encoder)

    def merge(self, encoder: Encoder) -> None:
        """Adds what was learned to the weights, in float32, and takes peft's layers out."""
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
    """Base: what is added to a weight is of low rank, or made of such.

    Args:
        key: as in `TuningMethod`.
        rank: None: 8.
        alpha: an addition is multiplied by alpha / rank; None: twice the rank.
        dropout: None: 0.
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
        rslora: alpha / sqrt(rank) instead (arXiv 2312.03732).
        dora: lengths and directions of the weights apart (arXiv 2402.09353).
        others: as in `LowRank`; dropout is in front of A.
    """

    name = "lora"
    # Chosen on validation rows with DINOv2-small and MiniLM-L6, rank 8: 0.787 at 5e-4, 0.807 at 2e-3, mean of 3 seeds;
    # 4e-3 is too much. On the shipped sample 0.750 and 0.766.
    default_lr = 2e-3

    def __init__(self, key: str, rslora: bool = False, dora: bool = False, **others: Any) -> None:
        super().__init__(key, **others)
        self.rslora, self.dora = rslora, dora

    def config(self, modules: list[str]) -> Any:
        """Peft's `LoraConfig`."""
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type] # a float works as well
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
            use_dora=self.dora,
            target_modules=modules,
            bias="none",
        )


class LoRA8bit(LoRA):
    """LoRA over frozen linear weights in 8 bits (Dettmers et al. 2022, arXiv 2208.07339)."""

    name = "lora_8bit"
    bits = 8


class LoRA4bit(LoRA):
    """LoRA over frozen linear weights in 4 bits, NF4 (Dettmers et al. 2023, arXiv 2305.14314)."""

    name = "lora_4bit"
    bits = 4


class LoHa(LowRank):
    """Low-rank Hadamard products (Hyeon-Woo et al. 2022, arXiv 2108.06098).

    The rank is that of each factor; dropout leaves out that share of an addition's rows in training.
    """

    name = "loha"

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
    """One learned factor for every output of the layers, 1 at first (Liu et al. 2022, arXiv 2205.05638)."""

    name = "ia3"
    default_lr = 5e-3

    def config(self, modules: list[str]) -> Any:
        """Peft's `IA3Config`; all layers are scaled at their output."""
        from peft import IA3Config

        return IA3Config(target_modules=modules, feedforward_modules=[])
