"""`mmft check`: what it prints, that it says all errors at once, and that it agrees with what training does."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from make_shapes import Shapes
from runs import TrainRun
from safetensors.torch import load_file, save_file

from mmft.cli.main import main
from mmft.commands.check import check
from mmft.config.compose import compose
from mmft.errors import UserError

Check = Callable[..., tuple[int, str]]


@pytest.fixture
def checked(shapes_overrides: list[str], capsys: pytest.CaptureFixture[str]) -> Check:
    """`checked(override, ...)`: the exit code and what was printed on stdout."""

    def run(*overrides: str) -> tuple[int, str]:
        code = check(compose("check", [*shapes_overrides, *overrides]))
        return code, capsys.readouterr().out

    return run


def test_what_is_printed(checked: Check, train_run: TrainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = checked("data.micro_batch_size=4")
    assert code == 0
    assert said.splitlines()[-1] == "Training would work."
    assert not list(tmp_path.glob("*"))  # nothing is written
    run = train_run()
    summary = run.summary
    for name, count in summary["rows"].items():
        assert name == "bad" or f"{name} {count}" in said
    assert f"{summary['parameters']['trainable']:,} of {summary['parameters']['total']:,}" in said
    assert f"steps     {summary['optimizer_steps']} of" in said
    assert "8 rows take" in said  # two micro-batches
    assert "what frozen layers compute is kept" not in said
    assert "memory    about " in said
    assert "images  " in said
    assert "texts     " in said


def test_frozen_layers_are_computed_once(checked: Check) -> None:
    assert "what frozen layers compute is kept where that pays (cache=auto)" in checked("tune=last_n")[1]
    assert "what frozen layers compute is kept (cache=always)" in checked("tune=last_n", "cache=always")[1]
    assert "what frozen layers compute is kept" not in checked("tune=last_n", "cache=never")[1]


def test_a_subset_is_counted_and_its_steps_are_tried(checked: Check, train_run: TrainRun) -> None:
    typed = ["data.limit=null", "data.subset=herding", "data.subset.fraction=0.2"]
    code, said = checked(*typed)
    assert code == 0
    summary = train_run(*typed).summary
    assert f"subset    {summary['rows']['train']} of 180 training rows, by herding" in said
    assert f"steps     {summary['optimizer_steps']} of" in said
    with pytest.raises(UserError, match="data.subset.rows=181: there are 180 usable training rows"):
        checked(*typed[:2], "data.subset.rows=181")


def test_every_error_at_once(
    checked: Check, shapes: Shapes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_csv(shapes.rows)
    frame["label"] = "all the same"
    frame.loc[frame.index[:20], "image"] = "gone.png"
    rows = tmp_path / "rows.csv"
    frame.to_csv(rows, index=False)
    encoder = tmp_path / "encoder"
    shutil.copytree(shapes.image_encoder, encoder)
    state = load_file(encoder / "model.safetensors")
    save_file({name: value for name, value in state.items() if "blocks.0" not in name}, encoder / "model.safetensors")
    with pytest.raises(UserError) as wrong:
        checked(
            f"data.path={rows}",
            f"data.root={shapes.rows.parent}",
            f"model.image_encoder.name={encoder}",
            "data.limit=null",
        )
    messages = wrong.value.messages
    assert len(messages) == 3, messages
    for part in ("the training rows have 1 class (all the same)", str(encoder), "20 of 240 rows are known to be bad"):
        assert any(part in message for message in messages), messages
    said = capsys.readouterr().out
    assert "bad row: 20 rows not usable" in said
    assert f"no such file: {shapes.rows.parent / 'gone.png'}" in said
    assert "Training would work" not in said


def test_what_chooses_the_best_checkpoint_is_judged(checked: Check, shapes: Shapes, tmp_path: Path) -> None:
    frame = pd.read_csv(shapes.rows)
    frame[frame["split"] != "val"].to_csv(tmp_path / "rows.csv", index=False)
    where = [f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}", "audit.pictures=false"]
    few = ["checkpoint.keep=2", "callbacks.early_stopping.patience=3", "checkpoint.monitor=recall@7"]
    with pytest.raises(UserError) as wrong:
        checked(*where, *few)
    told = ["checkpoint.monitor=recall@7: this task has no such metric", "checkpoint.keep=2: there are no validation"]
    told += ["callbacks.early_stopping.patience=3: there are no validation rows"]
    assert [any(part in message for message in wrong.value.messages) for part in told] == [True] * 3
    assert len(wrong.value.messages) == 3


def test_findings_are_written_and_a_few_are_shown(checked: Check, shapes: Shapes, tmp_path: Path) -> None:
    frame = pd.read_csv(shapes.rows)
    train, test = (frame.index[frame["split"] == name][0] for name in ("train", "test"))
    frame.loc[test, ["image", "text", "label"]] = frame.loc[train, ["image", "text", "label"]]
    frame.loc[frame.index[-3:], "image"] = "gone.png"
    rows, out = tmp_path / "rows.csv", tmp_path / "found.jsonl"
    frame.to_csv(rows, index=False)
    more = [f"data.path={rows}", f"data.root={shapes.rows.parent}", "data.max_bad_fraction=0.5", "data.limit=null"]
    code, said = checked(*more, f"out={out}", "audit.shown=1", "model.text_encoder.max_length=4")
    assert code == 0
    assert "bad row: 3 rows" in said
    assert "and 2 more (audit.shown=null" in said
    found = [json.loads(line) for line in out.read_text().splitlines()]
    leaks = [
        (line["split"], line["row"], line["other_split"], line["other_row"]) for line in found if line["kind"] == "leak"
    ]
    assert ("test", test, "train", train) in leaks
    assert sum(line["kind"] == "cut text" for line in found) > 10
    code, said = checked(*more, f"out={tmp_path / 'found.csv'}", "audit.shown=null", "audit.pictures=false")
    assert code == 0
    assert "bad row" not in said  # the images were not opened
    with (tmp_path / "found.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == sum(line.startswith("    ") for line in said.splitlines()) - _labels(
            said
        )


def _labels(said: str) -> int:
    """Lines of the table of labels."""
    lines = said.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("labels"))
    return lines[start:].index("") - 1


@pytest.mark.parametrize("devices", [1, 2])
def test_one_file_per_split_and_several_devices(checked: Check, shapes: Shapes, tmp_path: Path, devices: int) -> None:
    frame, files = pd.read_csv(shapes.rows), []
    for name in ("train", "val", "test"):
        frame[frame["split"] == name].drop(columns="split").to_csv(tmp_path / f"{name}.csv", index=False)
        files.append(f"data.{name}={tmp_path / name}.csv")
    none = ["data.path=null", "data.columns.split=null", f"data.root={shapes.rows.parent}"]
    code, said = checked(*none, *files, "data.batch_size=12", f"trainer.devices={devices}", "trainer.accelerator=cpu")
    assert code == 0
    assert f"{12 // devices} rows take" in said


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("resume=last", "resume: mmft check does not support resuming"),
        ("out=found.txt", "out: 'found.txt': unknown file extension"),
        ("out=-", "out: findings are printed anyway"),
        ("audit.pictur=1", "Did you mean audit.pictures"),
        ("audit.text_likeness=2", "audit.text_likeness"),
        ("optim=sgdd", "Did you mean sgd"),
    ],
)
def test_wrong_configs(
    override: str, message: str, shapes_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *shapes_overrides, override]) == 2
    assert message in capsys.readouterr().err


def test_without_rows_the_shipped_sample_is_checked() -> None:
    assert compose("check", []).config.data.path == "mmft:clipart.parquet"
    assert "audit" not in compose("train", []).resolved_for_disk()


def test_the_same_rows_for_all_splits_leak_nothing(checked: Check) -> None:
    code, said = checked("data.limit=null", "data.overfit=8")
    assert code == 0
    assert "leak" not in said


def test_what_several_devices_would_do_is_tried_on_one(checked: Check) -> None:
    code, said = checked("trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=fsdp", "data.batch_size=8")
    assert code == 0
    assert "4 rows take" in said
    assert "fsdp shards weights, gradients and optimizer over the 2 devices" in said


def test_numbers_are_shown_by_their_quartiles(checked: Check, shapes: Shapes, tmp_path: Path) -> None:
    frame = pd.read_csv(shapes.rows)
    frame["size"] = range(len(frame))
    frame.to_csv(tmp_path / "rows.csv", index=False)
    rows = [f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}", "data.columns.label=[size]"]
    code, said = checked(*rows, "task=regression", "data.limit=null")
    assert code == 0
    train = frame.loc[frame["split"] == "train", "size"]
    expected = ["size", "train", str(len(train)), *(f"{v:.4g}" for v in (train.mean(), train.std(ddof=0)))]
    expected += [f"{train.quantile(q):.4g}" for q in (0, 0.25, 0.5, 0.75, 1)]
    assert expected in [line.split() for line in said.splitlines()]
