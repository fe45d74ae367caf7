"""`model.tiles` by the commands and in Python: train, predict, chat, resume, frozen work, export, check."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import transformers as hf
from generative_rows import with_gaps
from make_shapes import Shapes
from PIL import Image
from runs import QUICK, Run, killed_run, resumed, same_weights

import mmft
from mmft.commands.check import check
from mmft.commands.export import export
from mmft.commands.predict import predict
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.errors import UserError

Folder = Callable[[str], Path]
QUESTIONS = ["red", "drawn in blue ink", "is it green?"]


@pytest.fixture(scope="module")
def rows(shapes: Shapes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample with images of all proportions; some training rows lack an image or a text."""
    folder, draw = tmp_path_factory.mktemp("tiles"), np.random.default_rng(0)
    frame = with_gaps(shapes).groupby("split").head(16).reset_index(drop=True)
    for at, name in frame["image"].dropna().items():
        size = tuple(draw.integers(24, 100, 2).tolist())
        Image.open(shapes.rows.parent / name).convert("RGB").resize(size).save(folder / f"{at}.png")
        frame.loc[at, "image"] = f"{at}.png"  # type: ignore[index]
    frame.to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


@pytest.fixture(scope="module")
def typed(shapes: Shapes, rows: Path) -> Callable[..., list[str]]:
    """`typed(folder, *more)`: overrides that train a whole model on tiles, LoRA on its language model."""

    def overrides(folder: Path, *more: str) -> list[str]:
        own = [one for one in shapes.overrides if not one.startswith("model.")]
        data = [f"data.path={rows}", "data.batch_size=8", "task=generation", "task.max_answer_tokens=8"]
        model = [f"model.whole={folder}", "model.tiles=true", "model.text_encoder.max_length=32"]
        return [
            *own,
            *QUICK,
            *data,
            *model,
            "tune/image_encoder=freeze",
            "tune/text_encoder=lora",
            "optim.lr=null",
            *more,
        ]

    return overrides


