"""What an exported model is asked, as its card shows it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mmft.run.export.writing import show_prompt


@pytest.mark.parametrize(("messages", "end"), [(None, ""), ("messages", r"\n")])
def test_a_turn_without_a_chat_template_is_a_line(messages: str | None, end: str) -> None:
    saved: Any = SimpleNamespace(
        model=SimpleNamespace(
            text_encoder=SimpleNamespace(tokenizer=SimpleNamespace(plain=SimpleNamespace(chat_template="")))
        ),
        config=SimpleNamespace(
            task=SimpleNamespace(prompt=None, chat_template="auto"),
            data=SimpleNamespace(columns=SimpleNamespace(messages=messages)),
        ),
    )
    assert show_prompt(saved, None)[0] == f"prompt = '<image>What is this?{end}'"
