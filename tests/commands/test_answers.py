"""How answers are written, by the commands and in Python: decoding options, choices, a sample in validation, chat."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from generative_rows import typed_for_generation
from make_shapes import Shapes
from runs import Run

import mmft
from mmft.commands.predict import predict
from mmft.commands.test import test as run_test
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.models.language.prompt_tokenizer import learned
from mmft.run import chat

Folder = Callable[..., Path]
SAMPLED = ["task.temperature=1.5", "task.top_k=50"]


@pytest.fixture(scope="module")
def typed(shapes: Shapes, language_model_folder: Folder) -> list[str]:
    return [*typed_for_generation(shapes, language_model_folder("qwen3", chat=True)), "tune/text_encoder=freeze"]


@pytest.fixture(scope="module")
def run(typed: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Validated on a sample of 5 rows."""
    path = tmp_path_factory.mktemp("answers") / "run"
    assert train(compose("train", [*typed, "task.validation_rows=5"]), path) == 0
    return Run(path)


@pytest.fixture(scope="module")
def choosing(typed: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The answers are those of the training rows."""
    path = tmp_path_factory.mktemp("answers") / "choosing"
    assert train(compose("train", [*typed, "task.choices=labels"]), path) == 0
    return Run(path)


def predictions(run: Run, shapes: Shapes, out: Path, *more: str) -> pd.DataFrame:
    """Of the first 20 rows."""
    rows = out.with_name("rows.csv")
    pd.read_csv(shapes.rows).head(20).to_csv(rows, index=False)
    typed = [f"run={run.path}", f"data.path={rows}", f"data.root={shapes.rows.parent}", f"out={out}", *more]
    assert predict(compose("predict", typed)) == 0
    return pd.read_csv(out, keep_default_na=False, dtype={"prediction": str})


def metrics(run: Run, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, float]:
    capsys.readouterr()
    assert run_test(compose("test", [f"run={run.path}", *more])) == 0
    return {name: float(value) for name, value in map(str.split, capsys.readouterr().out.splitlines())}


def one_row(shapes: Shapes) -> dict[str, Any]:
    row = pd.read_csv(shapes.rows).dropna(subset=["image", "text"]).iloc[0]
    return {"image": str(shapes.rows.parent / row["image"]), "text": row["text"]}


# ---------------------------------------------------------------- decoding options


def test_sampled_texts_depend_on_seed_and_row_alone(run: Run, shapes: Shapes, tmp_path: Path) -> None:
    one = predictions(run, shapes, tmp_path / "one.csv", *SAMPLED, "data.batch_size=1")
    many = predictions(run, shapes, tmp_path / "many.csv", *SAMPLED, "data.batch_size=7")
    other = predictions(run, shapes, tmp_path / "other.csv", *SAMPLED, "task.sampling_seed=1")
    assert one["prediction"].tolist() == many["prediction"].tolist()
    assert one["prediction"].tolist() != other["prediction"].tolist()
    listed = mmft.load(run.path).decoding(temperature=1.5, top_k=50).predict([one_row(shapes)])
    assert listed[0]["prediction"] == many["prediction"][0]


def test_options_are_changed_where_a_run_is_used(run: Run, shapes: Shapes, tmp_path: Path) -> None:
    short = predictions(run, shapes, tmp_path / "short.csv", "task.max_new_tokens=1")
    assert all(len(text.split()) <= 1 for text in short["prediction"])
    digits = predictions(run, shapes, tmp_path / "digits.csv", "task.pattern='[0-9]{2}'", "task.num_beams=2")
    assert all(re.fullmatch("[0-9]{2}", text) for text in digits["prediction"])
    model = mmft.load(run.path)
    before = model.predict([one_row(shapes)])
    assert model.decoding(max_new_tokens=1).predict([one_row(shapes)]) != before
    assert model.predict([one_row(shapes)]) == before  # it is left as it was


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"beams": 2}, r"task\.beams: no such key"),
        ({"num_beams": 0}, r"task\.num_beams: 0 .*at least 1"),
        ({"top_p": 0.5}, r"task\.top_p: 0\.5 changes nothing, because nothing is sampled"),
        ({"choices": "labels"}, r"task\.choices=labels: the run kept no list of its answers"),
        ({"max_new_tokens": 1000}, r"task\.max_new_tokens=1000: may be at most \d+ here\. .* positions, of which"),
        ({"pattern": "("}, r"task\.pattern=\( cannot be generated: unclosed group"),
    ],
)
def test_options_that_make_no_sense(run: Run, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        mmft.load(run.path).decoding(**options)


def test_a_run_of_another_task_writes_no_texts(finished_run: Run, shapes: Shapes, tmp_path: Path) -> None:
    typed = [f"run={finished_run.path}", f"out={tmp_path / 'o.csv'}", f"data.path={shapes.rows}", "task.num_beams=2"]
    with pytest.raises(UserError, match=r"task\.num_beams changes nothing: the run has task=classification"):
        predict(compose("predict", typed))
    with pytest.raises(UserError, match="chat: the run has task=classification, which writes no texts"):
        mmft.load(finished_run.path).chat([{"role": "user", "content": "red"}])


# ---------------------------------------------------------------- validation on a sample


def test_validation_on_a_sample_says_so(run: Run) -> None:
    log = (run.path / "train.log").read_text()
    assert re.search(r"validation: texts are written for 5 of \d+ rows \(task\.validation_rows\)", log)
    assert run.summary["val"]["exact_match"] * 5 == pytest.approx(round(run.summary["val"]["exact_match"] * 5))
    assert set(run.summary["val"]) == set(run.summary["test"])


# ---------------------------------------------------------------- answers from a list


def test_choices_have_columns_and_metrics_of_classification(
    choosing: Run, shapes: Shapes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = sorted(set(pd.read_csv(shapes.rows)["label"].dropna()))
    found = predictions(choosing, shapes, tmp_path / "found.csv")
    scores = [f"score_{label}" for label in labels]
    assert list(found) == ["row", "id", "prediction", "score", *scores, "error"]
    good = found[found["error"] == ""]
    assert set(good["prediction"]) <= set(labels)
    assert good[scores].astype(float).sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    assert good["score"].astype(float).to_numpy() == pytest.approx(good[scores].astype(float).max(axis=1).to_numpy())
    summary = choosing.summary["test"]
    assert {"accuracy", "f1_macro", "auroc", "ece", "exact_match", "token_f1", "perplexity", "loss"} <= set(summary)
    assert summary["accuracy"] == pytest.approx(summary["exact_match"])
    printed = metrics(choosing, capsys)
    assert {name: printed[name] for name in summary} == pytest.approx(summary, abs=1e-5)
    assert (choosing.path / "confusion_matrix.csv").is_file()
    assert mmft.load(choosing.path).labels == labels


def test_choices_of_a_run_are_exchanged(choosing: Run, run: Run, shapes: Shapes, tmp_path: Path) -> None:
    given = "task.choices=[red disc,no idea]"
    for number, one in enumerate((choosing, run)):
        found = predictions(one, shapes, tmp_path / f"{number}.csv", given)
        assert set(found["prediction"]) <= {"red disc", "no idea", ""}
        assert "score_no idea" in found
    free = predictions(choosing, shapes, tmp_path / "free.csv", "task.choices=null", "task.max_new_tokens=3")
    assert "score_red disc" not in free
    with pytest.raises(UserError, match=r"task\.max_new_tokens: 3 changes nothing with task\.choices"):
        predictions(choosing, shapes, tmp_path / "no.csv", "task.max_new_tokens=3")


# ---------------------------------------------------------------- chat


@pytest.mark.parametrize("options", [{}, {"temperature": 1.5}, {"stop": ["e", "oss b"]}, {"num_beams": 2}], ids=str)
def test_one_turn_is_answered_as_predicted(run: Run, shapes: Shapes, options: dict[str, Any]) -> None:
    model, row = mmft.load(run.path).decoding(**options), one_row(shapes)
    turns = [{"role": "user", "content": row["text"]}]
    answer = model.chat(turns, image=row["image"])
    assert answer == model.predict([row])[0]["prediction"]
    pieces = model.chat(turns, image=row["image"], stream=True)
    assert not isinstance(pieces, str)
    listed = list(pieces)
    assert "".join(listed) == answer
    assert all(listed)
    if options.get("temperature"):
        assert len(listed) > 1
    alone = {"image": None, "text": row["text"]}
    assert model.chat(turns) == model.predict([alone])[0]["prediction"]


def test_a_text_is_cut_or_empty_as_that_of_a_row(run: Run, shapes: Shapes, caplog: pytest.LogCaptureFixture) -> None:
    model, row = mmft.load(run.path), one_row(shapes)
    for text in ("red disc " * 200, ""):
        (expected,) = model.predict([{**row, "text": text or None}])
        assert model.chat(text, image=row["image"]) == expected["prediction"]
    assert caplog.text.count("messages: the text is cut, as a row's is, to model.text_encoder.max_length=") == 1


def test_several_turns(run: Run) -> None:
    """The last turn of each kind is asked as the run's rows are, behind the others."""
    model = mmft.load(run.path)
    tokenizer: Any = model.model.text_encoder.tokenizer
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "what is it"},
        {"role": "assistant", "content": "red disc"},
        {"role": "user", "content": "is it red"},
    ]
    ids = [token if token >= -1 else learned(token) for token in chat._prompt(model.saved, turns, 1)]
    place = ids.index(-1)
    assert tokenizer.tokenizer.decode(ids[:place]).endswith("user: ")
    assert tokenizer.tokenizer.decode(ids[place + 1 :]) == (
        "what is it here<|im_end|><|im_start|>assistant: red disc<|im_end|>"
        "<|im_start|>user: is it red here<|im_end|><|im_start|>assistant: "
    )
    ids = chat._prompt(model.saved, [*turns[:3], {"role": "user", "content": "is it <image> red"}], 1)
    assert tokenizer.tokenizer.decode([token for token in ids[: ids.index(-1)] if token >= 0]).endswith("user: is it ")
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    assert isinstance(model.chat(turns, image=image), str)
    assert model.chat(turns[:2], image=image) == model.chat(turns[:2], image=image)


