"""Training on rows that `data.subset` chose: which they are, that nothing else is trained on, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from command import Mmft
from make_shapes import LABELS, Shapes
from runs import QUICK, Run, TrainRun, of_one_and_two_ranks, resumed, same_weights

from mmft import build
from mmft.config.compose import compose
from mmft.data.splitting.splits import load_splits
from mmft.errors import TrainingError, UserError

ALL = ["data.limit=null", "data.columns.id=id", "trainer.precision=32-true", "trainer.max_epochs=1"]


def chosen(run: Run) -> pd.DataFrame:
    return pd.read_csv(run.path / "subset.csv", dtype={"id": str})


@pytest.fixture
def rows(shapes: Shapes) -> pd.DataFrame:
    """The sample's table."""
    return pd.read_csv(shapes.rows, dtype={"id": str})


@pytest.mark.parametrize("method", ["random", "k_center", "herding", "coreset"])
def test_a_few_rows_of_every_class_are_trained_on(train_run: TrainRun, rows: pd.DataFrame, method: str) -> None:
    run = train_run(*ALL, f"data.subset={method}", "data.subset.rows=12")
    found = rows.loc[chosen(run).row]
    assert found.id.tolist() == chosen(run).id.tolist()
    assert set(found.split) == {"train"}
    assert found.label.value_counts().to_dict() == dict.fromkeys(LABELS, 2)
    usable = (rows.split == "train").sum()
    facts = {"method": method, "by_label": True, "rows": 12, "of": usable}
    assert facts.items() <= run.summary["subset"].items()
    assert run.summary["rows"] == {"train": 12, "val": 30, "test": 30, "bad": 0}
    if method == "random":
        assert "features" not in run.summary["subset"]
        return
    assert run.summary["subset"]["features"] == ["image", "text"]
    radius, usual = run.summary["subset"]["farthest"], run.summary["subset"]["farthest_if_drawn"]
    assert method != "k_center" or 0 < radius <= usual
    log = (run.path / "train.log").read_text()
    assert f"subset: 12 of {usable} training rows, each class its share, chosen by {method} over" in log
    assert f"is {radius:.3f} from the nearest chosen one of its class ({usual:.3f} if" in log


def test_nothing_but_these_rows_is_trained_on(
    train_run: TrainRun, shapes: Shapes, rows: pd.DataFrame, tmp_path: Path
) -> None:
    typed = [*ALL, "trainer.max_epochs=2", "task.class_weights=balanced"]
    run = train_run(*typed, "data.subset=k_center", "data.subset.fraction=0.2", "data.subset.by_label=false")
    kept = rows[(rows.split != "train") | rows.index.isin(chosen(run).row)]
    kept.to_csv(tmp_path / "kept.csv", index=False)
    alone = train_run(*typed, f"data.path={tmp_path / 'kept.csv'}", f"data.root={shapes.folder}")
    assert same_weights(run, alone)
    assert run.summary["test"] == alone.summary["test"]


def test_neither_workers_nor_the_store_change_the_choice(train_run: TrainRun, tmp_path: Path) -> None:
    typed = [*ALL, "data.subset=coreset", "data.subset.fraction=0.1"]
    first = chosen(train_run(*typed, "cache=never"))
    for more in (["data.num_workers=2"], ["cache=always", f"paths.cache={tmp_path / 'store'}"]):
        assert chosen(train_run(*typed, *more)).equals(first)
    assert not chosen(train_run(*typed, "seed=1", "data.subset=random")).equals(first)


