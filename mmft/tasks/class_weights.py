"""The weights of classes in a loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmft.errors import UserError
from mmft.tasks.constants import Constant
from mmft.tasks.labels import shown


def class_weights(given: str | Sequence[float], labels: Sequence[str], counts: Sequence[int]) -> Constant | None:
    """Weights (C,) of the classes; None for equal ones.

    Args:
        given: `task.class_weights`.
        labels: the C label names.
        counts: training rows of each.

    Raises:
        UserError: another number of weights than labels is given.
    """
    if given == "none":
        return None
    if given == "balanced":
        return Constant(torch.tensor([sum(counts) / (len(labels) * count) for count in counts]))
    if len(given) != len(labels):
        raise UserError(f"task.class_weights has {len(given)} numbers for {len(labels)} labels ({shown(labels)}).")
    return Constant(torch.tensor([float(weight) for weight in given]))
