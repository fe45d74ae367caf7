"""Parses the set of labels of one row from a list, a separated text, or 0/1 columns."""

from __future__ import annotations

import re
from typing import Any

from mmft.tasks.labels import label_name

_YES, _NO = ("1", "1.0", "true"), ("0", "0.0", "false")  # 1.0: pandas writes a column of 0, 1 and gaps as floats

_LISTED = re.compile(r"""\[\s*(\]|['"]|[-\d., ]+\])""")  # as str(list) and json.dumps begin


def label_set(label: Any, separator: str, empty_is_none: bool, called: str = "label") -> list[str]:
    """The names in a row's label; an empty list if the row has none of the labels.

    Args:
        label: a list of names, a text with `separator` between names, a number, None (an empty cell), or a dict of
            several columns' values, each 0, 1, true or false.
        separator: between names, which are stripped. A whitespace separator matches any run of whitespace.
        empty_is_none: whether an empty cell means "no labels" (0 in a label column) rather than "unknown".
        called: the noun for a name in messages.

    Raises:
        ValueError: the label is unusable; the message gives the reason.
    """
    if isinstance(label, dict):
        return [name for name, value in label.items() if _is_there(value, name, empty_is_none)]
    if label is None:
        if empty_is_none:
            return []
        raise ValueError("no label (give a row without labels an empty list, or type task.empty=no_labels)")
    if isinstance(label, list):
        if any(one is None or one == "" for one in label):
            raise ValueError(f"an empty {called} in {label!r:.80}")
        return [label_name(one) for one in label]
    if not isinstance(label, str):
        return [label_name(label)]
    if _LISTED.match(label):
        raise ValueError(
            f"a list written as text, {label!r:.40}. Separate {called}s with {separator!r} (task.separator); or make "
            "lists of the texts, as json.loads does, and give a data frame, Parquet or JSON Lines: CSV has no lists"
        )
    names = label.split() if separator.isspace() else [name.strip() for name in label.split(separator)]
    if "" in names:
        raise ValueError(f"an empty {called} in {label!r:.80}, split by task.separator={separator!r}")
    return [label_name(name) for name in names]


def _is_there(value: Any, column: str, empty_is_none: bool) -> bool:
    """Whether the value of a 0/1 column is 1."""
    if value is None:
        if empty_is_none:
            return False
        raise ValueError(f"{column}: no label (type task.empty=no_labels if an empty cell means 0)")
    text = str(value).strip().lower()
    if text not in _YES + _NO:
        raise ValueError(f"{column}: {value!r:.40} is neither 0 nor 1, true nor false")
    return text in _YES
