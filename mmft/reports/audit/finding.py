"""`Finding`: one finding about one row."""

from __future__ import annotations

from typing import NamedTuple

from mmft.data.bad_rows import row_named

KINDS = {
    "bad row": "not usable; skipped in training and listed in bad_rows.csv",
    "blank image": "with a single-colour image",
    "small image": "with an image whose shorter side is less than a quarter of the model's image size",
    "cut text": "with a text truncated by model.text_encoder.max_length",
    "duplicate": "with the image and the text of an earlier row of the same split",
    "label conflict": "with the image and the text of an earlier row, but another label",
    "leak": "with the image and the text of a row of an earlier split, so trained on what is tested",
    "same image": "with the image of a row of an earlier split",
    "similar image": "with nearly the image of a row of an earlier split (perceptual hash and colours)",
    "same text": "with the text of a row of an earlier split",
    "similar text": "with nearly the text of a row of an earlier split (three-letter pieces in common)",
    "group in two splits": "of a group that also occurs in an earlier split",
    "suspect": "whose label disagrees with those of the rows most like them",
    "mismatched pair": "whose image and text do not fit, by the pretrained pair",
    "near label conflict": "that the encoders can hardly tell from another, but with another label",
    "near leak": "whose image or text the encoders can hardly tell from that of an earlier split",
    "near duplicate": "that the encoders can hardly tell from an earlier one of the same split",
}
"""Kinds of findings in report order, with their descriptions. The splits' order is `train`, `val`, `test`."""


class Finding(NamedTuple):
    """One row, or two rows that have something in common.

    Attributes:
        kind: one of `KINDS`.
        split: the row's; empty if unknown.
        row: its number.
        id: its id.
        other_split: split of the row that it resembles; empty if there is none.
        other_row: that row's number; None if there is none.
        other_id: that row's id.
        detail: further details.
        score: of findings by features, higher is worse: the cosine, or how much the neighbours disagree; else None.
        label: of findings by features, the row's label.
        other_label: the other row's label, or the one that the neighbours suggest.
    """

    kind: str
    split: str
    row: int
    id: str
    other_split: str = ""
    other_row: int | None = None
    other_id: str = ""
    detail: str = ""
    score: float | None = None
    label: str = ""
    other_label: str = ""

    def __str__(self) -> str:
        """One line of the printed report."""
        where = _place(self.split, self.row, self.id)
        like = "" if self.other_row is None else f"  ~  {_place(self.other_split, self.other_row, self.other_id)}"
        return f"{where}{like}{'  ' if self.detail else ''}{self.detail}"


def _place(split: str, row: int, name: str) -> str:
    return f"{split} {row_named(row, name)}".lstrip()