def test_drawing_rows_needs_no_encoder(train_run: TrainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmft.build.subset.EncoderFeatures", None)
    by_default = train_run(*ALL, "data.subset.fraction=0.1")
    assert chosen(by_default).equals(chosen(train_run(*ALL, "data.subset=random", "data.subset.fraction=0.1")))
    everything = train_run(*ALL, "data.subset=k_center", "data.subset.fraction=1")
    assert everything.summary["rows"]["train"] == 180
    assert not (everything.path / "subset.csv").exists()


@pytest.mark.parametrize("method", ["random", "k_center"])
def test_bad_rows_are_never_chosen(
    train_run: TrainRun, shapes: Shapes, rows: pd.DataFrame, tmp_path: Path, method: str
) -> None:
    (tmp_path / "broken.png").write_bytes(b"not an image")
    at = rows.index[rows.split == "train"]
    rows["weight"] = 1.0
    rows.image = [str(shapes.folder / image) for image in rows.image]
    rows.loc[at[0], "image"] = "gone.png"
    rows.loc[at[1], "label"] = None
    rows.loc[at[2], "weight"] = 0
    rows.loc[at[3], "image"] = None  # lacks a modality, which is not bad
    broken = [at[4]] if method == "k_center" else []  # found when it is opened
    rows.loc[broken, "image"] = str(tmp_path / "broken.png")
    rows.to_csv(tmp_path / "rows.csv", index=False)
    typed = [*ALL, f"data.path={tmp_path / 'rows.csv'}", "data.columns.weight=weight", "data.max_bad_fraction=0.1"]
    usable = 180 - 3 - len(broken)
    run = train_run(*typed, f"data.subset={method}", f"data.subset.rows={usable}")
    assert set(at) - set(chosen(run).row) == {*at[:3], *broken}
    log = (run.path / "train.log").read_text()
    assert f"subset: {2 + len(broken)} bad training rows could not be chosen; row" in log
    with pytest.raises(UserError, match=f"data.subset.rows={usable + 1}: there are {usable} usable training rows"):
        train_run(*typed, f"data.subset={method}", f"data.subset.rows={usable + 1}")
    with pytest.raises(UserError, match="of 180 rows are known to be bad"):
        train_run(*typed, "data.max_bad_fraction=0.001", f"data.subset={method}", "data.subset.rows=9")


def test_a_run_goes_on_with_its_rows(
    train_run: TrainRun,
    shapes_overrides: list[str],
    rows: pd.DataFrame,
    shapes: Shapes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = tmp_path / "rows.csv"
    rows.to_csv(table, index=False)
    where = [*ALL, f"data.path={table}", f"data.root={shapes.folder}", "schedule=constant"]
    typed = [*where, "data.subset=herding", "data.subset.rows=18"]
    run = train_run(*typed)
    before = chosen(run)
    monkeypatch.setattr("mmft.build.subset._Usable", None)
    on = resumed([*shapes_overrides, *typed, "trainer.max_epochs=2"], run.path)
    assert chosen(on).equals(before)
    assert on.summary["rows"]["train"] == 18
    rows.assign(id=[f"new{one}" for one in rows.id]).to_csv(table, index=False)
    with pytest.raises(UserError, match=r"is not a training row of data\.path=.* Start a new run"):
        resumed([*shapes_overrides, *typed, "trainer.max_epochs=3"], run.path)


def test_rows_start_from_the_run_of_init(train_run: TrainRun) -> None:
    first = train_run(*ALL, "optim.lr=0.05")
    typed = [*ALL, "data.subset=k_center", "data.subset.rows=24", "data.subset.by_label=false"]
    assert not chosen(train_run(*typed, f"init={first.path}")).equals(chosen(train_run(*typed)))


def test_a_task_without_classes(train_run: TrainRun) -> None:
    run = train_run(*ALL, "task=contrastive", "data.subset=k_center", "data.subset.rows=16")
    assert run.summary["subset"]["by_label"] is False
    assert run.summary["rows"]["train"] == 16


def test_rows_of_a_fold_in_a_balanced_order(train_run: TrainRun, rows: pd.DataFrame) -> None:
    folds = ["data.columns.split=null", "data.folds=3", "data.fold=1", "data.sampler=balanced"]
    run = train_run(*ALL, *folds, "data.subset=herding", "data.subset.rows=12")
    assert run.summary["rows"]["train"] == 12
    assert rows.loc[chosen(run).row].label.nunique() == 6


def test_too_few_rows_for_the_classes(train_run: TrainRun) -> None:
    with pytest.raises(UserError, match=r"data\.subset\.rows=5: there are 6 classes, and each gets a row. Type 6 or"):
        train_run(*ALL, "data.subset.rows=5")
    assert train_run(*ALL, "data.subset.fraction=0.01").summary["rows"]["train"] == 6


def test_what_cannot_be_chosen_from(
    train_run: TrainRun, rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.loc[rows.split == "train", "image"] = "gone.png"
    rows.to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(UserError, match="data.subset: none of the 180 training rows of data.path=.* is usable"):
        train_run(*ALL, f"data.path={tmp_path / 'rows.csv'}", "data.max_bad_fraction=1", "data.subset.rows=9")
    monkeypatch.setattr("mmft.build.subset.joined", lambda _: torch.full((180, 4), math.nan))
    with pytest.raises(TrainingError, match="Type trainer.precision=32-true"):
        train_run(*ALL, "data.subset=k_center", "data.subset.rows=9")


def test_a_check_draws_as_many(shapes_overrides: list[str]) -> None:
    config = compose("train", [*shapes_overrides, *ALL, "data.subset=coreset", "data.subset.fraction=0.1"]).config
    splits = load_splits(config.data, config.seed)
    drawn = build.drawn_subset(config, splits)
    assert len(drawn["train"]) == 18
    assert drawn["val"] is splits["val"]


@pytest.mark.slow
def test_all_ranks_have_the_rows_that_the_first_one_chose(shapes: Shapes, tmp_path: Path, forked_mmft: Mmft) -> None:
    typed = [*shapes.overrides, *QUICK, *ALL, "data.subset=k_center"]
    one, two = of_one_and_two_ranks([*typed, "data.subset.rows=24"], "ddp", tmp_path)
    assert chosen(one).equals(chosen(two))
    assert one.summary["rows"] == two.summary["rows"]
    ranks = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.subset.rows=999"]
    refused = forked_mmft("train", *typed, *ranks, cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert refused.stderr.count("data.subset.rows=999: there are 180 usable training rows") == 1
