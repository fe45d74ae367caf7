"""The tuning plan: which parameters are trained, by which method, in which named optimizer group.

It is built once, before training. Every parameter is in exactly one group or permanently frozen. `mmft.tuning.table`
prints it and saves it as `tuning.csv`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.conv import _ConvNd

from mmft.models.encoder import Encoder
from mmft.models.layers import module_layers
from mmft.models.vision_language_model import PARTS, VisionLanguageModel, part_of
from mmft.tuning.methods.base import Start, TuningMethod, usable

# Only matrices that multiply activations are decayed. They are found by module type, not by name, so that norms,
# biases, embeddings, positions, class tokens and stand-ins are excluded, whatever a library calls them.
_DECAYED = (nn.Linear, _ConvNd, nn.Bilinear, nn.MultiheadAttention)


class Rates(NamedTuple):
    """Learning rates and weight decay from the config."""

    lr: float | None  # of the encoders; None for each method's default
    head_lr: float
    pretrained_lr: float  # of a pretrained fusion and head
    layer_decay: float  # factor of the rate from each layer to the one below; 1 for none
    weight_decay: float
    start_decay: float = 0.0  # of pretrained encoders, toward their start and in place of weight decay


@dataclass
class Group:
    """One optimizer group: parameters of one part (and layer) with one rate, weight decay and start."""

    name: str
    part: str
    method: str
    layers: str
    lr: float
    weight_decay: float
    start: Start = field(default_factory=Start)
    start_decay: float = 0.0
    stands_in: bool = False  # for an image or a text that a row lacks
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of trained scalars."""
        return sum(p.numel() for p in self.parameters.values())


@dataclass
class TuningPlan:
    """All optimizer groups, and how much of each part is trained.

    Attributes:
        groups: the optimizer groups.
        totals: number of parameters of each part.
        trained: number of trained parameters of each part.
        methods: the tuning method of each encoder.
        usable: for each encoder, the layer number by name of every parameter that contributes to the output.
        interpolated: names of the trained parameters with a pretrained start in which the model can be interpolated
            with it, one by one.
        changed: parts whose weights differ from their source even if frozen (`init=RUN`, random weights).
    """

    groups: list[Group]
    totals: dict[str, int]
    trained: dict[str, int]
    methods: dict[str, str]
    usable: dict[str, dict[str, int]]
    interpolated: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)

    @property
    def names(self) -> set[str]:
        """Names of all trained parameters."""
        return {name for group in self.groups for name in group.parameters}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained, in the order of the groups."""
        return [parameter for group in self.groups for parameter in group.parameters.values()]

    def rebind(self, model: nn.Module) -> None:
        """Replaces the plan's parameters by those of the same names in `model`, after something has replaced them."""
        own = dict(model.named_parameters())
        for group in self.groups:
            group.parameters = {name: own[name] for name in group.parameters}

    def saved_names(self, model: nn.Module) -> set[str]:
        """State-dict names that a checkpoint and the finished model must store: everything this run changes.

        These are the trained parameters, the buffers of trained layers, and all of the `changed` parts. Fusion and head
        are small and always stored, so that a frozen one is not looked for.
        """
        moved = self.names | self._moving_buffers(model)
        wanted = self.changed | (set(PARTS) - self.usable.keys())
        return {name for name in model.state_dict() if name in moved or part_of(name) in wanted}

    def started_names(self, model: VisionLanguageModel) -> set[str]:
        """State-dict names of what training moves away from a pretrained start: see `interpolated`, and buffers."""
        buffers = {name for name in self._moving_buffers(model) if model.began_pretrained(name)}
        return self.interpolated | (buffers & model.state_dict().keys())

    def _moving_buffers(self, model: nn.Module) -> set[str]:
        live = {part: self.live(part, self.names) for part in self.usable}
        layers = {part: module_layers(model.get_submodule(f"{part}.backbone")) for part in live}

        def moves(name: str) -> bool:
            part = part_of(name)
            layers_trained = live.get(part)
            if layers_trained is None:  # not an encoder, or one that is wholly trained
                return self.trained[part] > 0
            module = name.rpartition(".")[0].removeprefix(f"{part}.backbone").removeprefix(".")
            return layers[part].get(module) in layers_trained

        return {name for name, _ in model.named_buffers() if moves(name)}

    def lowest_trained(self, part: str, names: Set[str] | None = None) -> int | None:
        """The lowest layer of an encoder of which anything is trained; None if nothing is.

        Args:
            part: the encoder.
            names: of the trained parameters, at some time; None for all that are ever trained.
        """
        names = self.names if names is None else names
        return min((layer for name, layer in self.usable[part].items() if f"{part}.{name}" in names), default=None)

    @property
    def has_frozen_layers(self) -> bool:
        """Whether a block of an encoder, and all below it, are never trained."""
        return any((lowest := self.lowest_trained(part)) is None or lowest > 1 for part in self.usable)

    def live(self, part: str, active: Set[str]) -> frozenset[int] | None:
        """The layers of an encoder whose parameters are all `active`; None for the whole encoder.

        Only these are in train mode; in the others dropout is off and running statistics are fixed.
        """
        usable = self.usable[part]
        frozen = {layer for name, layer in usable.items() if f"{part}.{name}" not in active}
        return frozenset(usable.values()) - frozen if frozen else None

    def activate(self, model: VisionLanguageModel, active: Set[str]) -> None:
        """Enables gradients for exactly the `active` parameters, and sets train and eval mode accordingly."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in active)
        for part in self.usable:
            getattr(model, part).live = self.live(part, active)
        model.train(model.training)  # applies `live`

    def active(self, step: int, starts: Mapping[str, int]) -> set[str]:
        """Names of the parameters trained in optimizer step `step`.

        Args:
            step: from 0.
            starts: by group name, the first optimizer step of groups that do not start at step 0.
        """
        return {name for group in self.groups if starts.get(group.name, 0) <= step for name in group.parameters}

    def counts(self) -> dict[str, Any]:
        """`total` and `trainable` parameters, overall and for every existing part."""
        there = [part for part in PARTS if self.totals[part] or part != "auxiliary"]
        parts = {part: {"total": self.totals[part], "trainable": self.trained[part]} for part in there}
        return {"total": sum(self.totals.values()), "trainable": sum(self.trained.values()), **parts}

    def optimizer_groups(self) -> list[dict[str, object]]:
        """The groups in the form of torch optimizers; a schedule's factor multiplies `base_lr`."""
        return [
            {
                "name": g.name,
                "params": list(g.parameters.values()),
                "lr": g.lr,
                "base_lr": g.lr,
                "weight_decay": g.weight_decay,
            }
            for g in self.groups
        ]


