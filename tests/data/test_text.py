"""Texts become flat arrays once; what is cut is counted; nothing in a text crashes."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from mmft.data import text as module
from mmft.data.text import empty_text, pad_id, tokenize


def test_tokens_are_those_of_the_tokenizer(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a red disc", None, "blue", "", "cross of red title row"]
    whole = tokenize(texts, tokenizer, 32)
    assert (whole.ids.dtype, whole.offsets.dtype, whole.cut) == (np.int32, np.int64, 0)
    for position, text in enumerate(texts):
        assert whole.of(position).tolist() == ([] if text is None else tokenizer(text)["input_ids"])
    monkeypatch.setattr(module, "CHUNK", 2)
    chunked = tokenize(texts, tokenizer, 32)
    assert (chunked.ids == whole.ids).all()
    assert (chunked.offsets == whole.offsets).all()


def test_cut_texts_are_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenize(["a red disc", "red", "a red disc of blue"], tokenizer, 5)
    assert tokens.cut == 1
    assert [len(tokens.of(at)) for at in range(3)] == [5, 3, 5]
    assert tokens.of(2)[-1] == 3  # [SEP] stays


def test_nothing_in_a_text_crashes(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["\ud800 red", "\0", "\u200b", "👩\u200d🚀", "red" * 10_000, "\U0010ffff"]
    assert len(tokenize(texts, tokenizer, 8).offsets) == len(texts) + 1
    assert tokenize([], tokenizer, 8).offsets.tolist() == [0]
    assert len(tokenize([None, None], tokenizer, 8).ids) == 0


def test_the_stand_in_for_a_missing_text_has_at_least_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert empty_text(tokenizer, 8).tolist() == [2, 3]
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer.__class__(_words()))
    assert pad_id(bare) == 0
    assert empty_text(bare, 8).tolist() == [0]


def _words() -> object:
    from tokenizers import models

    return models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")
