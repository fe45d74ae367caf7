"""`debug=fast|overfit|limit|profile`: each does what its file says."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from make_shapes import Shapes
from runs import Run

from mmft.commands.test import test as run_test
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.config.schema.data import ColumnsConfig, DataConfig
from mmft.config.sources import Groups
from mmft.data.splitting.splits import groups_of_earlier_splits, load_splits
from mmft.errors import UserError

Debug = Callable[..., Run]


@pytest.fixture
def debug(shapes: Shapes, tmp_path: Path) -> Debug:
    """`debug("fast", "seed=1")`: a run with this option."""

    def run(name: str, *typed: str) -> Run:
        own = [o for o in shapes.overrides if not o.startswith(("data.batch_size=", "trainer.max_epochs="))]
        overrides = [*own, "callbacks.progress=none", f"debug={name}", *typed]
        assert train(compose("train", overrides), tmp_path / name) == 0
        return Run(tmp_path / name)

    return run


def losses(run: Run) -> list[float]:
    """`train/loss` by step."""
    return [float(row["train/loss"]) for row in csv.DictReader(run.metrics.splitlines()) if row["train/loss"]]


def test_every_option_is_tested() -> None:
    assert Groups([]).options("debug") == ["fast", "limit", "overfit", "profile"]


def test_fast(debug: Debug) -> None:
    run = debug("fast")
    assert run.summary["optimizer_steps"] == 2
    assert max(run.summary["rows"].values()) <= 32


def test_limit(debug: Debug) -> None:
    run = debug("limit", "data.limit=20", "data.batch_size=8")
    assert run.summary["epochs"] == 1
    assert run.summary["optimizer_steps"] == 3
    assert len(losses(run)) == 3


def test_overfit(debug: Debug, capsys: pytest.CaptureFixture[str]) -> None:
    """What the file promises, on the rows that were trained on; `mmft test` takes the same."""
    run = debug("overfit", "trainer.max_epochs=25")  # longer, since the sample's encoders are untrained
    assert run.summary["rows"] == {"train": 16, "val": 16, "test": 16, "bad": 0}
    by_step = losses(run)
    assert by_step[0] > 1
    assert max(by_step[-4:]) < 0.1
    assert run.summary["test"]["accuracy"] == 1.0
    assert "earlier split" not in (run.path / "train.log").read_text()
    capsys.readouterr()
    assert run_test(compose("test", [f"run={run.path}"])) == 0
    assert "accuracy 1.000000\n" in (said := capsys.readouterr().out)
    assert "rows 16\n" in said


def test_profile(debug: Debug) -> None:
    run = debug("profile", "data.batch_size=16")
    assert run.summary["optimizer_steps"] == 8
    text = (run.path / "profile" / "table.txt").read_text()
    assert text.startswith("5 optimizer steps, after skipping 3\n")
    calls = {words[0]: words[-1] for line in text.splitlines() if (words := line.split())}
    assert calls["image_encoder"] == calls["text_encoder"] == calls["Optimizer.step#AdamW.step"] == "5"
    events = json.loads((run.path / "profile" / "trace.json").read_text())["traceEvents"]
    assert sum(event.get("name") == "image_encoder" for event in events) == 5


def test_rows_of_overfit(shapes: Shapes) -> None:
    columns = ColumnsConfig(image="image", text="text", label="label", split="split", group="text")
    splits = load_splits(DataConfig(path=str(shapes.rows), columns=columns, overfit=5), seed=0)
    whole = load_splits(DataConfig(path=str(shapes.rows), columns=columns), seed=0)
    assert {name: split.rows.tolist() for name, split in splits.items()} == dict.fromkeys(
        ("train", "val", "test"), splits["train"].rows.tolist()
    )
    assert len(splits["train"]) == 5
    assert set(splits["train"].rows) <= set(whole["train"].rows)
    assert list(groups_of_earlier_splits(splits)) == []


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("data.limit=5", "data.overfit: does not go with data.limit"),
        ("data.overfit=1", "at least 2"),
    ],
)
def test_wrong_overfit(typed: str, said: str, shapes: Shapes) -> None:
    with pytest.raises(UserError, match=said):
        compose("train", [*shapes.overrides, "debug=overfit", typed])


def test_profile_of_more_steps_than_there_are(shapes: Shapes) -> None:
    with pytest.raises(UserError, match=r"Type trainer\.max_steps=10"):
        compose("train", [*shapes.overrides, "debug=profile", "callbacks.profile.steps=7"])
