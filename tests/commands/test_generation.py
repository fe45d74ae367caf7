"""`task=generation` by the commands and in Python: train, predict, resume, init, export and others."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from fastapi.testclient import TestClient
from generative_rows import typed_for_generation, with_gaps
from make_shapes import Shapes
from runs import Run, killed_run, of_one_and_two_ranks, resumed, same_weights

import mmft
from mmft.cli.main import main
from mmft.commands.check import check
from mmft.commands.embed import embed
from mmft.commands.explain import explain
from mmft.commands.export import export
from mmft.commands.predict import predict
from mmft.commands.serve import application
from mmft.commands.test import test as run_test
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.run.saved_model import load_model

Folder = Callable[..., Path]
PACKED = ["task.packing=true", "data.micro_batch_tokens=200", "task.label_smoothing=0.1"]


@pytest.fixture(scope="module")
def rows(shapes: Shapes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample; one training row has an answer that does not fit, others lack an image or a text."""
    frame = with_gaps(shapes)
    frame.loc[frame.index[frame["split"] == "train"][0], "label"] = "red disc " * 8
    path = tmp_path_factory.mktemp("generation") / "rows.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def typed(shapes: Shapes, rows: Path, language_model_folder: Folder) -> list[str]:
    """LoRA on a language model with a chat template and tied weights."""
    own = typed_for_generation(shapes, language_model_folder("qwen3", chat=True))
    where = [f"data.path={rows}", f"data.root={shapes.rows.parent}", "data.max_bad_fraction=0.05"]
    return [*own, *where, "tune/text_encoder=lora"]


@pytest.fixture(scope="module")
def run(typed: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("generation") / "run"
    assert train(compose("train", typed), path) == 0
    return Run(path)


def predictions(run: Run, rows: Path, shapes: Shapes, out: Path, *more: str) -> pd.DataFrame:
    typed = [f"run={run.path}", f"data.path={rows}", f"data.root={shapes.rows.parent}", f"out={out}", *more]
    assert predict(compose("predict", typed)) == 0
    return pd.read_csv(out, keep_default_na=False)


def test_the_run_folder(run: Run) -> None:
    assert set(run.summary["test"]) == {"loss", "exact_match", "token_f1", "perplexity"}
    assert run.summary["monitor"] == "val/exact_match"
    assert run.summary["rows"]["bad"] == 1
    reason = pd.read_csv(run.path / "bad_rows.csv").iloc[0]
    assert reason["column"] == "label"
    assert reason["reason"].endswith("tokens, more than task.max_answer_tokens=8")
    saved = {name.partition(".")[0] for name in run.model_state}
    assert saved == {"text_encoder", "fusion", "missing_image"}
    assert all("lora" in name for name in run.model_state if name.startswith("text_encoder"))


def test_python_predicts_what_the_command_does(run: Run, rows: Path, shapes: Shapes, tmp_path: Path) -> None:
    found = predictions(run, rows, shapes, tmp_path / "answers.csv")
    assert list(found) == ["row", "id", "prediction", "score", "error"]
    assert len(found) == len(pd.read_csv(rows))
    frame = pd.read_csv(rows).head(6)
    model = mmft.load(run.path)
    listed = model.predict(
        [
            {"image": None if pd.isna(row["image"]) else row["image"], "text": row["text"]}
            for row in frame.to_dict("records")
        ],
        root=shapes.rows.parent,
    )
    assert [row["prediction"] for row in listed] == found["prediction"].head(6).tolist()
    assert [row["score"] for row in listed] == pytest.approx(found["score"].head(6).astype(float).tolist(), abs=1e-5)
    (bad,) = model.predict([{"image": "gone.png", "text": "red"}])
    assert bad["prediction"] is None
    assert "no such file" in bad["error"]


def test_predictions_need_not_be_batched(run: Run, rows: Path, shapes: Shapes, tmp_path: Path) -> None:
    one = predictions(run, rows, shapes, tmp_path / "one.csv", "data.batch_size=1")
    many = predictions(run, rows, shapes, tmp_path / "many.csv", "data.batch_size=7")
    assert one["prediction"].tolist() == many["prediction"].tolist()
    assert np.allclose(one["score"].astype(float), many["score"].astype(float), atol=1e-5)


def test_a_killed_run_resumes_bit_for_bit(typed: list[str], run: Run, tmp_path: Path) -> None:
    more = ["checkpoint.every_steps=1"]
    killed_run([*typed, *more], tmp_path / "killed", 3, "after")
    again = resumed([*typed, *more], tmp_path / "killed")
    assert again.summary["resumed_from"] == [3]
    assert same_weights(again, run)
    assert again.summary["test"] == run.summary["test"]


def test_a_killed_run_that_packs_rows_resumes_bit_for_bit(typed: list[str], run: Run, tmp_path: Path) -> None:
    more = [*typed, *PACKED, "checkpoint.every_steps=1"]
    assert train(compose("train", more), tmp_path / "whole") == 0
    killed_run(more, tmp_path / "killed", 3, "after")
    again, whole = resumed(more, tmp_path / "killed"), Run(tmp_path / "whole")
    assert again.summary["resumed_from"] == [3]
    assert same_weights(again, whole)
    assert again.summary["test"] == whole.summary["test"]
    assert not same_weights(whole, run)  # smoothed labels
    assert whole.summary["test"]["loss"] == pytest.approx(run.summary["test"]["loss"], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "moment"), [(2, "before"), (4, "while"), (5, "after"), (6, "while")])
