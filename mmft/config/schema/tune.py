"""`tune`: how each encoder is tuned. `tune=X` sets both: `tune/image_encoder=X` and `tune/text_encoder=X`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, option, options
from mmft.config.schema.model import ENCODERS

Targets = Literal["attention", "mlp", "all"]
T = TypeVar("T", bound="EncoderTuneConfig")


@dataclass(kw_only=True)
class EncoderTuneConfig(OptionConfig):
    """Base of the tuning methods for one encoder.

    Attributes:
        trains_own: it trains the encoder's own weights, or none, and adds nothing.
        interpolates: whether the tuned encoder can be interpolated with its start (`checkpoint.use=wise_ft`); for a
            method that adds parameters, see `TuningMethod.kept_factors`.
    """

    trains_own: ClassVar[bool] = False
    interpolates: ClassVar[bool] = False


def either_encoder(name: str, builds: str | Callable[..., Any]) -> Callable[[type[T]], type[T]]:
    """Class decorator: registers a method under `tune/image_encoder` and `tune/text_encoder`."""

    def register(schema: type[T]) -> type[T]:
        for encoder in ENCODERS:
            own = {"__doc__": schema.__doc__, "__module__": schema.__module__}
            made = type(f"{encoder}_{schema.__name__}", (schema,), own)
            vars(sys.modules[schema.__module__])[made.__name__] = made  # where pickle looks for it
            option(f"tune/{encoder}", name, builds)(made)
        return schema

    return register


def both_encoders() -> list[str]:
    """The methods that both encoders support, which `tune=NAME` sets for both."""
    image, text = (options(f"tune/{encoder}") for encoder in ENCODERS)
    return [name for name in image if name in text]


@dataclass(kw_only=True)
class TrainedEncoderConfig(EncoderTuneConfig):
    """Base of the methods that train something."""

    lr: float | None = field(None, gt=0)
    """Learning rate of this encoder; null: `optim.lr`, and if that is null too, the method's own: 5e-5 for encoder
    weights, 2e-3 for LoRA, 5e-4 for biases, norms and other added layers, 5e-3 for learned tokens, keys and factors."""


@either_encoder("full", builds="mmft.tuning.methods.layers:Full")
@dataclass(kw_only=True)
class FullConfig(TrainedEncoderConfig):
    """Train every parameter of the encoder."""

    trains_own = interpolates = True


@either_encoder("freeze", builds="mmft.tuning.methods.layers:Freeze")
@dataclass(kw_only=True)
class FreezeConfig(EncoderTuneConfig):
    """Freeze the whole encoder: no gradient, no weight decay, eval mode, buffers unchanged."""

    trains_own = interpolates = True


@either_encoder("last_n", builds="mmft.tuning.methods.layers:LastN")
@dataclass(kw_only=True)
class LastNConfig(TrainedEncoderConfig):
    """Train the last layers of the encoder."""

    trains_own = interpolates = True

    layers: int | None = field(None, ge=1)
    """Layers from the top (stages of a ConvNet); null: `tune.layers`, and if that is null too, 1."""


@either_encoder("first_frozen", builds="mmft.tuning.methods.layers:FirstFrozen")
@dataclass(kw_only=True)
class FirstFrozenConfig(TrainedEncoderConfig):
    """Freeze the embeddings and first layers of the encoder, and train the others."""

    trains_own = interpolates = True

    layers: int | None = field(None, ge=0)
    """Frozen layers from the bottom (stages of a ConvNet); null: `tune.layers`, and if that is null too, 1."""


@either_encoder("pattern", builds="mmft.tuning.methods.layers:Pattern")
@dataclass(kw_only=True)
class PatternConfig(TrainedEncoderConfig):
    """Train the parameters of the encoder whose names match a pattern."""

    trains_own = interpolates = True

    pattern: str
    """Regular expression, searched for in the library's parameter names: `blocks\\.(10|11)\\.`, `mlp`, `bias$`."""


