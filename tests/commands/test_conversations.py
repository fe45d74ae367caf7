"""Conversations, templates of columns and several answers by the commands and in Python."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from make_shapes import Shapes
from runs import QUICK, Run, killed_run, resumed, same_weights

import mmft
from mmft.commands.check import check
from mmft.commands.demo import page_of
from mmft.commands.predict import predict
from mmft.commands.serve import application
from mmft.commands.test import test as run_test
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.errors import UserError

Folder = Callable[..., Path]


def conversation(text: str, label: str) -> list[dict[str, str]]:
    """Two questions about an image."""
    told = [("user", f"is it {text}"), ("assistant", "yes"), ("user", "what is it"), ("assistant", label)]
    return [{"role": role, "content": content} for role, content in told]


@pytest.fixture(scope="module")
def frame(shapes: Shapes) -> pd.DataFrame:
    found = pd.read_csv(shapes.rows).dropna(subset=["image", "text", "label"])
    found["messages"] = [conversation(*row) for row in zip(found["text"], found["label"], strict=True)]
    return found.groupby("split").head(40).reset_index(drop=True)


@pytest.fixture(scope="module")
def typed(shapes: Shapes, language_model_folder: Folder) -> list[str]:
    return [
        *shapes.overrides,
        *QUICK,
        "data.limit=null",
        f"data.root={shapes.rows.parent}",
        "task=generation",
        "task.max_answer_tokens=8",
        "model/fusion=projector",
        "model.fusion.tokens=pooled",
        f"model.text_encoder.name={language_model_folder('qwen3', chat=True)}",
        "model.text_encoder.max_length=96",
        "tune/image_encoder=freeze",
        "tune/text_encoder=lora",
        "optim.lr=null",
        "data.max_bad_fraction=0.2",
    ]


def test_where_no_conversation_is_usable_the_reason_is_told(
    typed: list[str], frame: pd.DataFrame, tmp_path: Path
) -> None:
    turns = [[{**turn, "role": "tool"} for turn in messages] for messages in frame["messages"]]
    frame.assign(messages=turns).to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    own = ["data.columns.text=null", "data.columns.label=null", "data.columns.messages=messages"]
    every = [*typed, f"data.path={tmp_path / 'rows.jsonl'}", *own]
    expected = "data.columns.messages=messages: no row of train is usable: turn 1 has the role 'tool'; allowed: system"
    for run in (lambda: train(compose("train", every), tmp_path / "run"), lambda: check(compose("check", every))):
        with pytest.raises(UserError) as error:
            run()
        assert expected in str(error.value)


@pytest.fixture(scope="module")
def told(typed: list[str], frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Conversations in a JSONL file; one row's is too long, one ends with a question, one has a wrong order."""
    rows = frame.copy()
    at = rows.index[rows["split"] == "train"]
    rows.at[at[0], "messages"] = conversation("red disc " * 40, "red disc")
    rows.at[at[1], "messages"] = rows.at[at[1], "messages"][:-1]
    rows.at[at[2], "messages"] = rows.at[at[2], "messages"][1:]
    path = tmp_path_factory.mktemp("conversations") / "rows.jsonl"
    rows.to_json(path, orient="records", lines=True)
    own = ["data.columns.text=null", "data.columns.label=null", "data.columns.messages=messages"]
    return [*typed, f"data.path={path}", *own]


