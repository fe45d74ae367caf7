"""Builds task, model and tuning plan from a config."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from mmft.build import whole
from mmft.build.pair import encoders_of, load_pairs, warn_of_pair
from mmft.config import registry
from mmft.config.schema.decoding import DecodingConfig
from mmft.config.schema.model import ENCODERS, ModelConfig
from mmft.config.schema.root import TrainConfig
from mmft.config.schema.task import TaskConfig
from mmft.config.schema.tune import TuneConfig
from mmft.data.bad_rows import why_unusable
from mmft.data.splitting.splits import Split
from mmft.errors import UserError
from mmft.models.auxiliary import Auxiliary
from mmft.models.frozen_layers import FrozenLayers
from mmft.models.fusion.pretrained import PretrainedFusion
from mmft.models.language.decoding import decoding_options
from mmft.models.language.generative_model import GenerativeModel
from mmft.models.language.language_model import LanguageModel, build_language_model
from mmft.models.loading.source import Source
from mmft.models.similarity import SimilarityHead
from mmft.models.text_encoder import TextEncoder
from mmft.models.vision_language_model import VisionLanguageModel, set_dropout
from mmft.models.whole.model import WholeModel
from mmft.tasks.base import Task
from mmft.tasks.generative import GenerativeTask
from mmft.training.prompts import fused_texts
from mmft.tuning.methods.base import TuningMethod
from mmft.tuning.plan import Rates, TuningPlan, make_plan
from mmft.tuning.quantize import Quantized

_ALIGNMENT_WIDTH = 256
_PRETRAINED_LR = 5e-5
_SHORTEST_PROMPT = 8  # tokens; shorter ones ask nothing


def build_task(config: TaskConfig) -> Task:
    """The task; call its `fit` or `load_state` next."""
    if isinstance(config, DecodingConfig):
        task: Task = registry.build(config, but=DecodingConfig, decoding=decoding_options(config))
    else:
        task = registry.build(config)
    return task


def fit_task(task: Task, train: Split) -> None:
    """Shows a task the labels of the training rows.

    Raises:
        UserError: no row is usable, or the task cannot learn from their labels.
    """
    bad = train.table.bad_among(train.rows)
    if bad and len(bad) == len(train):
        raise UserError(why_unusable("train", train.table.columns, bad))
    task.fit(train.table.labels(train.rows))


def build_model(
    config: ModelConfig,
    head: int | Callable[[int], nn.Module],
    seed: int,
    sources: Mapping[str, Source] | None = None,
    frozen: Mapping[str, FrozenLayers] | None = None,
) -> VisionLanguageModel:
    """The model, on the CPU, in float32 but for what is kept small.

    Args:
        config: `model`.
        head: the task's `make_head`, called with the width of the fused features; or C, the outputs of a linear head.
        seed: seed of all random initial weights.
        sources: where the encoders are, if already known.
        frozen: how layers of a language model or a whole model that are never trained are kept, see `frozen_layers`.
    """
    torch.manual_seed(seed)
    known, more = sources or {}, dict[str, Any]()
    text: TextEncoder
    if config.whole is not None:
        image, text, more["whole"] = whole.encoders_of(config, known, frozen or {})
    elif config.pair is None:
        auto_pool = config.fusion.image_pool
        image = registry.build(config.image_encoder, source=known.get("image_encoder"), auto_pool=auto_pool)
        text = _text_encoder(config, known.get("text_encoder"), (frozen or {}).get("text_encoder"))
        warn_of_pair(image.source, text.source)
        if config.fusion.generates:
            more = {"prefix": image.prefix}
    else:
        pairs = load_pairs(config, known)
        image, text = encoders_of(config, pairs)
        if config.fusion.of_pair:
            projections = (pairs[0].image_projection, pairs[1].text_projection)
            more = {"projections": projections, "scale": float(pairs[0].log_scale.exp())}
    torch.manual_seed(seed)  # fusion and head do not depend on what the encoders drew
    fusion = registry.build(config.fusion, image=image.widths, text=text.widths, **more)
    if config.fusion.generates:
        made: nn.Module = nn.Identity()
        assert isinstance(text, LanguageModel)
        model: VisionLanguageModel = (
            WholeModel(image, text, fusion, **more) if config.fusion.of_whole else GenerativeModel(image, text, fusion)
        )
    else:
        made = nn.Linear(fusion.width, head) if isinstance(head, int) else head(fusion.width)
        model = VisionLanguageModel(image, text, fusion, made)
    model.started = {encoder for encoder in ENCODERS if getattr(config, encoder).pretrained}
    if config.fusion.of_whole and config.image_encoder.pretrained:
        model.pretrained = frozenset({"fusion"})
    if config.fusion.of_pair:
        model.pretrained = frozenset({"fusion"})
        if isinstance(made, SimilarityHead):
            made.start_from(pairs[0].log_scale, pairs[0].bias)
            model.pretrained |= {"head"}
    if config.dropout is not None:
        set_dropout(model, config.dropout)
    return model.train()


def _text_encoder(config: ModelConfig, source: Source | None, frozen: FrozenLayers | None) -> TextEncoder:
    """The text encoder, or the language model of a fusion that generates."""
    if config.fusion.generates:
        return build_language_model(**registry.arguments(config.text_encoder), source=source, frozen=frozen)
    text: TextEncoder = registry.build(config.text_encoder, source=source)
    return text


def prepare_generation(model: VisionLanguageModel, task: Task) -> VisionLanguageModel:
    """Gives the model of a task that generates its prompt, and the task the model's tokenizer; returns the model.

    Raises:
        UserError: the model has too few positions, cannot pack rows, or its chat template or `task.pattern` cannot be
            applied.
    """
    if not isinstance(model, GenerativeModel) or not isinstance(task, GenerativeTask):
        return model
    text = model.text_encoder
    text.tokenizer = task.start_generation(text.tokenizer.tokenizer)
    model.decoding = task.decoding(text.head.out_features)
    model.label_smoothing = task.label_smoothing
    if (missing := task.longest_answer - model.answer_room) > 0:
        needed, fits = text.positions + missing, text.max_length - missing
        prompts = f"Type model.text_encoder.max_length={fits}, or" if fits >= _SHORTEST_PROMPT else "Type"
        raise UserError(
            f"model.text_encoder.max_length={text.max_length}: with {model.image_tokens} tokens of the image and "
            f"{task.longest_answer} of the answer that makes {needed}, but {text.source.name} has {text.positions} "
            f"positions. {prompts} fewer answer tokens (task.max_answer_tokens, task.max_new_tokens)"
        )
    model.images.room = text.positions - task.longest_answer
    text.tokenizer.images = model.images
    if task.packing:
        model.start_packing()
    return model


def start_head(model: VisionLanguageModel, task: Task) -> None:
    """Starts the head from prompts if the task wants it, for which the model is on the CPU and untrained."""
    if prompts := task.head_prompts():
        assert isinstance(model.fusion, PretrainedFusion)
        fused = fused_texts(model.eval(), prompts, torch.device("cpu")).clone()
        task.start_head(model.head, fused, model.fusion.scale)
        model.started.add("head")
        model.train()


def add_auxiliary(config: TrainConfig, model: VisionLanguageModel, task: Task) -> None:
    """Adds to the model what the auxiliary training losses need, if any."""
    wanted = config.model.auxiliary
    make_head = task.make_head if wanted.modality_weight else None
    width = None if wanted.alignment == "none" else wanted.alignment_width or _ALIGNMENT_WIDTH
    if make_head is None and width is None:
        return
    torch.manual_seed(config.seed)
    image, text = model.image_encoder.widths, model.text_encoder.widths
    model.auxiliary = Auxiliary(image, text, make_head, width, wanted.alignment == "contrastive").train()


def build_plan(config: TrainConfig, model: VisionLanguageModel, changed: Iterable[str] = ()) -> TuningPlan:
    """The tuning plan, applied to the model.

    Args:
        config: the whole config.
        model: the model.
        changed: encoders whose weights come from another run.

    Raises:
        UserError: a method finds nothing to apply to, nothing is trained, or an option needs a pretrained start that
            nothing has.
    """
    optim = config.optim
    methods = apply_tuning(config, model)
    pretrained_lr = next(lr for lr in (config.tune.fusion_lr, optim.lr, _PRETRAINED_LR) if lr is not None)
    rates = Rates(optim.lr, optim.head_lr, pretrained_lr, optim.layer_decay, optim.weight_decay, optim.start_decay)
    plan = make_plan(model, methods, rates, trains_pretrained=config.tune.fusion == "full")
    _check_trained(plan)
    sources = {encoder: getattr(model, encoder).source for encoder in methods}
    plan.changed = {
        encoder
        for encoder, source in sources.items()
        if source.library == "own" or not getattr(config.model, encoder).pretrained
    } | set(changed)
    if config.checkpoint.use == "wise_ft" and not plan.interpolated:
        raise UserError(
            "checkpoint.use=wise_ft: nothing that is trained has pretrained weights to interpolate with. "
            "Type tune=full, or checkpoint.use=best"
        )
    if optim.start_decay and not any(group.start_decay for group in plan.groups):
        raise UserError("optim.start_decay: no encoder that is trained has a pretrained start. Leave it out")
    return plan


def build_methods(tune: TuneConfig) -> dict[str, TuningMethod]:
    """The tuning method of each encoder; keys that it leaves null are as in `tune`."""
    found: dict[str, TuningMethod] = {}
    for encoder in ENCODERS:
        own = getattr(tune, encoder)
        arguments = {name: getattr(tune, name, None) if v is None else v for name, v in registry.arguments(own).items()}
        found[encoder] = registry.build_with(own, key=f"tune.{encoder}", **arguments)
    return found


def quantizes(tune: TuneConfig) -> bool:
    """Whether a tuning method quantizes weights."""
    return any(isinstance(method.frozen_layers(), Quantized) for method in build_methods(tune).values())


def frozen_layers(config: TrainConfig) -> dict[str, FrozenLayers]:
    """How each encoder's linear layers are kept from loading on, if they are never trained.

    Quantized at once only where nothing wants the weights before: not another run's weights, a copy to distil from, or
    the search for what an image encoder does not use. Those are quantized by their tuning method.
    """
    found = {encoder: method.frozen_layers() for encoder, method in build_methods(config.tune).items()}
    at_once = () if config.init or config.model.auxiliary.distillation_weight else ("text_encoder",)
    return {
        encoder: form if encoder in at_once else FrozenLayers() for encoder, form in found.items() if form is not None
    }


def _check_trained(plan: TuningPlan) -> None:
    """Checks that more is trained than what stands for a missing image or text.

    Raises:
        UserError: everything that reads an image or a text is frozen.
    """
    if not all(group.stands_in for group in plan.groups):
        return
    fusion = "tune.fusion=full trains what is between the encoders"
    if plan.methods["fusion"] == "full":
        fusion = (
            "The projector of this model is a part of the image encoder: tune/image_encoder=pattern "
            "tune.image_encoder.pattern=merger trains it alone where it has that name"
        )
    raise UserError(
        "tune: both encoders are frozen, and nothing would be trained but what stands for a missing image or text. "
        f"Type a tuning method, such as tune/text_encoder=lora. {fusion}"
    )


def apply_tuning(config: TrainConfig, model: VisionLanguageModel) -> dict[str, TuningMethod]:
    """Adds each tuning method's modules to its encoder; returns the methods.

    Raises:
        UserError: a method finds nothing to apply to.
    """
    methods = build_methods(config.tune)
    for encoder, method in methods.items():
        torch.manual_seed(config.seed)  # added weights do not depend on earlier draws
        method.apply(getattr(model, encoder))
    return methods