@either_encoder("gradual", builds="mmft.tuning.methods.layers:Gradual")
@dataclass(kw_only=True)
class GradualConfig(TrainedEncoderConfig):
    """Unfreeze the encoder's layers from the top down during training."""

    trains_own = interpolates = True

    schedule: dict[int, int] | None = None
    """Maps an epoch (or step) to the number of last layers trained from then on, -1 for the whole encoder, for example
    {0:1,1:3,2:-1}; null: `tune.schedule`, and if that is null too, {0:1,1:-1}."""
    unit: Literal["epoch", "step"] = "epoch"
    """Unit of the schedule."""
    warmup: int = field(0, ge=0)
    """Optimizer steps over which a newly unfrozen layer reaches its full learning rate."""


@either_encoder("bitfit", builds="mmft.tuning.methods.layers:BitFit")
@dataclass(kw_only=True)
class BitFitConfig(TrainedEncoderConfig):
    """Train the encoder's biases."""

    trains_own = interpolates = True


@either_encoder("norms", builds="mmft.tuning.methods.layers:Norms")
@dataclass(kw_only=True)
class NormsConfig(TrainedEncoderConfig):
    """Train the weights and biases of the encoder's normalisation layers."""

    trains_own = interpolates = True


@dataclass(kw_only=True)
class TargetedConfig(TrainedEncoderConfig):
    """Base of the methods that adapt linear layers of the encoder."""

    targets: Targets | None = None
    """Layers to adapt in every block, with the same meaning for every encoder: `attention`, `mlp` (all others) or
    `all`; null: `tune.targets`, and if that is null too, attention (for a ConvNet, which has none: all)."""
    pattern: str | None = field(None, not_with={"targets": "both choose the layers. Leave one of them out"})
    """Regular expression instead of `targets`, searched for in the library's layer names."""
    biases: bool = False
    """Also train the encoder's biases."""
    norms: bool = False
    """Also train the weights and biases of the encoder's normalisation layers."""


@dataclass(kw_only=True)
class _LowRankConfig(TargetedConfig):
    rank: int | None = field(None, ge=1)
    """Rank of the update (`loha`: of each factor); null: `tune.rank`, and if that is null too, 8."""
    alpha: float | None = field(None, gt=0)
    """Scales the update by alpha / rank; null: `tune.alpha`, and if that is null too, twice the rank."""
    dropout: float | None = field(None, ge=0, lt=1)
    """Dropout before the update (`loha`: of its rows); null: `tune.dropout`, and if that is null too, 0."""


@either_encoder("lora", builds="mmft.tuning.methods.lora:LoRA")
@dataclass(kw_only=True)
class LoRAConfig(_LowRankConfig):
    """LoRA: train low-rank updates of the encoder's linear layers (Hu et al. 2021, arXiv 2106.09685)."""

    interpolates = True

    rslora: bool | None = None
    """Scale by alpha / sqrt(rank) instead (rsLoRA; Kalajdzievski 2023, arXiv 2312.03732); null: `tune.rslora`, and if
    that is null too, false."""
    dora: bool | None = None
    """Train magnitudes of the weights apart from their directions (DoRA; Liu et al. 2024, arXiv 2402.09353); null:
    `tune.dora`, and if that is null too, false."""


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
class LoHaConfig(_LowRankConfig):
    """LoHa: updates that are Hadamard products of two low-rank matrices (Hyeon-Woo et al. 2022, arXiv 2108.06098)."""

    interpolates = True


@either_encoder("ia3", builds="mmft.tuning.methods.lora:IA3")
@dataclass(kw_only=True)
class IA3Config(TargetedConfig):
    """IA3: train one scale per output of the encoder's linear layers (Liu et al. 2022, arXiv 2205.05638)."""

    interpolates = True


