"""The words of a row's own text in the prompt of a language model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import transformers as hf

from mmft.batch import Turn
from mmft.models.language.prompt_tokenizer import IMAGE_MARK, PromptTokenizer, learned
from mmft.reports.explain.words import own_tokens, stands_apart, words_of_prompt

TEXT = "red disc  drawn in blue ink"


@pytest.mark.parametrize("prompt", [None, "{text} here", "what is {text} {image} here", "{image} it is {text}"])
@pytest.mark.parametrize("chat", [False, True])
def test_every_word_has_the_weights_of_its_tokens(
    prompt: str | None, chat: bool, language_model_folder: Callable[..., Path]
) -> None:
    own = hf.AutoTokenizer.from_pretrained(language_model_folder("llama", chat=chat))
    tokenizer = PromptTokenizer(own, prompt)
    (ids,) = tokenizer([TEXT])["input_ids"]
    place = own_tokens(ids, tokenizer.empty)
    assert own.decode(ids[place]).strip() == TEXT
    weights = [float(at) if place.start <= at < place.stop else 0.0 for at in range(len(ids))]
    words = words_of_prompt(TEXT, tokenizer, ids, [*weights, 0.0, 0.0])
    assert [word.text for word in words] == TEXT.split()
    assert sum(word.weight or 0 for word in words) == sum(weights)
    assert all(word.weight for word in words)


def test_words_that_were_cut_off_have_no_weight(language_model_folder: Callable[..., Path]) -> None:
    tokenizer = PromptTokenizer(hf.AutoTokenizer.from_pretrained(language_model_folder("llama")), None, "none")
    (ids,) = tokenizer([TEXT])["input_ids"]
    short = own_tokens(ids, tokenizer.empty)
    half = ids[: short.start + (short.stop - short.start) // 2]
    words = words_of_prompt(TEXT, tokenizer, half, [1.0] * len(half))
    read = [word for word in words if word.weight is not None]
    assert 0 < len(read) < len(words) == len(TEXT.split())


def test_an_empty_text_has_no_words() -> None:
    assert own_tokens([1, 2, 3], [1, 2, 3]) == slice(3, 3)
    assert own_tokens([1, 9, 2], [1, 2]) == slice(1, 2)
    assert own_tokens([1, 1, 1], [1, 1]) == slice(2, 3)


def test_words_of_a_conversation_end_at_special_tokens(language_model_folder: Callable[..., Path]) -> None:
    """Earlier answers are among them; special tokens and the image are none, and stay in the baseline."""
    own = hf.AutoTokenizer.from_pretrained(language_model_folder("llama", chat=True))
    tokenizer = PromptTokenizer(own)
    turns = (Turn("user", "red disc"), Turn("assistant", "blue"), Turn("user", "in <image> ink"))
    (ids,) = tokenizer([turns])["input_ids"]
    words = words_of_prompt("", tokenizer, ids, [1.0] * len(ids))
    assert [word.text for word in words if ":" not in word.text] == ["red", "disc", "blue", "in", "ink"]
    assert not any("<" in word.text for word in words)
    assert all(word.weight for word in words)
    assert [at for at, token in enumerate(ids) if stands_apart(token, tokenizer)] == [
        at
        for at, token in enumerate(ids)
        if token == IMAGE_MARK or own.decode([max(token, learned(token))])[:2] == "<|"
    ]
