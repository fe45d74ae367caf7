"""The metrics of several tasks in one collection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from torch import nn
from torchmetrics import Metric, MetricCollection


class PartMetrics(MetricCollection):
    """The metrics of several tasks.

    Args:
        parts: metrics by task name.

    Attributes:
        seen: by task name, whether each added batch had a row with that task's label.
    """

    def __init__(self, parts: Mapping[str, MetricCollection]) -> None:
        super().__init__({})
        self.names = list(parts)
        self.collections = nn.ModuleList(parts.values())
        self.seen: dict[str, list[bool]] = {name: [] for name in parts}

    def of(self, name: str) -> MetricCollection:
        """The metrics of one task."""
        return cast("MetricCollection", self.collections[self.names.index(name)])

    def has_rows(self, name: str) -> bool:
        """Whether any row was added to the metrics of one task."""
        return any(metric.update_called for _, metric in self.of(name).items(keep_base=True, copy_state=False))

    def reset(self) -> None:
        """Clears all metrics."""
        self.seen = {name: [] for name in self.names}
        for name in self.names:
            self.of(name).reset()

    def items(self, keep_base: bool = False, copy_state: bool = True) -> Iterator[tuple[str, Metric]]:  # type: ignore[override]
        """Every metric, as `task/metric`."""
        for name in self.names:
            for metric_name, metric in self.of(name).items(keep_base, copy_state):
                yield f"{name}/{metric_name}", metric