def test_a_run_killed_at_other_moments_resumes_bit_for_bit(
    step: int, moment: str, typed: list[str], run: Run, tmp_path: Path
) -> None:
    more = ["checkpoint.every_steps=1"]
    killed_run([*typed, *more], tmp_path / "killed", step, moment)
    again = resumed([*typed, *more], tmp_path / "killed")
    assert again.summary["resumed_from"] == [step if moment == "after" else step - 1]
    assert same_weights(again, run)
    assert again.summary["test"] == run.summary["test"]


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], [*PACKED, "model.dropout=0"]], ids=["padded", "packed"])
def test_two_ranks_train_and_test_as_one(typed: list[str], more: list[str], tmp_path: Path) -> None:
    one, two = of_one_and_two_ranks([*typed, "cache=never", *more], "ddp", tmp_path)
    assert two.summary["test"] == pytest.approx(one.summary["test"], rel=1e-5)
    for name, value in one.model_state.items():
        torch.testing.assert_close(two.model_state[name], value, atol=1e-5, rtol=1e-4)


def test_stages_as_in_llava(typed: list[str], tmp_path: Path) -> None:
    """The projector alone, then LoRA from there, then all of it from the merged LoRA."""
    still = ["trainer.max_epochs=1", "optim.head_lr=1e-9"]
    assert train(compose("train", [*typed, "tune/text_encoder=freeze"]), tmp_path / "first") == 0
    assert (
        train(compose("train", [*typed, f"init={tmp_path / 'first'}", "optim.head_lr=1e-9"]), tmp_path / "second") == 0
    )
    full = ["tune/text_encoder=full", "optim.lr=1e-9", f"init={tmp_path / 'second'}"]
    assert train(compose("train", [*typed, *full, *still]), tmp_path / "third") == 0
    first, second, third = (load_model(tmp_path / name / "model") for name in ("first", "second", "third"))
    assert {name.partition(".")[0] for name in first.trained} == {"fusion", "missing_image"}
    for name, value in first.model.fusion.state_dict().items():
        torch.testing.assert_close(second.model.fusion.state_dict()[name], value, atol=1e-6, rtol=0)
    second.merge()
    wanted = second.model.text_encoder.state_dict()
    found = third.model.text_encoder.state_dict()
    assert found.keys() == wanted.keys()
    assert max(float((found[name] - wanted[name]).abs().max()) for name in found) < 1e-6
    assert "text_encoder.backbone.model.embed_tokens.weight" in third.trained
    assert "text_encoder.backbone.lm_head.weight" not in third.trained  # it is the same


def test_the_language_model_is_exported_as_transformers_has_it(run: Run, tmp_path: Path) -> None:
    assert export(compose("export", [f"run={run.path}", f"out={tmp_path / 'export'}"])) == 0
    saved = load_model(run.path / "model")
    saved.merge()
    plain = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "export" / "text_encoder")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, saved.model.text_encoder.backbone(ids).logits)
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "export" / "text_encoder")
    assert tokenizer.chat_template
    card = (tmp_path / "export" / "README.md").read_text()
    assert 'AutoModelForCausalLM.from_pretrained("text_encoder")' in card
    assert "Outputs: texts." in card


