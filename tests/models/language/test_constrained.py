"""Constrained generation writes nothing else, and answers of a list are scored as by plain transformers."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import transformers as hf
from tiny_tokenizers import make_tokenizer
from torch import Tensor
from torch.nn import functional

from mmft.errors import UserError
from mmft.models.language.answer_loss import answer_log_probs
from mmft.models.language.answer_scores import answer_scores
from mmft.models.language.constrained import AnswerList, Expression
from mmft.models.language.packing import counted

ANSWERS = ["cat", "a red cat", "a red dog", "dogs", "42"]
DECODING: list[dict[str, Any]] = [{}, {"do_sample": True}, {"num_beams": 8}, {"do_sample": True, "num_beams": 2}]
"""More beams than answers, too: some are lost at once."""
SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    made = make_tokenizer("roberta", ["a red cat", "two dogs play"])
    made.eos_token = "</s>"
    return made


def model(kind: str, vocabulary: int) -> Any:
    """A tiny causal language model with random weights and a larger vocabulary than its tokenizer's."""
    torch.manual_seed(0)
    if kind == "gpt2":
        config: Any = hf.GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4)
        return hf.GPT2LMHeadModel(config).eval()
    if kind == "gemma3":  # a layer with a sliding window that is shorter than the prompts
        config = hf.Gemma3TextConfig(vocab_size=vocabulary, head_dim=8, sliding_window=3, **SIZES)
        return hf.Gemma3ForCausalLM(config).eval()
    return hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=vocabulary, **SIZES)).eval()


def generated(tokenizer: Any, constraint: type, given: tuple[Any, ...], decoding: dict[str, Any]) -> list[str]:
    """Texts after two prompts of different lengths, as token ids and as embeddings."""
    language_model = model("llama", len(tokenizer) + 5)
    prompts = tokenizer(
        ["a red", "two"], return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    )
    ids, mask = prompts["input_ids"], prompts["attention_mask"]
    embedded = language_model.get_input_embeddings()(ids)
    found = []
    for prompt, length in (({"input_ids": ids}, ids.shape[1]), ({"inputs_embeds": embedded}, 0)):
        tokens = language_model.generate(
            **prompt,
            attention_mask=mask,
            max_new_tokens=20,
            logits_processor=[constraint(*given, prompt_length=length)],
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **decoding,
        )
        found += tokenizer.batch_decode(tokens[:, length:], skip_special_tokens=True)
    return found


def ids_of(tokenizer: Any, answers: list[str]) -> list[list[int]]:
    return [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in answers]


@pytest.mark.parametrize("decoding", DECODING, ids=str)
def test_every_text_is_in_the_list(tokenizer: Any, decoding: dict[str, Any]) -> None:
    found = generated(tokenizer, AnswerList, (ids_of(tokenizer, ANSWERS),), decoding)
    assert len(found) == 4
    assert set(found) <= set(ANSWERS)


def test_greedy_decoding_of_a_list_takes_the_likeliest_token_that_is_allowed(tokenizer: Any) -> None:
    constraint = AnswerList(ids_of(tokenizer, ANSWERS), prompt_length=1)
    start, end = 7, tokenizer.eos_token_id
    (cat, _), (a, *_), *_ = ids_of(tokenizer, ANSWERS)
    scores = torch.zeros(4, len(tokenizer))
    found = constraint(torch.tensor([[start, cat], [start, a], [start, end], [start, cat]]), scores)
    assert (found > -1).nonzero()[:, 0].bincount().tolist() == [1, 1, len(tokenizer), 1]  # an ended row is left alone
    assert found[0, end] == 0
    assert (scores == 0).all()  # what was given is not changed
    assert constraint.longest == max(map(len, ids_of(tokenizer, ANSWERS)))


def test_an_answer_that_another_one_begins_with(tokenizer: Any) -> None:
    answers = ids_of(tokenizer, ["cat", "cat cat"])
    allowed = AnswerList(answers).allowed(answers[0][:-1], len(tokenizer)).nonzero()[:, 0].tolist()
    assert set(allowed) == {tokenizer.eos_token_id, answers[1][1]}