@pytest.fixture(
    scope="module", params=["internvl", *(pytest.param(k, marks=pytest.mark.slow) for k in ("smolvlm", "qwen2_5_vl"))]
)
def run(
    request: pytest.FixtureRequest, typed: Any, whole_folder: Folder, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    path = tmp_path_factory.mktemp("tiled") / request.param
    assert train(compose("train", typed(whole_folder(request.param))), path) == 0
    return Run(path)


def test_python_predicts_what_the_command_does(run: Run, rows: Path, tmp_path: Path) -> None:
    assert run.summary["rows"]["bad"] == 0
    assert "images are cut as its own processor does it" in (run.path / "train.log").read_text()
    out = tmp_path / "answers.csv"
    assert predict(compose("predict", [f"run={run.path}", f"data.path={rows}", f"out={out}"])) == 0
    found = pd.read_csv(out, keep_default_na=False)
    assert (found["error"] == "").all()
    frame = pd.read_csv(rows).head(6)
    given = [
        {name: None if pd.isna(row[name]) else row[name] for name in ("image", "text")}
        for row in frame.to_dict("records")
    ]
    model = mmft.load(run.path)
    listed = model.predict(given, root=rows.parent)
    assert [row["prediction"] for row in listed] == found["prediction"].head(6).tolist()
    assert [row["score"] for row in listed] == pytest.approx(found["score"].head(6).astype(float).tolist(), abs=1e-5)
    turns = [{"role": "user", "content": given[0]["text"]}]
    image = str(rows.parent / given[0]["image"])
    assert model.chat(turns, image=image) == listed[0]["prediction"]
    assert isinstance(model.chat(turns), str)  # without an image
    beams = model.decoding(num_beams=3)
    one = [beams.predict([row], root=rows.parent)[0]["prediction"] for row in given[:3]]
    assert [row["prediction"] for row in beams.predict(given[:3], root=rows.parent)] == one


def test_plain_transformers_loads_the_export(run: Run, rows: Path, tmp_path: Path) -> None:
    assert export(compose("export", [f"run={run.path}", f"out={tmp_path / 'export'}"])) == 0
    plain = hf.AutoModelForImageTextToText.from_pretrained(tmp_path / "export").eval()
    processor = hf.AutoProcessor.from_pretrained(tmp_path / "export")
    assert "cut as this folder's processor does it" in (tmp_path / "export" / "README.md").read_text()
    model = mmft.load(run.path)
    images = [str(rows.parent / name) for name in pd.read_csv(rows)["image"].dropna().head(len(QUESTIONS))]
    listed = model.predict([{"image": image, "text": text} for image, text in zip(images, QUESTIONS, strict=True)])
    for image, question, found in zip(images, QUESTIONS, listed, strict=True):
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(text=[text], images=[Image.open(image)], return_tensors="pt")
        end = model.saved.model.text_encoder.tokenizer.eos_token_id
        ending = {"eos_token_id": end, "do_sample": False, "pad_token_id": 1}
        tokens = plain.generate(**inputs, max_new_tokens=8, **ending)[0, inputs["input_ids"].shape[1] :]
        assert processor.tokenizer.decode(tokens, skip_special_tokens=True).strip() == found["prediction"]


JOB_CACHE = [
    ("internvl", "tune/image_encoder=freeze"),
    *(
        pytest.param(kind, f"tune/image_encoder={how}", marks=pytest.mark.slow)
        for kind in ("smolvlm", "llava_next", "qwen2_5_vl")
        for how in ("freeze", "last_n")
    ),
]


@pytest.mark.parametrize(("kind", "how"), JOB_CACHE)
def test_kept_frozen_work_changes_no_bit(kind: str, how: str, typed: Any, whole_folder: Folder, tmp_path: Path) -> None:
    """Without the store, filling it, and reading it: also rows of one epoch alone, of which some images lack."""
    store = f"paths.cache={tmp_path / 'cache'}"
    found = []
    for name, keep in (("never", "never"), ("filled", "always"), ("read", "always")):
        every = typed(whole_folder(kind), how, store, f"cache={keep}", "trainer.max_epochs=2")
        assert train(compose("train", every), tmp_path / name) == 0
        found.append(Run(tmp_path / name))
    assert list((tmp_path / "cache").rglob("*.shard"))
    assert "images is read from" in (tmp_path / "read" / "train.log").read_text() or how.endswith("last_n")
    assert "computing" not in (tmp_path / "read" / "train.log").read_text().partition("cache:")[2]
    assert all(same_weights(found[0], one) for one in found[1:])
    assert len({one.summary["test"]["loss"] for one in found}) == 1


@pytest.mark.parametrize("kind", [pytest.param("smolvlm", marks=pytest.mark.slow), "qwen2_5_vl"])
def test_a_killed_run_resumes_bit_for_bit(kind: str, typed: Any, whole_folder: Folder, tmp_path: Path) -> None:
    every = typed(whole_folder(kind), "checkpoint.every_steps=1", "task.packing=true", "data.micro_batch_tokens=400")
    assert train(compose("train", every), tmp_path / "run") == 0
    killed_run(every, tmp_path / "killed", 3, "after")
    again = resumed(every, tmp_path / "killed")
    assert again.summary["resumed_from"] == [3]
    assert same_weights(again, Run(tmp_path / "run"))


def test_check_counts_real_tokens(typed: Any, whole_folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(compose("check", typed(whole_folder("smolvlm")))) == 0
    shown = capsys.readouterr().out
    assert "Training would work." in shown
    tile = r"<fake_token_around_image><row_1_col_1>\[4 image tokens\]"
    assert re.search(tile, shown)
    counts = [int(count) for count in re.findall(r"(\d+) of the image,", shown)]
    assert len(set(counts)) > 1
    median, *_, longest = re.search(r"train +images +15((?: +\d+)+)", shown)[1].split()  # type: ignore[index]
    assert int(median) < int(longest)


def test_an_image_with_too_many_tokens_is_a_bad_row(
    typed: Any, whole_folder: Folder, rows: Path, tmp_path: Path
) -> None:
    """Of a language model of 640 positions, of which 360 are kept free for answers."""
    frame = pd.read_csv(rows)
    tall = frame.index[frame["split"] == "train"][3]
    Image.new("RGB", (64, 64)).save(rows.parent / "square.png")
    frame.loc[tall, "image"] = "square.png"  # 17 tiles of SmolVLM, 300 tokens
    frame.to_csv(rows.parent / "crowded.csv", index=False)
    path = f"data.path={rows.parent / 'crowded.csv'}"
    more = ["task.max_answer_tokens=360", "task.max_new_tokens=8", "data.max_bad_fraction=0.5", "trainer.max_epochs=1"]
    own = [one for one in typed(whole_folder("smolvlm")) if not one.startswith(("data.path", "task.max_answer"))]
    assert train(compose("train", [*own, path, *more]), tmp_path / "run") == 0
    found = pd.read_csv(tmp_path / "run" / "bad_rows.csv")
    assert tall in found["row"].tolist()
    assert found["reason"].str.contains(r"it needs \d+ tokens, and the prompt with it \d+, more than the 280").all()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            ["model.image_encoder.image_size=64"],
            "model.image_encoder.image_size: changes nothing with model.tiles=true",
        ),
        (["data.resize=pad"], "data.resize: changes nothing with model.tiles=true"),
        (["data/augment=light"], "not go with model.tiles=true"),
        (["model.whole=null", "model/fusion=projector"], "model.tiles: is how the processor of a whole model cuts"),
    ],
)
def test_what_makes_no_sense_is_refused(more: list[str], expected: str, typed: Any, whole_folder: Folder) -> None:
    own = [
        one
        for one in typed(whole_folder("internvl"))
        if one.partition("=")[0] not in {m.partition("=")[0] for m in more}
    ]
    with pytest.raises(UserError) as error:
        compose("train", [*own, *more])
    assert any(expected in message for message in error.value.messages), error.value.messages


def test_parts_of_an_image_in_tiles_are_explained(run: Run, tmp_path: Path) -> None:
    """An image that is white, as the image of comparison is, but for its lower right: all that counts is there."""
    pixels = np.full((60, 96, 3), 255, dtype=np.uint8)
    pixels[35:, 56:] = np.random.default_rng(0).integers(0, 200, (25, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    given = {"image": "image.png", "text": "red, drawn"}
    (explained,) = mmft.load(run.path).explain([given], root=tmp_path, label="red disc", points=16)
    (heat,) = explained.images
    assert np.array_equal(heat.pixels, pixels)
    found = explained.numbers()
    cells = np.array(found["cells"])  # (12, 12)
    assert found["image"] == pytest.approx(cells.sum(), abs=1e-9)
    assert np.abs(cells[:6]).sum() + np.abs(cells[:, :6]).sum() < 1e-9 < np.abs(cells[8:, 8:]).min()
    assert [word["text"] for word in found["words"]] == ["red,", "drawn"]
    assert all(word["weight"] for word in found["words"])
    parts = found["image"] + sum(word["weight"] for word in found["words"])
    assert found["value"] - found["baseline"] - found["missed"] == pytest.approx(parts, abs=1e-5)
    assert abs(found["missed"]) < 0.05 * max(abs(found["image"]), abs(found["text"]))
    assert explained.page().size[1] < 500  # the image keeps its proportions
