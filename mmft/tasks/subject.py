"""`Subject`: what `mmft explain` explains.

Legend: S samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from mmft.batch import Outputs


class Subject(NamedTuple):
    """One quantity of a row that can be explained.

    Attributes:
        name: the label or target.
        value: outputs of S rows -> (S,) the number to explain.
        part: the task or target it belongs to when a row has several; "" if there is only one.
    """

    name: str
    value: Callable[[Outputs], Tensor]
    part: str = ""
