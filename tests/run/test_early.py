"""What files show to be wrong is said before torch is imported."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import timm
from pyarrow import parquet
from runs import Run

import mmft
from mmft.commands.predict import predict
from mmft.config.compose import compose
from mmft.config.schema.data import ColumnsConfig, ReadingConfig
from mmft.data.header import wrong_columns
from mmft.errors import ExitCode, UserError
from mmft.models.loading.timm_names import timm_models, unknown_timm_model
from mmft.run.early import check_inputs

IN_TURN = """
import contextlib, io, json, sys
from mmft.cli.main import main

ends = []
for words in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = main(words)
    ends.append((code, said.getvalue(), "torch" in sys.modules))
print(json.dumps(ends))
"""


def ended(commands: list[list[str]]) -> list[tuple[int, str, bool]]:
    """Exit code, what stderr has, and whether torch was imported: of each command, all in one new process."""
    given = json.dumps(commands)
    done = subprocess.run([sys.executable, "-c", IN_TURN], input=given, capture_output=True, text=True, check=True)
    return [tuple(end) for end in json.loads(done.stdout)]


def test_training(shapes_overrides: list[str], tmp_path: Path) -> None:
    said = {
        "optim.lr=fast": "optim.lr: 'fast' is not allowed",
        "data.columns.label=lable": "data.columns.label=lable: data.path=",
        f"init={tmp_path}": "there is no finished model",
        "model.image_encoder.name=vit_smal_patch16_224": "nearest: vit_small_patch16_224",
        "model.image_encoder.name=timm/resnot50.a1_in1k": "nearest: resnet50",
    }
    ends = ended([["train", *shapes_overrides, typed] for typed in said])
    for expected, (code, text, torch) in zip(said.values(), ends, strict=True):
        assert expected in text
        assert (code, torch) == (ExitCode.USER, False), text


def test_a_run_without_a_model(shapes: Any, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "summary.json").write_text('{"status": "failed"}')
    run, rows = f"run={tmp_path}", f"data.path={shapes.rows}"
    commands = [
        ["predict", run, rows, f"out={tmp_path / 'out.parquet'}"],
        ["test", run, rows],
        ["embed", run, rows, f"out={tmp_path / 'out.parquet'}"],
        ["explain", run, rows, f"out={tmp_path / 'out'}", "rows=[0]"],
        ["export", run, f"out={tmp_path / 'out'}"],
    ]
    for command, (code, text, torch) in zip(commands, ended(commands), strict=True):
        assert "has no finished model: its status is failed" in text, command
        assert (code, torch) == (ExitCode.USER, False), command


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_columns_from_the_header_alone(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        parquet.write_table(pa.table({"photo": ["a.png"], "text": ["a"]}), file)
    elif ending == "csv":
        file.write_text('photo,text\na.png,"an open quote\n')  # the rows are not read
    else:
        file.write_text(json.dumps({"photo": "a.png", "text": "a"}) + "\n")
    [message] = wrong_columns(str(file), ColumnsConfig(image="image", text="text"), "data.path", ReadingConfig())
    assert message.startswith(f"data.columns.image=image: data.path={file} has no such column")
    right = ColumnsConfig(image="photo", text="text", id="id")
    assert wrong_columns(str(file), right, "data.path", ReadingConfig(), {"id"}) == []


def test_names_of_timm() -> None:
    of_timm = {name for name in timm.list_models() if timm.models.model_entrypoint(name).__module__.startswith("timm.")}
    assert timm_models() == of_timm  # other tests register more
    for name in ("resnet50", "timm/vit_small_patch14_dinov2.lvd142m", "owner/name", "bert-base-uncased", "hf/a/b"):
        assert unknown_timm_model(name) is None


@pytest.fixture
def run(finished_run: Run) -> Run:
    return finished_run


def test_a_typed_null_means_null_and_a_missing_column_is_an_error(run: Run, tmp_path: Path) -> None:
    rows = tmp_path / "texts.csv"
    rows.write_text("text\na red disc\na blue cross\n")
    typed = [f"run={run.path}", f"data.path={rows}", f"out={tmp_path / 'out.csv'}"]
    with pytest.raises(UserError, match=r"data.columns.image=image: .* has no such column"):
        check_inputs(compose("predict", typed))
    without = compose("predict", [*typed, "data.columns.image=null"])
    check_inputs(without)
    assert predict(without) == 0
    told = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [one["error"] for one in told] == ["", ""]
    assert all(one["prediction"] for one in told)

    from mmft.commands.embed import embed

    out = tmp_path / "out.parquet"
    assert embed(compose("embed", [*typed[:2], f"out={out}", "data.columns.image=null"])) == 0
    assert parquet.read_table(out).column("text" if "text" in parquet.read_table(out).column_names else "fused")[0]


def test_rows_without_a_column_lack_that_modality(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    model = mmft.load(run.path, accelerator="cpu")
    null = model.predict([{"image": None, "text": "a red disc"}])
    import logging

    logging.getLogger("mmft").propagate = True
    for rows in ([{"text": "a red disc"}], pa.table({"text": ["a red disc"]})):
        caplog.clear()
        with caplog.at_level("WARNING", "mmft"):
            answers = model.predict(rows)
        assert "no column image" in caplog.text
        found = answers if isinstance(answers, list) else answers.to_pylist()
        assert found[0]["score"] == pytest.approx(null[0]["score"], abs=1e-6)
    with pytest.raises(UserError, match="has no such column"):
        model.predict([{"title": "neither"}])