@either_encoder("adapters", builds="mmft.tuning.methods.adapters:Adapters")
@dataclass(kw_only=True)
class AdaptersConfig(TrainedEncoderConfig):
    """Train bottleneck adapters in the encoder's residual blocks (Houlsby et al. 2019, arXiv 1902.00751)."""

    interpolates = True

    kind: Literal["houlsby", "pfeiffer", "parallel"] = "pfeiffer"
    """`houlsby`: after attention and after the MLP; `pfeiffer`: after the MLP only, in a ConvNet after every residual
    branch (Pfeiffer et al. 2021, arXiv 2005.00247); `parallel`: beside the MLP (He et al. 2022, arXiv 2110.04366)."""
    width: int | None = field(None, ge=1)
    """Width of the bottleneck; null: `tune.width`, and if that is null too, 48."""
    scale: float = field(1.0, gt=0)
    """Scales the output of each adapter."""


@either_encoder("prompt", builds="mmft.tuning.methods.prompts:PromptTuning")
@dataclass(kw_only=True)
class PromptConfig(TrainedEncoderConfig):
    """Prompt tuning: train tokens in front of the sequence (arXiv 2104.08691; for images arXiv 2203.12119)."""

    length: int | None = field(None, ge=1)
    """Number of tokens; null: `tune.length`, and if that is null too, 10. They use none of the encoder's positions."""
    deep: bool = True
    """Use separate tokens in every block; false: insert them before the first block and keep them to the last."""


@either_encoder("prefix", builds="mmft.tuning.methods.prefix:PrefixTuning")
@dataclass(kw_only=True)
class PrefixConfig(TrainedEncoderConfig):
    """Prefix tuning: train keys and values in every attention layer (Li and Liang 2021, arXiv 2101.00190)."""

    length: int | None = field(None, ge=1)
    """Number per block; null: `tune.length`, and if that is null too, 10."""


@dataclass(kw_only=True)
class TuneConfig:
    """`tune`: the tuning method of each encoder; a fusion and a head that start from random weights are always trained.

    A key here applies to both encoders, unless an encoder's own key of the same name is set.
    """

    probe: Literal["linear", "knn"] | None = None
    """What is solved at once on the frozen encoders' pooled features, in place of training (`tune=probe`): a `linear`
    head, or nearest neighbours among the training rows (`knn`); their strength is chosen on the validation rows. null:
    the model is trained."""
    fusion: Literal["full", "freeze"] = "full"
    """The pretrained projections, temperature and bias of `model.pair` (`model/fusion=pretrained`)."""
    fusion_lr: float | None = field(None, gt=0)
    """Learning rate of these; null: `optim.lr`, and if that is null too, 5e-5."""

    layers: int | None = field(None, ge=0)
    """Layers of `last_n` and `first_frozen`, for both encoders."""
    schedule: dict[int, int] | None = None
    """Schedule of `gradual`, for both encoders."""
    targets: Targets | None = None
    """Layers that the LoRA variants, `loha` and `ia3` adapt, for both encoders."""
    rank: int | None = field(None, ge=1)
    """Rank of the LoRA variants and `loha`, for both encoders."""
    alpha: float | None = field(None, gt=0)
    """Alpha of the LoRA variants and `loha`, for both encoders."""
    dropout: float | None = field(None, ge=0, lt=1)
    """Dropout of the LoRA variants and `loha`, for both encoders."""
    rslora: bool | None = None
    """rsLoRA's scale for the LoRA variants, for both encoders."""
    dora: bool | None = None
    """DoRA instead of LoRA, for both encoders."""
    width: int | None = field(None, ge=1)
    """Bottleneck width of `adapters`, for both encoders."""
    length: int | None = field(None, ge=1)
    """Length of `prompt` and `prefix`, for both encoders."""
    image_encoder: EncoderTuneConfig
    """Tuning method of the image encoder."""
    text_encoder: EncoderTuneConfig
    """Tuning method of the text encoder."""
