"""Conversations with several images by the commands and in Python, of projected and of whole models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from make_shapes import Shapes
from PIL import Image
from runs import QUICK, Run, killed_run, resumed, same_weights

import mmft
from mmft.commands.check import check
from mmft.commands.predict import predict
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.errors import UserError

Folder = Callable[..., Path]
COLOURS = ["red", "blue", "green", "yellow"]


def asked(number: int, label: str | None = None) -> list[dict[str, str]]:
    """What colour the image of this number has."""
    turns = [{"role": "user", "content": f"what is {'<image> or <image> yes' if number else 'it'}"}]
    return turns if label is None else [*turns, {"role": "assistant", "content": label}]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 rows with two images of one colour each, of which the second is asked for; and some with one or none."""
    folder = tmp_path_factory.mktemp("several")
    for colour in COLOURS:
        Image.new("RGB", (40, 28), colour).save(folder / f"{colour}.png")
    found: list[dict[str, Any]] = [
        {"image": [f"{one}.png", f"{two}.png"], "messages": asked(1, two), "split": "train"}
        for one in COLOURS
        for two in COLOURS
    ]
    for split in ("val", "test"):
        found += [{"image": ["red.png", f"{one}.png"], "messages": asked(1, one), "split": split} for one in COLOURS]
    found += [{"image": ["red.png"], "messages": asked(0, "red"), "split": "test"}]
    found += [{"image": None, "messages": asked(0, "red"), "split": "test"}]
    pd.DataFrame(found).to_json(folder / "rows.jsonl", orient="records", lines=True)
    return folder / "rows.jsonl"


@pytest.fixture(scope="module")
def typed(shapes: Shapes, rows: Path, language_model_folder: Folder, whole_folder: Folder) -> Callable[..., list[str]]:
    """`typed(kind, *more)`: a projected model, or a whole one with or without tiles."""

    def overrides(kind: str, *more: str) -> list[str]:
        data = [f"data.path={rows}", "data.columns.text=null", "data.columns.label=null", "data.batch_size=8"]
        data += ["data.columns.messages=messages", "task=generation", "task.max_answer_tokens=8", "optim.lr=null"]
        own = [*shapes.overrides, *QUICK, *data, "tune/image_encoder=freeze", "tune/text_encoder=lora"]
        own = [one for one in own if not one.startswith(("data.columns.id", "data.columns.group", "data.limit"))]
        if kind == "projected":
            model = [f"model.text_encoder.name={language_model_folder('qwen3', chat=True)}", "model/fusion=projector"]
            return [*own, *model, "model.fusion.tokens=pooled", "model.text_encoder.max_length=64", *more]
        own = [one for one in own if not one.startswith("model.")]
        model = [f"model.whole={whole_folder(kind.removesuffix('_tiles'))}", f"model.tiles={kind.endswith('_tiles')}"]
        return [*own, *model, "model.text_encoder.max_length=64", *more]

    return overrides


@pytest.mark.parametrize("kind", ["projected", "internvl_tiles", pytest.param("qwen2_vl", marks=pytest.mark.slow)])
def test_train_predict_and_chat(kind: str, typed: Any, rows: Path, tmp_path: Path) -> None:
    assert train(compose("train", typed(kind, "modality_report=true")), tmp_path / "run") == 0
    run = Run(tmp_path / "run")
    assert run.summary["rows"]["bad"] == 0
    out = tmp_path / "answers.csv"
    assert predict(compose("predict", [f"run={run.path}", f"data.path={rows}", f"out={out}"])) == 0
    found = pd.read_csv(out, keep_default_na=False)
    assert (found["error"] == "").all()
    model = mmft.load(run.path)
    given = [
        {"image": ["red.png", "blue.png"], "messages": asked(1)},
        {"image": ["blue.png", "red.png"], "messages": asked(1)},
        {"image": ["red.png"], "messages": asked(0)},
        {"messages": asked(0), "image": None},
    ]
    together = model.predict(given, root=rows.parent)
    alone = [model.predict([row], root=rows.parent)[0] for row in given]
    assert [row["error"] for row in together] == [None] * 4
    scores = [row["score"] for row in together]
    assert scores == pytest.approx([row["score"] for row in alone], abs=1e-5)
    assert scores[0] != scores[1]  # the order of the images matters
    images = [str(rows.parent / name) for name in ("red.png", "blue.png")]
    assert model.chat(asked(1), image=images) == together[0]["prediction"]
    with pytest.raises(UserError, match=r"messages: 2 places of an image \(<image>\), but a row has one image"):
        model.chat(asked(1), image=images[0])
    explained = model.explain(given, root=rows.parent, label="red")
    assert [len(one.images) for one in explained] == [2, 2, 1, 0]
    found = explained[0].numbers()
    assert len(found["more_cells"]) == 1
    assert found["image"] == pytest.approx(np.sum(found["cells"]) + np.sum(found["more_cells"]), abs=1e-9)
    assert abs(found["missed"]) < 0.05 * max(abs(found["image"]), abs(found["text"]))
    assert explained[0].page().height > explained[2].page().height


@pytest.mark.parametrize("kind", ["projected", pytest.param("qwen2_5_vl_tiles", marks=pytest.mark.slow)])
def test_a_killed_run_resumes_bit_for_bit(kind: str, typed: Any, tmp_path: Path) -> None:
    every = typed(kind, "checkpoint.every_steps=1", "task.packing=true", "data.micro_batch_tokens=300")
    assert train(compose("train", every), tmp_path / "run") == 0
    killed_run(every, tmp_path / "killed", 3, "after")
    again = resumed(every, tmp_path / "killed")
    assert again.summary["resumed_from"] == [3]
    assert same_weights(again, Run(tmp_path / "run"))


def test_check_shows_all_images(typed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(compose("check", typed("projected"))) == 0
    shown = capsys.readouterr().out
    assert "Training would work." in shown
    assert shown.count("[4 image tokens]") >= 6
    assert "8 of the image" in shown


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["projected", "internvl_tiles"])
def test_16_rows_are_learned_by_heart(kind: str, typed: Any, rows: Path, tmp_path: Path) -> None:
    """The answer is the colour of the second image, whatever the first one is."""
    more = ["tune=full", "optim.lr=2e-3", "optim.head_lr=2e-3", "trainer.max_epochs=60", "schedule=constant"]
    every = [one for one in typed(kind) if not one.startswith(("tune/", "optim.lr", "trainer.max_epochs"))]
    assert train(compose("train", [*every, *more, "checkpoint.use=last"]), tmp_path / "run") == 0
    listed = mmft.load(tmp_path / "run").predict(
        [{"image": [f"{a}.png", f"{b}.png"], "messages": asked(1)} for a in COLOURS for b in COLOURS], root=rows.parent
    )
    assert [row["prediction"] for row in listed] == [b for _ in COLOURS for b in COLOURS]