@pytest.mark.parametrize(
    ("turns", "image", "expected"),
    [
        ([], None, "messages: a conversation is a list of turns"),
        ([{"role": "assistant", "content": "a"}], None, "messages: turn 1 is the assistant's where the user's"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            None,
            "messages: the last turn is the assistant's, so there is nothing to answer",
        ),
        ([{"content": "a"}], None, "messages: turn 1 has the role None"),
        (["a"], None, "messages: turn 1 is 'a'"),
        ([{"role": "user", "content": "<image> <image>"}], None, "messages: 2 places of an image"),
        ([{"role": "user", "content": "red"}], "gone.png", "image: .*no such file"),
        (
            [
                {"role": "user", "content": "red"},
                {"role": "assistant", "content": "a"},
                {"role": "user", "content": "b " * 200},
            ],
            None,
            "messages: with .* positions. Leave out the first turns",
        ),
    ],
)
def test_conversations_that_cannot_be_answered(run: Run, turns: Any, image: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        mmft.load(run.path).chat(turns, image=image, stream=True)


def test_choices_are_kept_to_in_a_conversation(choosing: Run, shapes: Shapes) -> None:
    model, row = mmft.load(choosing.path), one_row(shapes)
    assert model.chat([{"role": "user", "content": row["text"]}], image=row["image"]) in model.labels
