"""What a graph that leaves mmft returns of a row: the tensors behind a task's answers.

Legend: B batch, C columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from mmft.batch import Outputs


@dataclass(frozen=True)
class GraphOutput:
    """One output of an exported graph.

    Attributes:
        name: of the output.
        meaning: what its values are, in a sentence without a full stop.
        compute: outputs of the model -> the tensor, (B,) or (B, C); of floats if it is compared with the original.
        columns: the names of the C columns, labels or targets; empty if they have none.
        scales: what differences are measured in, one number for each column; 1 for scores.
    """

    name: str
    meaning: str
    compute: Callable[[Outputs], Tensor]
    columns: Sequence[str] = ()
    scales: Sequence[float] = (1.0,)