def make_plan(
    model: VisionLanguageModel, methods: Mapping[str, TuningMethod], rates: Rates, trains_pretrained: bool = True
) -> TuningPlan:
    """Builds the plan and applies it: sets `requires_grad` and marks frozen encoders.

    Args:
        model: the model after `TuningMethod.apply`.
        methods: the tuning method of `image_encoder` and of `text_encoder`.
        rates: learning rates and weight decay.
        trains_pretrained: whether a pretrained fusion and head are trained.
    """
    decayed = _decayed_names(model)
    encoders = {part: _Encoder(getattr(model, part), method, rates) for part, method in methods.items()}
    groups: dict[str, Group] = {}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        inner = name.partition(".")[2]  # its name within the part
        started = name.partition(".")[0] in model.pretrained
        if (inner not in encoders[part].trained) if part in encoders else (started and not trains_pretrained):
            continue  # frozen
        group = (  # new and empty; merged below with one of the same name
            encoders[part].group(part, inner)
            if part in encoders
            else Group(part, part, "full", "all", rates.pretrained_lr if started else rates.head_lr, 0)
        )
        if part in model.pretrained and not started:  # a stand-in, which starts from zero
            group.name += "/new"
            group.stands_in = True
        if rates.start_decay and model.began_pretrained(name):
            group.start_decay = rates.start_decay
        elif name in decayed:
            group.weight_decay = rates.weight_decay
        else:
            group.name += "/no_decay"
        groups.setdefault(group.name, group).parameters[name] = parameter
    ordered = sorted(groups.values(), key=lambda g: (PARTS.index(g.part), g.name))
    names = {part: method.name for part, method in methods.items()}
    names |= dict.fromkeys(model.pretrained, "full" if trains_pretrained else "freeze")
    plan = TuningPlan(ordered, _totals(model), _sum_by_part(ordered), names, {p: t.usable for p, t in encoders.items()})
    linear = {
        f"{part}.{name}" for part, own in encoders.items() for name in own.method.interpolated(getattr(model, part))
    }
    plan.interpolated = {
        name
        for name in plan.names
        if model.began_pretrained(name) and (name in linear or part_of(name) not in encoders)
    }
    plan.activate(model, plan.names)
    return plan


class _Encoder:
    """One encoder with its method: the trained parameters, and the group of each."""

    def __init__(self, encoder: Encoder, method: TuningMethod, rates: Rates) -> None:
        self.method = method
        self.trained = method.trained(encoder)
        self.starts = method.starts(encoder)
        self._layers, self._top = encoder.layers(), encoder.top_layer
        self.usable = {name: self._layers[name] for name in usable(encoder)}
        self._lr = next(lr for lr in (method.lr, rates.lr, method.default_lr) if lr is not None)
        self._decay = rates.layer_decay

    def group(self, part: str, name: str) -> Group:
        """An empty group for the parameter: one per layer with layer-wise rates or starts, else one per encoder."""
        if self._decay == 1 and not self.starts:  # every layer alike
            return Group(part, part, self.method.name, self._span, self._lr, 0.0)
        layer = self._layers[name]
        lr = self._lr * self._decay ** (self._top - layer)  # the top layer has the full rate
        start = self.starts.get(layer, Start())
        return Group(f"{part}/layer_{layer:02d}", part, self.method.name, str(layer), lr, 0.0, start)

    @cached_property
    def _span(self) -> str:
        """The trained layers: `all`, or the range from the first to the last."""
        layers = {self._layers[name] for name in self.trained}
        return "all" if layers == set(self._layers.values()) else f"{min(layers)}-{max(layers)}"


def _decayed_names(model: nn.Module) -> set[str]:
    return {
        f"{module_name}.{name}"
        for module_name, module in model.named_modules()
        if isinstance(module, _DECAYED) or type(module).__name__ == "Conv1D"  # transformers' linear of GPT-2
        for name, p in module.named_parameters(recurse=False)
        if p.ndim >= 2  # no biases
    }


def _totals(model: nn.Module) -> dict[str, int]:
    totals = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        packed: Any = getattr(parameter, "quant_state", None)  # 4-bit: two weights per byte
        totals[part_of(name)] += parameter.numel() if packed is None else math.prod(packed.shape)
    return totals


def _sum_by_part(groups: Iterable[Group]) -> dict[str, int]:
    sums = dict.fromkeys(PARTS, 0)
    for group in groups:
        sums[group.part] += group.size
    return sums
