"""What `model.pair` and `model.whole` mean for other keys: each names both encoders and chooses the fusion.

A pair's encoders can also be probed, without a fusion of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from mmft.config.overrides import Typed, key_of
from mmft.config.schema.model import ENCODERS
from mmft.config.sources import conf_dir
from mmft.config.wording import typed_as

FUSIONS = {"model.pair": "model/fusion=pretrained", "model.whole": "model/fusion=whole"}
"""The default of `model/fusion` with each."""
_COMPARING = ("task=matching", "task=question_answering")
"""Tasks whose answer depends on image and text together: a linear head over a pair's projections side by side cannot
compare them, so that `concat` is their default with it."""
_MAX_LENGTH = "model.text_encoder.max_length"


def defaults(overrides: Sequence[str], experiment: str) -> list[str]:
    """Overrides that follow from `model.pair` or `model.whole` on the command line, unless they are there.

    Args:
        overrides: as typed.
        experiment: the override of the default experiment, whose `max_length` is for its own encoder.
    """
    keys = {key_of(o) for o in overrides}
    named = [key for key in FUSIONS if key in keys and f"{key}=null" not in overrides]
    if not named:
        return []
    task = next((o for o in reversed(overrides) if key_of(o) == "task"), None)
    compares = named[0] == "model.pair" and task in _COMPARING
    usual = "model/fusion=concat" if compares else FUSIONS[named[0]]
    found = [] if "model.fusion" in keys or "tune=probe" in overrides else [usual]
    return found + ([f"{_MAX_LENGTH}=null"] if experiment in overrides and _MAX_LENGTH not in keys else [])


def fusion_of_files(raw: DictConfig, typed: Iterable[str], files: Iterable[Path]) -> list[str]:
    """The fusion that follows from a model that a YAML file names; empty if there is none, or a fusion is chosen.

    Args:
        raw: as composed.
        typed: keys on the command line.
        files: the YAML files of the composition.
    """
    values: Any = OmegaConf.to_container(raw, resolve=False)
    found = _named(values.get("model"))
    tune = values.get("tune")
    probed = isinstance(tune, dict) and tune.get("probe") is not None  # reads the encoders' own features
    if found is None or probed or not {found, "model.fusion"}.isdisjoint(typed):
        return []
    own = [file for file in files if not file.is_relative_to(conf_dir())]
    return [] if any(_chooses_fusion(file) for file in own) else [FUSIONS[found]]


def _named(model: Any) -> str | None:
    """Which of the two keys a `model` section has."""
    there = model if isinstance(model, dict) else {}
    return next((key for key in FUSIONS if isinstance(there.get(key.partition(".")[2]), str)), None)


def _chooses_fusion(file: Path) -> bool:
    """Whether the defaults list of a user's file has an option of `model/fusion`."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    listed = content.get("defaults") if isinstance(content, dict) else None
    groups = [key for entry in listed or () if isinstance(entry, dict) for key in entry]
    return any(str(key).partition("@")[0].split("/")[-1].split()[-1] == "fusion" for key in groups)


def named_twice(typed: list[Typed]) -> list[str]:
    """Refuses the name of an encoder beside `model.pair` or `model.whole`, which names both."""
    named = next((t.key for t in typed if t.key in FUSIONS and t.values != [None]), None)
    if named is None:
        return []
    names = [t for t in typed if t.key in [f"model.{encoder}.name" for encoder in ENCODERS]]
    return [f"{t.key}: {named} names both encoders. Leave one of them out{typed_as(t.text)}" for t in names]


def name_encoders(values: dict[str, Any]) -> None:
    """Names both encoders after `model.pair` or `model.whole`, whatever an experiment calls them."""
    model = values.get("model")
    found = _named(model)
    if isinstance(model, dict) and found is not None:
        for encoder in ENCODERS:
            if isinstance(model.get(encoder), dict):
                model[encoder]["name"] = model[found.partition(".")[2]]
