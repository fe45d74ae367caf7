"""What figures of a run show, in words: in the closing lines and on the page of `mmft report`."""

from __future__ import annotations

import math
from collections.abc import Mapping


def modality_comment(figures: Mapping[str, float], lower: bool, rows: int) -> str:
    """What figures of a constant prediction, of each modality alone and of both show, in words.

    A modality alone is as good as both if it has 97 % of what both gain over the constant prediction or, where all
    figures lie between 0 and 1 as shares do, if it lacks at most a standard error of such a share over the rows. Both
    are no better than the constant if they gain less than that error, or 3 % where figures are no shares.

    >>> modality_comment({"majority": 0.3, "text": 0.71, "image": 0.5, "both": 0.72}, lower=False, rows=100)
    'text alone is as good as both: 100 rows show nothing that the image adds'

    Args:
        figures: of the constant prediction, `text`, `image` and `both`, in this order.
        lower: whether lower figures are better.
        rows: test rows.
    """
    constant, *alone, both = ((-1 if lower else 1) * value for value in figures.values())
    gain = both - constant
    share = not lower and all(0 <= value <= 1 for value in figures.values())
    error = math.sqrt(both * (1 - both) / rows) if share else 0.0
    if not gain > (error if share else 0.03 * abs(constant)):
        return f"the model is no better than a constant prediction ({next(iter(figures))}): see mmft check"
    good = [value >= both - max(0.03 * gain, error) for value in alone]
    better = [value > both + max(0.03 * gain, error) for value in alone]
    for name, other, above, same in zip(("text", "image"), ("image", "text"), better, good, strict=True):
        if above:
            return f"a linear head on the features of the {name} alone is better than the model: see tune=probe"
        if same and not all(good):
            return f"{name} alone is as good as both: {rows:,} rows show nothing that the {other} adds"
    return "either alone is as good as both" if all(good) else "image and text together are better than either alone"
