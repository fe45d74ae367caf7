"""Quicker composing for all tests: nearly every one composes, most of them the same."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from mmft.config.loader import Loader
from mmft.config.registry import choices

COMPLETE = [
    "data.path=rows.csv",
    "data.columns.text=title",
    "data.columns.label=label",
    "model.image_encoder.name=a/b",
    "model.text_encoder.name=c/d",
]
"""Overrides that make a config complete; neither rows nor encoders need be there to compose it."""

_Merged = Sequence[tuple[list[str], Path]]
_COMPOSED: dict[tuple[Any, ...], tuple[DictConfig, _Merged]] = {}


def compose_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same options of mmft's own are composed by Hydra once for all tests: 0.1 s each time.

    Whatever has a folder of the user's YAML files is composed anew, and so is everything once a plugin has registered
    or changed an option.
    """
    genuine = Loader.compose

    def compose(self: Loader, command: str, overrides: list[str]) -> DictConfig:
        if any(source.provider == "command-line" for source in self.get_sources()):
            return genuine(self, command, overrides)
        registered = frozenset((group, name, schema) for group, of in choices().items() for name, schema in of.items())
        key = (command, *overrides, registered)
        if key not in _COMPOSED:
            _COMPOSED[key] = genuine(self, command, overrides), self.merged
        config, self.merged = _COMPOSED[key]
        return copy.deepcopy(config)

    monkeypatch.setattr(Loader, "compose", compose)
