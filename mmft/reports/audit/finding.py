"""`Finding`: one thing about one row."""

from __future__ import annotations

from typing import NamedTuple

KINDS = {
    "bad row": "not usable; left out of training and listed in bad_rows.csv",
    "blank image": "with an image of one colour",
    "small image": "with an image that is less than a quarter of the wanted size on its shorter side",
    "cut text": "with a text that model.text_encoder.max_length cuts",
    "duplicate": "with the image and the text of an earlier row of the same split",
    "label conflict": "with the image and the text of an earlier row, and another label",
    "leak": "with the image and the text of a row of an earlier split: what is tested was trained on",
    "same image": "with the image of a row of an earlier split",
    "similar image": "with nearly the image of a row of an earlier split (perceptual hash and colours)",
    "same text": "with the text of a row of an earlier split",
    "similar text": "with nearly the text of a row of an earlier split (three-letter pieces in common)",
    "group in two splits": "of a group that an earlier split has rows of too",
}
"""What can be found, in the order of telling, and what is said of the rows. `train` is earlier than `val`, `val` than
`test`."""


class Finding(NamedTuple):
    """One row, or two that have something in common.

    Attributes:
        kind: one of `KINDS`.
        split: of the row; empty where its split is unknown.
        row: its number.
        id: its id.
        other_split: of the row that it is like; empty where there is none.
        other_row: None where there is none.
        other_id: its id.
        detail: what else there is to say.
    """

    kind: str
    split: str
    row: int
    id: str
    other_split: str = ""
    other_row: int | None = None
    other_id: str = ""
    detail: str = ""

    def __str__(self) -> str:
        """One line for people."""
        where = _place(self.split, self.row, self.id)
        like = "" if self.other_row is None else f"  ~  {_place(self.other_split, self.other_row, self.other_id)}"
        return f"{where}{like}{'  ' if self.detail else ''}{self.detail}"


def _place(split: str, row: int, name: str) -> str:
    named = "" if name in ("", str(row)) else f" (id {name})"
    return f"{split} row {row}{named}".lstrip()
