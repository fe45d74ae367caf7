"""The keys of commands that apply a run to rows: those of training's `data` of which null means "as in the run"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, make_dataclass
from typing import Any, get_type_hints

from mmft.config.fields import field
from mmft.config.schema.cache import CacheConfig
from mmft.config.schema.data import ColumnsConfig, DataConfig, ReadingConfig
from mmft.config.schema.decoding import DecodingConfig
from mmft.config.schema.paths import ModelPathsConfig
from mmft.config.schema.trainer import DeviceConfig


def _nullable(schema: type, name: str, doc: str, nested: dict[str, type], drop: set[str]) -> type:
    """`schema` with every field optional; null means "as in the run"."""
    hints = get_type_hints(schema)
    made: list[Any] = []
    for f in fields(schema):
        if f.name in nested:
            made.append((f.name, nested[f.name], field(factory=nested[f.name])))
        elif f.name not in drop:
            made.append((f.name, hints[f.name] | None, field(None, **_without(f.metadata, drop))))
    names = {"__doc__": doc, "__module__": __name__, "documented_by": schema}
    return make_dataclass(name, made, kw_only=True, namespace=names)


def _without(metadata: Mapping[str, Any], drop: set[str]) -> dict[str, Any]:
    """A field's metadata without an `only_with` whose neighbour is dropped."""
    return {name: rule for name, rule in metadata.items() if name != "only_with" or rule.partition("=")[0] not in drop}


_DOC = "Keys left null are as in the run."
DataColumns = _nullable(ColumnsConfig, "DataColumns", _DOC, nested={}, drop=set())
DataReading = _nullable(ReadingConfig, "DataReading", _DOC, nested={}, drop=set())
_NESTED = {"columns": DataColumns, "reading": DataReading}
_OF_TRAINING = {
    *("train", "val", "fractions", "folds", "fold"),
    *("sampler", "micro_batch_size", "micro_batch_tokens", "overfit", "picture_memory", "augment", "drawing", "subset"),
}
TestData = _nullable(DataConfig, "TestData", _DOC, nested=_NESTED, drop=_OF_TRAINING)
RunData = _nullable(DataConfig, "RunData", _DOC, nested=_NESTED, drop={*_OF_TRAINING, "test"})
RunDecoding = _nullable(DecodingConfig, "RunDecoding", _DOC, nested={}, drop=set())


@dataclass(kw_only=True)
class PairConfig:
    """`model`: a pretrained pair in place of a run."""

    pair: str | None = None
    """A pretrained pair as it is, without any training, in place of `run`: a folder or a hub name, as in training."""


@dataclass(kw_only=True)
class UseConfig:
    """The keys of every command that applies a run to rows."""

    run: str | None = None
    """A run folder, or `last`: the newest run under `paths.runs`."""
    model: PairConfig = field(factory=PairConfig)
    """A pretrained pair in place of a run."""
    paths: ModelPathsConfig = field(factory=ModelPathsConfig)
    """Where runs are read from, and what frozen layers compute."""
    cache: CacheConfig = field(factory=CacheConfig)
    """Whether what frozen layers compute of the rows is read from the store and kept there; `always`: also what a
    trained encoder computes, for the next time that this run is applied to these rows."""
    data: Any = field(factory=RunData)
    """The rows; keys left null are as in the run."""
    trainer: DeviceConfig = field(factory=DeviceConfig)
    """The device to run on."""
