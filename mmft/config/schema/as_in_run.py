"""Copies of the sections of training whose keys are all optional: null means "as in the run"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, make_dataclass
from typing import Any, get_type_hints

from mmft.config.fields import field
from mmft.config.schema.data import ColumnsConfig, DataConfig, ReadingConfig
from mmft.config.schema.decoding import DecodingConfig


def _nullable(schema: type, name: str, doc: str, nested: dict[str, type], drop: set[str]) -> type:
    """`schema` with every field optional; null means "as in the run"."""
    hints = get_type_hints(schema)
    made: list[Any] = []
    for f in fields(schema):
        if f.name in drop:
            continue
        if f.name in nested:
            made.append((f.name, nested[f.name], field(factory=nested[f.name])))
        else:
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

_SERVED = {"columns", "resize", "resample", "crop_pct", "background", "jpeg_draft", "max_pixels"}
ServedData = _nullable(
    DataConfig, "ServedData", _DOC, nested=_NESTED, drop={f.name for f in fields(DataConfig)} - _SERVED
)
