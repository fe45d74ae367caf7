"""Conversations in a column: forms, files, and what makes a row bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mmft.batch import Turn
from mmft.config.schema.data import ColumnsConfig
from mmft.data.conversations import conversation_of
from mmft.data.table import Table
from mmft.errors import UserError

COLUMNS = ColumnsConfig(image="image", messages="messages")
OPEN_AI = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": " A disc. "}]
SHARE_GPT = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A disc."}]
PARTS = [
    {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "image"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A disc."}]},
]
ASKED = (Turn("user", "What is it?"), Turn("assistant", "A disc."))


@pytest.mark.parametrize("given", [OPEN_AI, SHARE_GPT, json.dumps(OPEN_AI), tuple(OPEN_AI)])
def test_every_form_is_the_same_conversation(given: Any) -> None:
    assert conversation_of(given) == ASKED


def test_roles_are_read_in_any_case() -> None:
    assert conversation_of([{"role": "User", "content": "a"}, {"from": "GPT", "value": "b"}]) == (
        Turn("user", "a"),
        Turn("assistant", "b"),
    )


def test_an_image_among_the_parts_is_its_place() -> None:
    assert conversation_of(PARTS)[0] == Turn("user", "What is <image>")


def turns(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": role} for role in roles]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("{", "not JSON: "),
        ([], "a conversation is a list of turns such as"),
        ("hello", "not JSON: "),
        ([7], "turn 1 is 7; a conversation is"),
        (turns("user", "tool"), "turn 2 has the role 'tool'; allowed: system, user, human, assistant, gpt"),
        ([{"role": ["user"], "content": "a"}], "turn 1 has the role ['user']; allowed: system"),
        (turns("user", "user"), "turn 2 is the user's where the assistant's is expected"),
        (turns("assistant"), "turn 1 is the assistant's where the user's is expected"),
        (turns("user", "assistant", "system"), "turn 3 is the system's where the user's is expected"),
        (turns("system"), "no turn of a user"),
        ([{"role": "user", "content": "  "}], "turn 1 (user) is empty"),
        ([{"from": "human"}], "turn 1 (human) has no content"),
        ([{"role": "user", "content": 7}], "turn 1 has a content that is neither a text nor a list"),
        ([{"role": "user", "content": [{"type": "audio"}]}], "turn 1 has a content that is neither"),
        ([{"role": "user", "content": "a \ud800"}], "turn 1 (user) is not valid Unicode text"),
        ([*turns("user"), {"role": "assistant", "content": "<image>"}], "is in a turn of the assistant"),
        ([{"role": "user", "content": [{"type": "image", "path": "a.png"}]}], "turn 1 has an image of its own"),
        ([{"role": "user", "content": "a", "tool_calls": []}, {}], "turn 1 (user) has tool_calls, which mmft does not"),
    ],
)
def test_other_values_are_refused_with_the_reason(given: Any, reason: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the reason is compared below
        conversation_of(given)
    assert reason in str(error.value)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json", ".parquet"])
def test_conversations_are_read_from_every_file(ending: str, tmp_path: Path) -> None:
    rows = [
        {"image": "a.png", "messages": OPEN_AI},
        {"image": "b.png", "messages": OPEN_AI[:1]},
        {"image": "c.png", "messages": None},
        {"image": "d.png", "messages": turns("user", "user")},
    ]
    path = tmp_path / f"rows{ending}"
    if ending == ".csv":
        frame = pd.DataFrame([{**row, "messages": row["messages"] and json.dumps(row["messages"])} for row in rows])
        frame.to_csv(path, index=False)
    elif ending == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)) if ending == ".jsonl" else json.dumps(rows))
    table = Table.open(path, COLUMNS)
    every = np.arange(4)
    assert table.prompts(every) == [ASKED[:1], ASKED[:1], None, None]
    assert table.labels(every) == [["A disc."], None, None, None]
    assert table.text(0) == "user: What is it?"
    assert {row: bad.why for row, bad in table.bad.items()} == {
        3: "messages: turn 2 is the user's where the assistant's is expected: they take turns"
    }


def test_a_column_of_numbers_is_no_conversation(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"image": ["a.png"], "messages": [7]}).to_parquet(path)
    with pytest.raises(UserError, match=r"data\.columns\.messages=messages: in .* holds int64; a conversation is"):
        Table.open(path, COLUMNS)


def test_a_missing_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"image": "a.png", "mesages": OPEN_AI}))
    with pytest.raises(UserError, match=r"data\.columns\.messages=messages: .* no such column; nearest: mesages"):
        Table.open(path, COLUMNS)


def test_rows_in_memory_may_be_conversations() -> None:
    table = Table.from_rows([{"image": None, "messages": OPEN_AI}], COLUMNS)
    assert table.prompts(np.arange(1)) == [ASKED[:1]]
