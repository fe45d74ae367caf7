"""`FeatureRows`: the rows of all splits with what the encoders make of them, before any training.

Legend: R rows of all splits, D width, P width of a pair's shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmft import build
from mmft.batch import Encoded
from mmft.config.schema.root import TrainConfig
from mmft.data.dataset import RowDataset
from mmft.data.splitting.splits import Split, different
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.reports.audit.finding import Finding
from mmft.reports.audit.neighbours import whitened
from mmft.training.frozen_cache import Pooled


class Modality(NamedTuple):
    """The images, or the texts, of all rows."""

    features: Tensor  # (R, D) float32, whitened and of unit length; zeros where they are not there
    content: Tensor  # (R,) int64, equal for rows with the same image or text; -1 where it is not there

    @property
    def there(self) -> Tensor:
        """(R,) bool."""
        return self.content >= 0


class FeatureRows:
    """The rows of all splits, one after another.

    Bad rows have neither image nor text.

    Args:
        splits: by name, in the order train, val, test.
        modalities: by `image` and `text`.
        pair_cosine: (R,) of a row's image and text in the space of a pretrained pair, nan where there are not both;
            None without a pair.

    Attributes:
        names: of the splits.
        split: (R,) int64 index into `names`.
        row: (R,) int64 row number in the split's table.
    """

    def __init__(
        self, splits: Mapping[str, Split], modalities: Mapping[str, Modality], pair_cosine: Tensor | None = None
    ) -> None:
        self.splits, self.modalities, self.pair_cosine = dict(splits), dict(modalities), pair_cosine
        self.names = list(splits)
        sizes = torch.tensor([len(split) for split in splits.values()])
        self.split = torch.arange(len(sizes)).repeat_interleave(sizes)
        self.row = torch.cat([torch.from_numpy(split.rows) for split in splits.values()])

    def __len__(self) -> int:
        return len(self.row)

    @property
    def there(self) -> Tensor:
        """(R,) bool, True = the row has an image or a text."""
        return torch.stack([modality.there for modality in self.modalities.values()]).any(0)

    def together(self) -> Tensor:
        """(R, sum of D) the features of image and text side by side, of unit length."""
        joined = torch.cat([modality.features for modality in self.modalities.values()], dim=1)
        return torch.nn.functional.normalize(joined, dim=1)

    def without_images(self, places: Collection[tuple[str, int]]) -> FeatureRows:
        """These rows without the images of some, by split and row number."""
        if not places or "image" not in self.modalities:
            return self
        image = self.modalities["image"]
        gone = [at for at in range(len(self)) if (self.names[int(self.split[at])], int(self.row[at])) in places]
        features, content = image.features.clone(), image.content.clone()
        features[gone], content[gone] = 0, -1
        return FeatureRows(self.splits, self.modalities | {"image": Modality(features, content)}, self.pair_cosine)

    def labels(self) -> list[Any]:
        """The label of every row, as in the table."""
        return [label for split in self.splits.values() for label in split.table.labels(split.rows)]

    def text(self, at: int) -> str:
        """The text of a row; empty without one."""
        return self._split_of(at).table.text(int(self.row[at])) or ""

    def place(self, at: int) -> tuple[str, int, str]:
        """Split, row number and id of a row."""
        row = int(self.row[at])
        return self.names[int(self.split[at])], row, self._split_of(at).table.id(row)

    def finding(self, kind: str, at: int, other: int | None, detail: str, score: float, *labels: str) -> Finding:
        """A finding about one row, or about two."""
        found = Finding(kind, *self.place(at), detail=detail, score=round(score, 4))
        if other is not None:
            split, row, name = self.place(other)
            found = found._replace(other_split=split, other_row=row, other_id=name)
        label, other_label = labels or ("", "")
        return found._replace(label=label, other_label=other_label)

    def _split_of(self, at: int) -> Split:
        return self.splits[self.names[int(self.split[at])]]


def feature_rows(
    config: TrainConfig,
    model: VisionLanguageModel,
    datasets: Mapping[str, RowDataset],
    tick: Callable[[int], None],
) -> FeatureRows:
    """Reads the features of all splits from the store, or computes them.

    Args:
        config: with hardware chosen.
        model: no tuning method is applied yet; afterwards on the CPU, in float32.
        datasets: by split.
        tick: called with the number of rows done since the last call.
    """
    splits = different({name: rows.split for name, rows in datasets.items()})
    columns = config.data.columns
    given = [name for name in ("image", "text") if getattr(columns, name) is not None]  # not captions of labels
    pooled: dict[str, list[Pooled]] = {name: [] for name in given}
    features = build.EncoderFeatures(config, model)
    for name, split in splits.items():
        found = features.of(datasets[name])
        usable = _usable(datasets[name], found)
        for modality in given:
            values, there = found[modality]
            values = values.float()
            pooled[modality].append(Pooled(values, there & usable & values.isfinite().all(1)))
        tick(len(split))
    model.to(device="cpu", dtype=torch.float32)
    joined = {name: Pooled(*map(torch.cat, zip(*parts, strict=True))) for name, parts in pooled.items()}
    modalities = {name: _modality(one) for name, one in joined.items()}
    return FeatureRows(splits, modalities, _pair_cosine(config, model, joined))


def _usable(rows: RowDataset, found: Mapping[str, Pooled]) -> Tensor:
    """(rows,) bool, True = not a bad row: one that is known, or whose image could not be read."""
    usable = torch.tensor([row not in rows.bad for row in rows.split.rows.tolist()])
    if "image" in found:
        usable[found["image"].unread(rows)] = False
    return usable


def _modality(pooled: Pooled) -> Modality:
    at = pooled.there.nonzero().squeeze(1)
    content = torch.full((len(pooled.there),), -1)
    features = torch.zeros(pooled.values.shape)
    if len(at):
        known: dict[bytes, int] = {}
        keys = (one.numpy().tobytes() for one in pooled.values[at])
        content[at] = torch.tensor([known.setdefault(key, len(known)) for key in keys])
        features[at] = whitened(pooled.values[at])
    return Modality(features, content)


@torch.no_grad()
def _pair_cosine(config: TrainConfig, model: VisionLanguageModel, pooled: Mapping[str, Pooled]) -> Tensor | None:
    """(R,) cosines of image and text by the pair's own projections, nan where a row lacks one; None without a pair."""
    if not (config.model.pair is not None and config.model.fusion.of_pair and len(pooled) == 2):
        return None
    image, text = (_encoded(pooled[name].values) for name in ("image", "text"))
    ends = model.fusion.eval()(image, text).chunk(2, dim=1)  # (R, P) each, of unit length
    model.train()
    both = pooled["image"].there & pooled["text"].there
    cosine: Tensor = (ends[0] * ends[1]).sum(1)
    return cosine.masked_fill(~both, torch.nan)


def _encoded(pooled: Tensor) -> Encoded:
    """An encoder's output for a fusion that reads pooled features."""
    return Encoded(pooled[:, None], torch.ones(len(pooled), 1, dtype=torch.bool), pooled)