@pytest.fixture(scope="module")
def run(told: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("conversations") / "run"
    assert train(compose("train", told), path) == 0
    return Run(path)


def test_what_cannot_be_read_is_bad_with_its_reason(run: Run) -> None:
    reasons = pd.read_csv(run.path / "bad_rows.csv")
    assert set(reasons["column"]) == {"messages"}
    said = "\n".join(reasons["reason"])
    assert re.search(
        r"the conversation has \d+ tokens beside the image, more than model.text_encoder.max_length=96", said
    )
    assert "no answer" in said
    assert "turn 1 is the assistant's where the user's is expected" in said
    assert len(reasons) == 3 == run.summary["rows"]["bad"]
    assert run.summary["test"]["perplexity"] > 0


def test_a_question_at_the_end_is_answered(run: Run, frame: pd.DataFrame, shapes: Shapes, tmp_path: Path) -> None:
    rows = frame.head(4).copy()
    whole = tmp_path / "whole.jsonl"
    rows.to_json(whole, orient="records", lines=True)
    rows["messages"] = [json.dumps(turns[:-1]) for turns in rows["messages"]]
    rows.to_csv(tmp_path / "asked.csv", index=False)
    found = {}
    for path in (whole, tmp_path / "asked.csv"):
        typed = [f"run={run.path}", f"data.path={path}", f"data.root={shapes.rows.parent}"]
        assert predict(compose("predict", [*typed, f"out={tmp_path / 'out.csv'}"])) == 0
        found[path.suffix] = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert found[".csv"].equals(found[".jsonl"])
    given = [{"image": row["image"], "messages": json.loads(row["messages"])} for row in rows.to_dict("records")]
    listed = mmft.load(run.path).predict(given, root=shapes.rows.parent)
    assert [row["prediction"] for row in listed] == found[".csv"]["prediction"].tolist()
    (bad,) = mmft.load(run.path).predict([{"image": None, "messages": [{"role": "tool", "content": "x"}]}])
    assert bad["prediction"] is None
    assert "turn 1 has the role 'tool'" in bad["error"]


def test_conversations_are_served(run: Run, frame: pd.DataFrame, shapes: Shapes, tmp_path: Path) -> None:
    """As lists of turns, or as JSON in a form; the page of `mmft demo` has a field for the JSON."""
    row = frame.iloc[0]
    image, turns = (shapes.rows.parent / row["image"]).read_bytes(), row["messages"][:-1]
    [expected] = mmft.load(run.path).predict([{"image": image, "messages": turns}])
    with TestClient(application(compose("serve", [f"run={run.path}"]))) as client:
        sent = [{"image": b64encode(image).decode(), "messages": turns}]
        listed = client.post("/predict", json={"rows": sent}).json()["predictions"][0]
        form = {"files": {"image": ("a.png", image)}, "data": {"messages": json.dumps(turns)}}
        assert client.post("/predict", **form).json()["predictions"] == [listed]
    assert (listed["prediction"], listed["error"]) == (expected["prediction"], None)
    page = page_of(compose("demo", [f"run={run.path}", "examples=1"]), tmp_path)
    (tmp_path / "a.png").write_bytes(image)
    assert page.answer(str(tmp_path / "a.png"), json.dumps(turns))[0] == expected["prediction"]
    assert page._examples[0].texts[0].startswith('[{"role": "user"')


def test_rows_in_python_may_lack_either_column(run: Run, frame: pd.DataFrame, shapes: Shapes) -> None:
    """The prompt is then that of an empty text, or the image a learned stand-in."""
    model, row = mmft.load(run.path), frame.iloc[0]
    for given in ({"image": row["image"]}, {"messages": row["messages"]}):
        (found,) = model.predict([given], root=shapes.rows.parent)
        assert found["error"] is None
        assert isinstance(found["prediction"], str)
    with pytest.raises(UserError, match=r"data\.columns\.image=image: rows has no such column"):
        model.predict([{"text": "red"}])


def test_what_each_modality_adds(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_test(compose("test", [f"run={run.path}", "modalities=true"])) == 0
    found = dict(line.split() for line in capsys.readouterr().out.splitlines() if line.count(" ") == 1)
    assert float(found["loss"]) == pytest.approx(run.summary["test"]["loss"], abs=1e-6)
    for change in ("image_shuffled", "text_shuffled", "image_only", "text_only"):
        assert float(found[f"{change}/loss"]) > 0


def test_a_run_of_texts_answers_conversations(
    typed: list[str], frame: pd.DataFrame, shapes: Shapes, tmp_path: Path
) -> None:
    """A column of conversations takes the place of the run's texts."""
    frame.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    own = [*typed, f"data.path={tmp_path / 'rows.jsonl'}", "trainer.max_epochs=1"]
    assert train(compose("train", own), tmp_path / "run") == 0
    more = ["data.columns.messages=messages", f"data.root={shapes.rows.parent}", f"out={tmp_path / 'out.csv'}"]
    assert predict(compose("predict", [f"run={tmp_path / 'run'}", f"data.path={tmp_path / 'rows.jsonl'}", *more])) == 0
    assert pd.read_csv(tmp_path / "out.csv")["error"].isna().all()
    model = mmft.load(tmp_path / "run")  # where no column needs to be named
    image = str(shapes.rows.parent / frame["image"][0])
    turns = [conversation(text, "")[:3] for text in ("red", "a big blue disc")]
    found = model.predict([{"image": image, "messages": one} for one in turns])
    assert [one["prediction"] for one in found] == [model.chat(one, image=image) for one in turns]
    assert found[0]["score"] != found[1]["score"]


def test_turns_of_any_form_pass_through_as_json(run: Run, shapes: Shapes, frame: pd.DataFrame, tmp_path: Path) -> None:
    """Where rows differ so much that a column of a table cannot hold them."""
    parts = [{"role": "user", "content": [{"type": "text", "text": "what is it"}]}]
    of_sharegpt = [{"from": "human", "value": "is it red"}]
    rows = [
        {"image": frame["image"][0], "messages": one} for one in (conversation("red", "disc")[:3], parts, of_sharegpt)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    given, out = [f"run={run.path}", f"data.root={shapes.rows.parent}"], tmp_path / "out.csv"
    assert predict(compose("predict", [*given, f"data.path={tmp_path / 'rows.json'}", "keep=all", f"out={out}"])) == 0
    written = pd.read_csv(out)
    assert written["error"].isna().all(), written["error"].tolist()
    assert [json.loads(one) for one in written["messages"]] == [row["messages"] for row in rows]
    assert predict(compose("predict", [*given, f"data.path={out}", f"out={tmp_path / 'again.csv'}"])) == 0
    again = pd.read_csv(tmp_path / "again.csv")
    assert again["error"].isna().all()
    assert again["score"].tolist() == written["score"].tolist()


def test_what_changes_nothing_or_is_no_place_is_told(typed: list[str], frame: pd.DataFrame, tmp_path: Path) -> None:
    rows = frame.drop(columns="messages").assign(text="<image>\n" + frame["text"])
    rows.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    own = [*typed, f"data.path={tmp_path / 'rows.jsonl'}", "task.references=random", "trainer.max_steps=1"]
    assert train(compose("train", own), tmp_path / "run") == 0
    told = (tmp_path / "run" / "train.log").read_text()
    assert "task.references=random changes nothing: no training row has several answers" in told
    assert "40 texts have <image>, which the model reads as a word" in told


def test_a_killed_run_resumes_bit_for_bit(told: list[str], run: Run, tmp_path: Path) -> None:
    killed_run([*told, "checkpoint.every_steps=1"], tmp_path / "killed", 3, "after")
    again = resumed([*told, "checkpoint.every_steps=1"], tmp_path / "killed")
    assert same_weights(again, run)
    assert again.summary["test"] == run.summary["test"]


def test_check_shows_what_is_learned(told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert check(compose("check", told)) == 0
    shown = capsys.readouterr().out
    mark = r"\[learned: yes<\|im_end\|>\]<\|im_start\|>user: what is it<\|im_end\|>"
    assert (
        len(re.findall(rf"train row \d+: <\|im_start\|>user: \[4 image tokens\]is it .*{mark}.*\[learned: ", shown))
        == 3
    )
    assert re.search(
        r"model\.text_encoder\.max_length=96 is too short for 1 of \d+ rows: bad rows; model.*max_length=\d+ holds all",
        shown,
    )
    assert re.search(r"train +prompt +\d+ +\d+", shown)
    assert "task.max_answer_tokens=8 holds all." in shown
    assert "the conversation has" in shown


def test_templates_make_questions_and_answers(
    typed: list[str], frame: pd.DataFrame, shapes: Shapes, tmp_path: Path
) -> None:
    frame.drop(columns="messages").to_csv(tmp_path / "rows.csv", index=False)
    own = [*typed, f"data.path={tmp_path / 'rows.csv'}", "trainer.max_epochs=1"]
    own += ["data.columns.text='is it {text}'", "data.columns.label='it is {label}'", "task.max_answer_tokens=12"]
    assert train(compose("train", own), tmp_path / "run") == 0
    rows = frame.head(2)[["image", "text"]].to_dict("records")
    found = mmft.load(tmp_path / "run").predict(rows, root=shapes.rows.parent)
    assert [row["error"] for row in found] == [None, None]
    (bad,) = mmft.load(tmp_path / "run").predict([{"image": None, "text": " "}])
    assert bad["error"] == "neither an image nor a text"


def test_several_answers_are_compared_with(
    typed: list[str], frame: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The metrics of a model that has learned nothing: all answers at once are a subset of the first answer's."""
    rows: Any = frame.drop(columns="messages").assign(label=[["red disc", label] for label in frame["label"]])
    rows.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    own = [*typed, f"data.path={tmp_path / 'rows.jsonl'}", "task.references=random", "trainer.max_epochs=2"]
    own += ["task.metrics=[token_f1]"]
    assert train(compose("train", own), tmp_path / "run") == 0
    assert train(compose("train", own), tmp_path / "again") == 0
    assert same_weights(Run(tmp_path / "run"), Run(tmp_path / "again"))
    assert train(compose("train", [*own, "task.references=first"]), tmp_path / "first") == 0
    assert not same_weights(Run(tmp_path / "run"), Run(tmp_path / "first"))
    capsys.readouterr()
    assert run_test(compose("test", [f"run={tmp_path / 'run'}"])) == 0
    assert f"token_f1 {Run(tmp_path / 'run').summary['test']['token_f1']:.4f}"[:12] in capsys.readouterr().out