@pytest.mark.parametrize("answers", [[], [[3, 2], [3, 1]]])
def test_answers_without_an_end(answers: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="different tokens"):
        AnswerList(answers)


@pytest.mark.parametrize("decoding", DECODING, ids=str)
@pytest.mark.parametrize("pattern", [r"[0-9]{1,3}(\.[0-9])?", "cat|dogs", "(red|two) [a-z]{3,5}", "ü{1,3}x"])
def test_every_text_matches(tokenizer: Any, pattern: str, decoding: dict[str, Any]) -> None:
    given = (pattern, tokenizer, len(tokenizer) + 5, "task.pattern")
    found = generated(tokenizer, Expression, given, decoding)
    assert len(found) == 4
    assert all(re.fullmatch(pattern, text.removeprefix(" ")) for text in found)


@pytest.mark.parametrize(
    ("pattern", "reason"), [("(", "unclosed group"), ("(?=a)b", "look-around, including"), ("^a$", "lookarounds not")]
)
def test_patterns_that_cannot_be_generated(tokenizer: Any, pattern: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"^task.pattern={re.escape(pattern)} cannot be generated: {reason}.*anchors"):
        Expression(pattern, tokenizer, len(tokenizer), "task.pattern")


def test_without_the_package(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"^task.pattern needs llguidance.*pip install 'mmft\[constrained\]'"):
        Expression("a", tokenizer, len(tokenizer), "task.pattern")


@pytest.mark.parametrize("at_once", [1, 5, 256])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_scores_are_those_of_full_sequences(tokenizer: Any, kind: str, at_once: int) -> None:
    """Within 1e-10 in float64 of plain transformers on each prompt and answer alone, without padding or cache."""
    language_model = model(kind, len(tokenizer) + 5).double()
    answers = ids_of(tokenizer, ANSWERS)
    prompts = [ids[:-1] for ids in ids_of(tokenizer, ["a red cat", "two", "dogs play a cat"])]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[n >= longest - len(prompt) for n in range(longest)] for prompt in prompts])
    embed, head = language_model.get_input_embeddings(), language_model.get_output_embeddings()

    def log_probs(hidden: Tensor, tokens: Tensor) -> Tensor:
        return answer_log_probs(hidden, head.weight, head.bias, tokens)

    behind = max(map(len, answers))
    found = answer_scores(
        language_model, log_probs, {"inputs_embeds": embed(ids)}, mask, counted(mask, behind), answers, at_once
    )
    for row, prompt in enumerate(prompts):
        for column, answer in enumerate(answers):
            with torch.no_grad():
                logits = language_model(torch.tensor([prompt + answer]), use_cache=False).logits[
                    0, len(prompt) - 1 : -1
                ]
            wanted = -functional.cross_entropy(logits, torch.tensor(answer), reduction="sum")
            assert abs(found[row, column] - wanted) < 1e-10


def test_the_likeliest_answer_is_what_beam_search_finds(tokenizer: Any) -> None:
    """With as many beams as answers the search is complete."""
    language_model = model("llama", len(tokenizer) + 5)
    answers = ids_of(tokenizer, ANSWERS)
    ids = torch.tensor([[9, 20], [30, 31]])
    head = language_model.get_output_embeddings()
    scores = answer_scores(
        language_model,
        lambda hidden, tokens: answer_log_probs(hidden, head.weight, None, tokens),
        {"inputs_embeds": language_model.get_input_embeddings()(ids)},
        torch.ones_like(ids, dtype=torch.bool),
        torch.arange(2 + max(map(len, answers))).expand(len(ids), -1),
        answers,
    )
    tokens = language_model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=20,
        num_beams=8,
        length_penalty=0.0,
        early_stopping="never",
        renormalize_logits=False,
        logits_processor=[AnswerList(answers, prompt_length=2)],
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    found = tokenizer.batch_decode(tokens[:, 2:], skip_special_tokens=True)
    assert found == [ANSWERS[best] for best in scores.argmax(1).tolist()]
    assert (scores.exp().sum(1) < 1).all()