def test_adapters_are_for_peft(run: Run, typed: list[str], tmp_path: Path) -> None:
    from peft import PeftModel

    *_, base = (one.partition("=")[2] for one in typed if one.startswith("model.text_encoder.name="))
    out = tmp_path / "export"
    assert export(compose("export", [f"run={run.path}", f"out={out}"])) == 0
    plain = hf.AutoModelForCausalLM.from_pretrained(base)
    with_adapter: Any = PeftModel.from_pretrained(plain, out / "adapters" / "text_encoder")
    merged: Any = hf.AutoModelForCausalLM.from_pretrained(out / "text_encoder")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        found = with_adapter(ids).logits
        torch.testing.assert_close(found, merged(ids).logits, atol=1e-5, rtol=1e-5)
        with with_adapter.disable_adapter():
            assert not torch.allclose(found, with_adapter(ids).logits, atol=1e-5)


def test_it_is_no_pair_of_open_clip(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Type format=hf for its encoders alone"):
        export(compose("export", [f"run={run.path}", f"out={tmp_path / 'export'}", "format=open_clip"]))
    assert not (tmp_path / "export").exists()


def test_an_embedding_is_the_state_after_the_prompt(run: Run, rows: Path, shapes: Shapes, tmp_path: Path) -> None:
    typed = [f"run={run.path}", f"data.path={rows}", f"data.root={shapes.rows.parent}", f"out={tmp_path / 'e.npz'}"]
    assert embed(compose("embed", typed)) == 0
    found = np.load(tmp_path / "e.npz")["fused"]
    assert found.shape == (len(pd.read_csv(rows)), 32)
    assert np.isfinite(found).all()


def test_what_each_modality_adds(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_test(compose("test", [f"run={run.path}", "modalities=true"])) == 0
    found = dict(line.split() for line in capsys.readouterr().out.splitlines() if line.count(" ") == 1)
    assert float(found["loss"]) == pytest.approx(run.summary["test"]["loss"], abs=1e-6)
    for change in ("image_shuffled", "image_only", "text_only"):
        assert float(found[f"{change}/loss"]) > 0


def test_the_closing_report_is_the_perplexity_of_the_answers(typed: list[str], run: Run, tmp_path: Path) -> None:
    report = ["modality_report=true", "trainer.max_epochs=1"]
    assert train(compose("train", [*typed, *report]), tmp_path / "run") == 0
    summary = Run(tmp_path / "run").summary
    found = summary["perplexity"]
    assert set(found) == {"both", "image_shuffled", "image_only", "text_shuffled", "text_only"}
    assert found["both"] == pytest.approx(summary["test"]["perplexity"], rel=1e-5)
    assert len(set(found.values())) == 5
    told = (tmp_path / "run" / "train.log").read_text()
    assert f"test perplexity of the answers: {found['both']:.2f}, images shuffled between rows " in told
    assert "perplexity" not in run.summary  # modality_report=false


def test_an_answer_is_explained_by_image_and_words(run: Run, rows: Path, shapes: Shapes, tmp_path: Path) -> None:
    """The row's label is, or the text that is generated, or one that is named; their parts add up."""
    frame = pd.read_csv(rows).dropna(subset=["image", "text"]).tail(1)
    given = {"image": frame["image"].item(), "text": frame["text"].item()}
    model = mmft.load(run.path)
    (answer,) = model.predict([given], root=shapes.rows.parent)
    (written,) = model.explain([given], root=shapes.rows.parent)
    (named,) = model.explain([given], root=shapes.rows.parent, label="blue disc")
    assert written.numbers()["explained"] == answer["prediction"]
    assert named.name == "blue disc"
    for one in (written, named):
        found = one.numbers()
        assert [word["text"] for word in found["words"]] == given["text"].split()
        parts = found["image"] + sum(word["weight"] for word in found["words"])
        assert found["value"] - found["baseline"] - found["missed"] == pytest.approx(parts, abs=1e-6)
        assert found["value"] < 0
        assert any(word["weight"] for word in found["words"])
    typed = [f"run={run.path}", f"data.path={rows}", f"data.root={shapes.rows.parent}", f"out={tmp_path / 'out'}"]
    assert explain(compose("explain", [*typed, f"rows=[{frame.index[0]}]"])) == 0
    of_label = json.loads((tmp_path / "out" / f"row{frame.index[0]}.json").read_text())
    assert of_label["explained"] == frame["label"].item()
    assert (tmp_path / "out" / f"row{frame.index[0]}.png").is_file()


def test_several_references_are_shown_as_in_a_table(run: Run) -> None:
    task = load_model(run.path / "model").task
    assert task.shown_label("a cat") == "a cat"
    assert task.shown_label(["a cat", "cat"]) == '["a cat", "cat"]'


def test_a_report_shows_answers_and_references(run: Run) -> None:
    assert main(["report", f"run={run.path}"]) == 0
    found = pd.read_csv(run.path / "predictions.csv", keep_default_na=False)
    assert len(found) == run.summary["rows"]["test"]
    page = unescape((run.path / "report.html").read_text(encoding="utf-8"))
    assert "Answers on the test rows" in page
    assert "The prompt, around each row's text: {text} here" in page
    least_sure = found.loc[found["score"].idxmin()]
    assert f"answer: {least_sure['prediction']}"[:300] in page
    assert f"reference: {least_sure['label']}" in page


def test_check(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert check(compose("check", typed)) == 0
    shown = capsys.readouterr().out
    assert "Training would work." in shown
    assert "more than task.max_answer_tokens=8" in shown
    assert re.search(r"examples +train row \d+: <\|im_start\|>user: \[4 image tokens\].* here<\|im_end\|>", shown)
    assert re.search(r"assistant: \[learned: (red|green|blue) (disc|cross)<\|im_end\|>\]", shown)


def test_a_fixed_prompt_needs_no_texts(typed: list[str], tmp_path: Path) -> None:
    """Captions: rows have an image and an answer."""
    own = [one for one in typed if not one.startswith("task.prompt")]
    captions = [*own, "data.columns.text=null", "task.prompt='what is it'", "trainer.max_epochs=1"]
    assert train(compose("train", [*captions, "tune/text_encoder=lora_8bit"]), tmp_path / "run") == 0
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    (found,) = mmft.load(tmp_path / "run").predict([{"image": image}])
    assert isinstance(found["prediction"], str)
    assert found["error"] is None


def test_an_encoder_in_the_place_of_a_language_model_is_an_error(
    typed: list[str], shapes: Shapes, tmp_path: Path
) -> None:
    wrong = [*typed, f"model.text_encoder.name={shapes.text_encoder}"]
    with pytest.raises(UserError, match=r"model\.text_encoder\.name=.* is no causal language model but BertModel"):
        train(compose("train", wrong), tmp_path / "run")


@pytest.mark.parametrize("decoding", [{}, {"temperature": 1.5, "sampling_seed": 3}])
def test_a_server_writes_what_predict_writes(
    run: Run, rows: Path, shapes: Shapes, decoding: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by sampling, where a text depends on a row's number in its request: two that come together stay apart."""
    monkeypatch.chdir(shapes.rows.parent)
    given = [
        {"image": None if pd.isna(row.image) else Path(row.image).read_bytes(), "text": row.text}
        for row in pd.read_csv(rows).dropna(subset=["text"]).head(6).itertuples()
    ]
    expected = mmft.load(run.path).decoding(**decoding).predict(given)
    typed = [f"run={run.path}", "max_wait_ms=500", *(f"task.{name}={value}" for name, value in decoding.items())]
    sent = [row | {"image": row["image"] and b64encode(row["image"]).decode()} for row in given]
    with TestClient(application(compose("serve", typed))) as client, ThreadPoolExecutor(2) as clients:
        answers = list(clients.map(lambda _: client.post("/predict", json={"rows": sent}).json(), range(2)))
        embedded = client.post("/embed", json={"rows": sent[:1]}).json()["embeddings"][0]
    for answer in answers:
        assert [one["prediction"] for one in answer["predictions"]] == [one["prediction"] for one in expected]
    assert embedded["error"] is None
