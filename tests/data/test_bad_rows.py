"""Bad rows are counted once each, listed, found again by a resumed run, and too many of them end it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmft.batch import BadRow
from mmft.data.bad_rows import BadRows
from mmft.errors import UserError

ROWS = [BadRow(at, f"r{at}", "image", "no such file") for at in range(8)]


def test_rows_are_listed_once(tmp_path: Path) -> None:
    path = tmp_path / "bad_rows.csv"
    bad = BadRows(100, 0.01, path)
    assert not path.exists()
    bad.add([ROWS[0], ROWS[0]])
    bad.add(ROWS[:2])
    assert bad.count == 2
    assert path.read_text() == "row,id,column,reason,split\n0,r0,image,no such file,\n1,r1,image,no such file,\n"


def test_the_same_number_in_another_file_is_another_row() -> None:
    bad = BadRows(100, 1.0)
    bad.add([BadRow(0, "train:0", "", "x"), BadRow(0, "val:0", "", "x")])
    assert bad.count == 2
    bad.add(
        [BadRow(1, "r1", "", "x", "train"), BadRow(1, "r1", "", "x", "test/photo"), BadRow(1, "r1", "", "x", "train")]
    )
    assert bad.count == 4


def test_a_list_of_an_earlier_version_names_no_splits(tmp_path: Path) -> None:
    path = tmp_path / "bad_rows.csv"
    path.write_text("row,id,column,reason\n0,r0,image,no such file\n")
    bad = BadRows(100, 1.0, path)
    bad.add([ROWS[0]._replace(split="train"), ROWS[1]._replace(split="train")])
    assert path.read_text().splitlines() == [
        "row,id,column,reason,split",
        "0,r0,image,no such file,",
        "1,r1,image,no such file,train",
    ]


def test_a_resumed_run_goes_on_with_the_list_even_after_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "bad_rows.csv"
    odd = BadRow(9, 'nine, "9"\n', "te\nxt", "line\r\nbreak \ud800")
    BadRows(100, 1.0, path).add([ROWS[0], odd])
    with path.open("a") as file:
        file.write("5,r5,ima")
    again = BadRows(100, 1.0, path)
    assert again.count == 2
    again.add([ROWS[0], odd, ROWS[5]])
    assert again.count == 3
    assert len(path.read_text().splitlines()) == 4
    path.write_text("row,id")
    assert BadRows(1, 1.0, path).count == 0


def test_too_many_end_the_run(tmp_path: Path) -> None:
    bad = BadRows(100, 0.05, tmp_path / "bad_rows.csv")
    bad.add(ROWS[:5])
    bad.check()
    bad.add(ROWS)
    with pytest.raises(UserError) as caught:
        bad.check()
    text = str(caught.value)
    assert "8 of 100 rows are known to be bad (8.0%), more than data.max_bad_fraction=0.05 allows" in text
    assert "row 0 (id r0): image: no such file" in text
    assert "and 3 more, in " in text
    BadRows(0, 0.0).check()


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        (["label '€ 12' is not a number (a comma groups)", "label '1,2' is not a number"], "label … is not a number"),
        (["weight -1.0 is not a finite number of at least 0"], "weight … is not a finite number of at least …"),
        (["an empty label in 'a||b'", "an empty label in '||'"], "an empty label in …"),
        (["no such file: /a/b c.png", "no such file: /a/d.png"], "no such file"),
        (["'holdout' is no split; allowed: train, val, test"], "… is no split"),
        (["the place (<image>) is in turn 3", "the place (<image>) is in turn 4"], "the place is in turn …"),
    ],
)
def test_reasons_that_are_alike_are_counted_together(reasons: list[str], told: str) -> None:
    bad = BadRows(4, 0.1)
    bad.add(BadRow(number, str(number), "price", reason) for number, reason in enumerate(reasons))
    with pytest.raises(UserError, match=re.escape(f"allows: {len(reasons)} x price: {told}\n")):
        bad.check()


def test_too_many_in_one_of_several_tables() -> None:
    bad = BadRows(4, 0.1, where="data.test.photo=a.csv")
    bad.add(ROWS[:1])
    with pytest.raises(UserError, match=r"^data\.test\.photo=a\.csv: 1 of 4 rows are known to be bad"):
        bad.check()
