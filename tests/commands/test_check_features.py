"""`mmft check features=true`: what is found among a table's rows, what is written, and what training takes over."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from drawings import drawing
from make_shapes import Shapes
from torch import Tensor

from mmft.cli.main import main
from mmft.commands.check import check
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.models.frozen_part import FrozenPart

Check = Callable[..., str]
COLOURS = ["red", "green", "blue"]
NEW = ("suspect", "mismatched pair", "near label conflict", "near leak", "near duplicate")


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    """48 different drawings; the text says the label."""
    rows = []
    for at in range(48):
        drawing(at).save(tmp_path / f"{at}.png")
        colour = COLOURS[at % 3]
        split = "train" if at % 4 < 2 else ("val", "test")[at % 4 - 2]
        rows.append({"image": f"{at}.png", "text": f"{colour} and nothing else", "label": colour, "split": split})
    return pd.DataFrame(rows)


@pytest.fixture
def checked(shapes_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """`checked(frame, override, ...)`: what is printed on stdout for these rows."""

    def run(frame: pd.DataFrame, *overrides: str) -> str:
        frame.to_csv(tmp_path / "rows.csv", index=False)
        given = any(one.startswith("model.pair=") for one in overrides)
        own = [one for one in shapes_overrides if not (given and "_encoder." in one)]
        typed = [*own, f"data.path={tmp_path / 'rows.csv'}", f"paths.cache={tmp_path / 'store'}"]
        assert check(compose("check", [*typed, "data.limit=null", "features=true", *overrides])) == 0
        return capsys.readouterr().out

    return run


def kinds(said: str) -> set[str]:
    """The kinds of findings by features."""
    return {kind for kind in NEW if re.search(f"^{kind}: ", said, re.MULTILINE)}


def test_a_resized_copy_in_another_split_is_found(checked: Check, frame: pd.DataFrame, tmp_path: Path) -> None:
    drawing(0).resize((120, 120)).save(tmp_path / "47.png")
    out, page = tmp_path / "found.csv", tmp_path / "found.html"
    said = checked(frame, "data.columns.text=null", f"out={out}", f"page={page}")
    with out.open(newline="") as file:
        found = [line for line in csv.DictReader(file) if line["kind"] in NEW]
    leaks = [line for line in found if line["kind"] == "near leak"]
    assert [(one["split"], one["row"], one["other_split"], one["other_row"]) for one in leaks] == [
        ("test", "47", "train", "0")
    ]
    conflict = next(line for line in found if line["kind"] == "near label conflict")
    assert (conflict["label"], conflict["other_label"]) == ("blue", "red")
    assert float(conflict["score"]) > 0.7
    assert kinds(said) == {"near leak", "near label conflict"}
    assert page.read_text().count('<div class="entry">') == 2


def test_nothing_is_found_among_different_rows(checked: Check, frame: pd.DataFrame) -> None:
    said = checked(frame, "data.columns.text=null")
    assert not kinds(said)
    assert "not judged" in said  # the drawings have nothing to do with the labels


def test_a_planted_wrong_label_is_the_first_suspect(checked: Check, frame: pd.DataFrame) -> None:
    assert not kinds(checked(frame))
    frame.loc[20, "label"] = "red"
    said = checked(frame)
    line = said.splitlines()[said.splitlines().index(next(x for x in said.splitlines() if x.startswith("suspect"))) + 1]
    assert line.lstrip().startswith("train row 20")
    assert "'red', but" in line
    assert re.search(r"^separation\n +label +rows +distance +nearest label +rows like it$", said, re.MULTILINE)
    assert re.search(r"^ +red +17 +0\.\d\d +(green|blue) ", said, re.MULTILINE)


def test_training_takes_over_what_was_computed(
    checked: Check,
    frame: pd.DataFrame,
    shapes_overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked(frame, "cache=always", "tune=head_only", "optim.lr=null")
    store = tmp_path / "store"
    shards = sorted(store.glob("*/*.shard"))
    assert shards

    def refuse(*_: object) -> Tensor:
        raise AssertionError("an encoder computes rows")

    monkeypatch.setattr(FrozenPart, "compute", refuse)
    typed = [*shapes_overrides, f"data.path={tmp_path / 'rows.csv'}", f"paths.cache={store}", "data.limit=null"]
    composed = compose("train", [*typed, "cache=always", "tune=head_only", "optim.lr=null"])
    assert train(composed, tmp_path / "run") == 0
    assert sorted(store.glob("*/*.shard")) == shards


def test_nothing_is_kept_that_is_not_asked_for(checked: Check, frame: pd.DataFrame, tmp_path: Path) -> None:
    checked(frame, "cache=never")
    assert not (tmp_path / "store").exists()
    assert not list(tmp_path.glob("*.html"))


def test_rows_that_lack_something_or_are_bad(checked: Check, frame: pd.DataFrame, tmp_path: Path) -> None:
    frame["text"] = frame["text"].astype(object)
    frame.loc[[0, 4, 8], "image"] = None
    frame.loc[[1, 5], "text"] = None
    frame.loc[2, "image"] = "gone.png"
    (tmp_path / "6.png").write_bytes(b"no image")
    frame.loc[9, "label"] = None
    frame.loc[20, "label"] = "red"
    said = checked(frame, "data.max_bad_fraction=0.5", f"page={tmp_path / 'page.html'}")
    assert "bad row: 3 rows" in said
    assert "    train row 20" in said
    assert kinds(said) == {"suspect"}


def test_blank_images_are_no_duplicates(checked: Check, frame: pd.DataFrame, tmp_path: Path) -> None:
    for at, level in ((0, 250), (3, 252), (6, 255)):
        drawing(0).point(lambda _, level=level: level).save(tmp_path / f"{at}.png")
    said = checked(frame, "data.columns.text=null")
    assert "blank image: 3 rows" in said
    assert not kinds(said)


@pytest.mark.parametrize("kept", ["text", "image"])
def test_every_task(checked: Check, frame: pd.DataFrame, kept: str) -> None:
    frame["number"] = frame["label"].map({"red": 1.0, "green": 2.0, "blue": 3.0}) + [0.001 * at for at in range(48)]
    frame.loc[20, "number"] = 7.0
    frame.loc[21, "label"] = "blue"
    lone = f"data.columns.{'image' if kept == 'text' else 'text'}=null"
    number = checked(frame, lone, "task=regression", "data.columns.label=number")
    labels = checked(frame, lone, "task=multi_label")
    both = ["task=several", "task.tasks={label:classification,number:regression}", "data.columns.label=[label,number]"]
    several = checked(frame, lone, *both, "audit.shown=null")
    answers = checked(frame, "task=question_answering")
    assert kinds(answers) == {"suspect"}
    if kept == "image":
        assert [kinds(said) for said in (number, labels, several)] == [set()] * 3
        return
    assert "train row 20  ~" in number
    assert "7, but its neighbours' median is 3" in number
    assert "has 'blue', but" in labels
    assert "lacks 'red', but" in labels
    assert "label: 'blue', but" in several
    assert "number: 7, but" in several


def test_pairs_are_judged_by_a_pretrained_pair_alone(
    checked: Check, frame: pd.DataFrame, pair_folder: Callable[[str], Path]
) -> None:
    contrastive = ["task=contrastive", "data.columns.label=null"]
    said = checked(frame, *contrastive)
    assert not kinds(said) & {"suspect", "mismatched pair"}
    assert "separation" not in said
    pair = [f"model.pair={pair_folder('clip')}", "model/fusion=pretrained", "audit.suspect_deviations=1"]
    said = checked(frame, *contrastive, *pair)
    assert "mismatched pair" in kinds(said)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["page=found.html"], "page: shows what is found by features. Type features=true"),
        (["features=true", "page=found.txt"], "page: 'found.txt': unknown file extension; expected .html"),
        (["features=true", "page=gone/found.html"], "page: there is no folder"),
        (["audit.image_cosine=0.9"], "audit.image_cosine: changes nothing without features"),
        (["features=true", "audit.text_cosine=1.5"], "audit.text_cosine"),
        (["features=maybe"], "features"),
    ],
)
def test_wrong_configs(overrides: list[str], message: str, shapes: Shapes, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *shapes.overrides, *overrides]) == 2
    assert message in capsys.readouterr().err
