"""Decoding: sampling by seed and row, stop texts, beams, streams, and the log-probabilities of what is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from language_models import LANGUAGE_MODELS, write_language_model
from make_shapes import LABELS, captions
from torch import Tensor

from mmft.config.schema.decoding import DecodingConfig
from mmft.models.language.constrained import AnswerList
from mmft.models.language.decoding import Decoding, StopTexts
from mmft.models.language.generating import Generated, generate, stream
from mmft.models.language.language_model import LanguageModel, build_language_model

WORDS = [*captions(), *LABELS]
LENGTHS = [5, 3, 8, 1, 8, 2]
NEW = 12


@pytest.fixture(scope="module", params=LANGUAGE_MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = write_language_model(request.param, WORDS, tmp_path_factory.mktemp("lm") / "model")
    made = build_language_model(str(folder), None, "auto", True).eval()
    with torch.no_grad():  # a wide head, so that tokens differ in probability
        made.head.weight.mul_(8)
    return made


def prompts(model: LanguageModel) -> tuple[Tensor, Tensor]:
    """(B, S, D) random prompts of different lengths, padded on the right, and their mask."""
    generator = torch.Generator().manual_seed(0)
    width = model.widths.tokens
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return torch.randn(len(LENGTHS), max(LENGTHS), width, generator=generator), mask


def written(model: LanguageModel, rows: list[int], constraint: Any = None, **options: Any) -> Generated:
    """Texts of some of the prompts."""
    embedded, mask = prompts(model)
    decoding = Decoding(DecodingConfig(max_new_tokens=NEW, **options), constraint)
    return generate(model, {"inputs_embeds": embedded[rows]}, mask[rows], decoding, torch.tensor(rows))


def texts(found: Generated) -> list[list[int]]:
    return [[token for token in row if token >= 0] for row in found.tokens.tolist()]


EVERY = list(range(len(LENGTHS)))
SAMPLED = {"temperature": 1.3, "top_k": 40, "top_p": 0.95}


def test_what_is_sampled_depends_on_seed_and_row_alone(model: LanguageModel) -> None:
    together = texts(written(model, EVERY, **SAMPLED))
    assert [texts(written(model, [row], **SAMPLED))[0] for row in EVERY] == together
    assert texts(written(model, EVERY[::-1], **SAMPLED)) == together[::-1]
    assert texts(written(model, EVERY, **SAMPLED, sampling_seed=1)) != together
    assert texts(written(model, EVERY)) != together


def test_two_rows_of_one_prompt_are_sampled_apart(model: LanguageModel) -> None:
    embedded, mask = prompts(model)
    decoding = Decoding(DecodingConfig(max_new_tokens=NEW, temperature=1.5))
    one, other = texts(
        generate(
            model,
            {"inputs_embeds": embedded[:1].repeat(2, 1, 1)},
            mask[:1].repeat(2, 1),
            decoding,
            torch.tensor([3, 4]),
        )
    )
    assert one != other


def test_tokens_are_sampled_as_often_as_they_are_likely(model: LanguageModel) -> None:
    embedded, mask = prompts(model)
    rows = 4000
    decoding = Decoding(DecodingConfig(max_new_tokens=1, temperature=2.0, top_k=3))
    given = {"inputs_embeds": embedded[:1].expand(rows, -1, -1)}, mask[:1].expand(rows, -1)
    counts = (
        generate(model, *given, decoding, torch.arange(rows)).tokens[:, 0].bincount(minlength=model.head.out_features)
    )
    hidden = model.hidden({"inputs_embeds": embedded[:1, : LENGTHS[0]]}, mask[:1, : LENGTHS[0]])[0, -1]
    likely, tokens = (model.head(hidden) / 2).topk(3)
    assert counts.sum() == counts[tokens].sum() == rows
    torch.testing.assert_close(counts[tokens] / rows, likely.softmax(0), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    "options",
    [{}, SAMPLED, {"repetition_penalty": 2.0}, {"no_repeat_ngram_size": 1}, {"stop": ["e"]}],
    ids=str,
)
def test_log_probs_are_the_models_own(model: LanguageModel, options: dict[str, Any]) -> None:
    embedded, _ = prompts(model)
    found = written(model, EVERY, **options)
    assert found.log_probs is not None
    for row, tokens in enumerate(texts(found)):
        whole = torch.cat([embedded[row, : LENGTHS[row]], model.embed(torch.tensor(tokens))])[None]
        logits = model.backbone(inputs_embeds=whole).logits[0, LENGTHS[row] - 1 : -1]  # type: ignore[operator]
        wanted = logits.log_softmax(-1)[range(len(tokens)), tokens]
        torch.testing.assert_close(found.log_probs[row, : len(tokens)], wanted, atol=1e-4, rtol=1e-4)
        assert not found.log_probs[row, len(tokens) :].any()


def test_no_token_twice(model: LanguageModel) -> None:
    assert any(len(set(row)) < len(row) for row in texts(written(model, EVERY)))
    assert all(len(set(row)) == len(row) for row in texts(written(model, EVERY, no_repeat_ngram_size=1)))


def test_beams_are_those_of_transformers(model: LanguageModel) -> None:
    embedded, mask = prompts(model)
    found = texts(written(model, EVERY, num_beams=4))
    end: Any = model.tokenizer.eos_token_id
    for row, length in enumerate(LENGTHS):
        plain = model.backbone.generate(  # type: ignore[operator]
            inputs_embeds=embedded[row : row + 1, :length],
            attention_mask=mask[row : row + 1, :length].long(),
            max_new_tokens=NEW,
            num_beams=4,
            eos_token_id=end,
            pad_token_id=end,
        )
        assert found[row] == plain[0].tolist()[: len(found[row])]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_text_ends_with_the_stop_text(model: LanguageModel, beams: int) -> None:
    free = texts(written(model, EVERY))
    tokenizer = model.tokenizer.tokenizer
    stop = tokenizer.decode(free[0][4:6])  # across two tokens
    found = texts(written(model, EVERY, stop=[stop], num_beams=beams))
    for tokens in found:
        assert stop not in tokenizer.decode(tokens[:-1])
    if beams == 1:
        first = next(n for n in range(len(free[0])) if stop in tokenizer.decode(free[0][: n + 1]))
        assert found[0] == free[0][: first + 1]
        assert len(found[0]) < len(free[0])


def test_the_length_up_to_a_stop_text(model: LanguageModel) -> None:
    tokenizer = model.tokenizer.tokenizer
    tokens = tokenizer("red disc", add_special_tokens=False)["input_ids"]
    stops = StopTexts([" d"], tokenizer)
    assert not stops.found_in(tokens[: stops.length(tokens) - 1])
    assert StopTexts(["blue"], tokenizer).length(tokens) == len(tokens)


@pytest.mark.parametrize("options", [{}, SAMPLED, {"stop": ["a", "e"]}, {"num_beams": 3}], ids=str)
def test_a_stream_has_the_tokens_of_a_batch(model: LanguageModel, options: dict[str, Any]) -> None:
    embedded, mask = prompts(model)
    decoding = Decoding(DecodingConfig(max_new_tokens=NEW, **options))
    end = model.tokenizer.eos_token_id
    whole = [token for token in texts(written(model, [0], **options))[0] if token != end]
    streamed = list(stream(model, {"inputs_embeds": embedded[:1]}, mask[:1], decoding))
    assert streamed == whole


def test_sampling_keeps_to_a_list(model: LanguageModel) -> None:
    answers = [model.tokenizer.answer(text) for text in ("red", "a disc", "blue cross")]
    found = texts(written(model, EVERY, AnswerList(answers), temperature=3.0))
    assert all(row in answers for row in found)
    assert len({tuple(row) for row in found}) > 1
