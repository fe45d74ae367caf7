"""`tune`: what is trained. `tune=X` sets both encoders: `tune/image_encoder=X` and `tune/text_encoder=X`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, option, options
from mmft.config.schema.model import ENCODERS

Targets = Literal["attention", "mlp", "all"]
T = TypeVar("T", bound="EncoderTuneConfig")


@dataclass(kw_only=True)
class EncoderTuneConfig(OptionConfig):
    """Base of the tuning methods of one encoder."""


def either_encoder(name: str, builds: str | Callable[..., Any]) -> Callable[[type[T]], type[T]]:
    """Class decorator: registers a method under `tune/image_encoder` and `tune/text_encoder`."""

    def register(schema: type[T]) -> type[T]:
        for encoder in ENCODERS:
            own = {"__doc__": schema.__doc__, "__module__": schema.__module__}
            option(f"tune/{encoder}", name, builds)(type(f"{encoder}_{schema.__name__}", (schema,), own))
        return schema

    return register


def both_encoders() -> list[str]:
    """The methods that either encoder can have: `tune=NAME` gives it to both."""
    image, text = (options(f"tune/{encoder}") for encoder in ENCODERS)
    return [name for name in image if name in text]


@dataclass(kw_only=True)
class TrainedEncoderConfig(EncoderTuneConfig):
    """Base of the methods that train something."""

    lr: float | None = field(None, gt=0)
    """This encoder's learning rate; null: `optim.lr`, and where that is null too, the method's own: 5e-5 for an
    encoder's weights, 2e-3 for LoRA, 5e-4 for biases, norms and other layers that a method adds, 5e-3 for tokens,
    keys and factors."""


@either_encoder("full", builds="mmft.tuning.methods.layers:Full")
@dataclass(kw_only=True)
class FullConfig(TrainedEncoderConfig):
    """Every parameter of the encoder is trained."""


@either_encoder("freeze", builds="mmft.tuning.methods.layers:Freeze")
@dataclass(kw_only=True)
class FreezeConfig(EncoderTuneConfig):
    """Nothing of the encoder is trained: no gradient, no decay, eval mode, buffers unchanged."""


@either_encoder("last_n", builds="mmft.tuning.methods.layers:LastN")
@dataclass(kw_only=True)
class LastNConfig(TrainedEncoderConfig):
    """The last layers of the encoder are trained."""

    layers: int | None = field(None, ge=1)
    """Layers (a ConvNet's: stages) from the top; null: `tune.layers`, and where that is null too, 1."""


@either_encoder("first_frozen", builds="mmft.tuning.methods.layers:FirstFrozen")
@dataclass(kw_only=True)
class FirstFrozenConfig(TrainedEncoderConfig):
    """Embeddings and first layers of the encoder stay, the others are trained."""

    layers: int | None = field(None, ge=0)
    """Layers (a ConvNet's: stages) from the bottom that stay; null: `tune.layers`, and where that is null too, 1."""


@either_encoder("pattern", builds="mmft.tuning.methods.layers:Pattern")
@dataclass(kw_only=True)
class PatternConfig(TrainedEncoderConfig):
    """The parameters of the encoder whose names a pattern finds are trained."""

    pattern: str
    """A regular expression, searched for in the library's names: `blocks\\.(10|11)\\.`, `mlp`, `bias$`."""


@either_encoder("gradual", builds="mmft.tuning.methods.layers:Gradual")
@dataclass(kw_only=True)
class GradualConfig(TrainedEncoderConfig):
    """The encoder's layers join from the top down while training goes on."""

    schedule: dict[int, int] | None = None
    """How many of the last layers are trained from which epoch (or step) on, -1: the whole encoder; for example
    {0:1,1:3,2:-1}. null: `tune.schedule`, and where that is null too, the last one from 0 on, all from 1 on."""
    unit: Literal["epoch", "step"] = "epoch"
    """What the schedule counts."""
    warmup: int = field(0, ge=0)
    """Optimizer steps in which a layer that joins comes to its full rate."""


@either_encoder("bitfit", builds="mmft.tuning.methods.layers:BitFit")
@dataclass(kw_only=True)
class BitFitConfig(TrainedEncoderConfig):
    """The encoder's biases are trained."""


@either_encoder("norms", builds="mmft.tuning.methods.layers:Norms")
@dataclass(kw_only=True)
class NormsConfig(TrainedEncoderConfig):
    """Weights and biases of the encoder's norms are trained."""


@dataclass(kw_only=True)
class TargetedConfig(TrainedEncoderConfig):
    """Base of the methods that add something to linear layers of the encoder."""

    targets: Targets | None = None
    """Which layers of every block: `attention`, `mlp` (all others), or `all`; the same on every encoder. null:
    `tune.targets`, and where that is null too, attention (all of a ConvNet, which has none)."""
    pattern: str | None = None
    """Instead of `targets`: a regular expression, searched for in the library's names of the layers."""
    biases: bool = False
    """The encoder's biases are trained too."""
    norms: bool = False
    """Weights and biases of the encoder's norms are trained too."""


@either_encoder("lora", builds="mmft.tuning.methods.lora:LoRA")
@dataclass(kw_only=True)
class LoRAConfig(TargetedConfig):
    """Low-rank additions to the encoder's linear layers are trained (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int | None = field(None, ge=1)
    """Rank of an addition; null: `tune.rank`, and where that is null too, 8."""
    alpha: float | None = field(None, gt=0)
    """An addition is multiplied by alpha / rank; null: `tune.alpha`, and where that is null too, twice the rank."""
    dropout: float | None = field(None, ge=0, lt=1)
    """Dropout in front of an addition; null: `tune.dropout`, and where that is null too, 0."""
    rslora: bool = False
    """Multiply by alpha / sqrt(rank) instead (Kalajdzievski 2023, arXiv 2312.03732)."""
    dora: bool = False
    """Train the weights' lengths apart from their directions (Liu et al. 2024, arXiv 2402.09353)."""


@either_encoder("lora_8bit", builds="mmft.tuning.methods.lora:LoRA8bit")
@dataclass(kw_only=True)
class LoRA8bitConfig(LoRAConfig):
    """LoRA over frozen linear weights in 8 bits (Dettmers et al. 2022, arXiv 2208.07339)."""


@either_encoder("lora_4bit", builds="mmft.tuning.methods.lora:LoRA4bit")
@dataclass(kw_only=True)
class LoRA4bitConfig(LoRAConfig):
    """LoRA over frozen linear weights in 4 bits, NF4 (QLoRA; Dettmers et al. 2023, arXiv 2305.14314)."""


@either_encoder("loha", builds="mmft.tuning.methods.lora:LoHa")
@dataclass(kw_only=True)
class LoHaConfig(TargetedConfig):
    """Additions that are Hadamard products of two low ranks (Hyeon-Woo et al. 2022, arXiv 2108.06098)."""

    rank: int | None = field(None, ge=1)
    """Rank of each factor; null: `tune.rank`, and where that is null too, 8."""
    alpha: float | None = field(None, gt=0)
    """An addition is multiplied by alpha / rank; null: `tune.alpha`, and where that is null too, twice the rank."""
    dropout: float | None = field(None, ge=0, lt=1)
    """Share of an addition's rows left out in training; null: `tune.dropout`, and where that is null too, 0."""


@either_encoder("ia3", builds="mmft.tuning.methods.lora:IA3")
@dataclass(kw_only=True)
class IA3Config(TargetedConfig):
    """One learned factor for every output of the encoder's linear layers (Liu et al. 2022, arXiv 2205.05638)."""


@either_encoder("adapters", builds="mmft.tuning.methods.adapters:Adapters")
@dataclass(kw_only=True)
class AdaptersConfig(TrainedEncoderConfig):
    """Bottleneck adapters in the encoder's residual blocks are trained (Houlsby et al. 2019, arXiv 1902.00751)."""

    kind: Literal["houlsby", "pfeiffer", "parallel"] = "pfeiffer"
    """`houlsby`: after attention and after MLP; `pfeiffer`: after the MLP alone, in a ConvNet after every residual
    branch (Pfeiffer et al. 2021, arXiv 2005.00247); `parallel`: beside the MLP (He et al. 2022, arXiv 2110.04366)."""
    width: int | None = field(None, ge=1)
    """Features of the bottleneck; null: `tune.width`, and where that is null too, 48."""
    scale: float = field(1.0, gt=0)
    """What an adapter gives is multiplied by it."""


@either_encoder("prompt", builds="mmft.tuning.methods.prompts:PromptTuning")
@dataclass(kw_only=True)
class PromptConfig(TrainedEncoderConfig):
    """Learned tokens in front of the sequence are trained (arXiv 2104.08691; in images arXiv 2203.12119)."""

    length: int | None = field(None, ge=1)
    """How many; null: `tune.length`, and where that is null too, 10. They take none of the encoder's positions."""
    deep: bool = True
    """Every block gets tokens of its own; false: they go in before the first block, and stay to the last."""


@either_encoder("prefix", builds="mmft.tuning.methods.prefix:PrefixTuning")
@dataclass(kw_only=True)
class PrefixConfig(TrainedEncoderConfig):
    """Learned keys and values in the attention of every block are trained (Li and Liang 2021, arXiv 2101.00190)."""

    length: int | None = field(None, ge=1)
    """How many in every block; null: `tune.length`, and where that is null too, 10."""


@dataclass(kw_only=True)
class TuneConfig:
    """`tune`: the method of each encoder; fusion and head are always trained.

    A key here is for both encoders, wherever an encoder's method has the key and leaves it null.
    """

    layers: int | None = field(None, ge=0)
    """Layers of `last_n` and `first_frozen`."""
    schedule: dict[int, int] | None = None
    """Of `gradual`."""
    targets: Targets | None = None
    """Of `lora` and its kin."""
    rank: int | None = field(None, ge=1)
    """Of `lora` and its kin."""
    alpha: float | None = field(None, gt=0)
    """Of `lora` and its kin."""
    dropout: float | None = field(None, ge=0, lt=1)
    """Of `lora` and its kin."""
    width: int | None = field(None, ge=1)
    """Of `adapters`."""
    length: int | None = field(None, ge=1)
    """Of `prompt` and `prefix`."""
    image_encoder: EncoderTuneConfig
    """The image encoder's method."""
    text_encoder: EncoderTuneConfig
    """The text encoder's method."""
