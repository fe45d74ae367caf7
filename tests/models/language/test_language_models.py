"""Causal language models of other kinds, some with a scale or cap after the head, against plain transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from language_models import OTHERS, write_language_model
from torch import nn

from mmft.config.schema.decoding import DecodingConfig
from mmft.errors import UserError
from mmft.models.language.decoding import Decoding
from mmft.models.language.generating import generate
from mmft.models.language.language_model import LanguageModel, build_language_model

WORDS = ["red disc", "a blue cross", "what is it"]
LENGTHS = (7, 4, 6)


@pytest.fixture(scope="module", params=OTHERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = write_language_model(request.param, WORDS, tmp_path_factory.mktemp("lm") / request.param)
    made = build_language_model(str(folder), 16, "auto", True)
    for parameter in made.parameters():  # else all logits are next to zero
        nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else None
    return made.eval()


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (3, 7) of texts of other lengths."""
    ids = torch.randint(5, 40, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(0))
    return ids, torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]


@torch.no_grad()
def test_log_probabilities_are_those_of_plain_transformers(model: LanguageModel) -> None:
    ids, mask = padded()
    hidden = model.hidden({"inputs_embeds": model.embed(ids)}, mask)
    plain: Any = model.backbone
    for row, length in enumerate(LENGTHS):
        wanted = plain(input_ids=ids[row : row + 1, :length]).logits[0].log_softmax(-1)  # (length, V)
        found = model.log_probs(hidden[row, : length - 1], ids[row, 1:length])
        torch.testing.assert_close(found, wanted[range(length - 1), ids[row, 1:length]], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_texts_are_those_of_plain_transformers(model: LanguageModel) -> None:
    ids, mask = padded()
    decoding = Decoding(DecodingConfig(max_new_tokens=6))
    found = generate(model, {"inputs_embeds": model.embed(ids)}, mask, decoding, torch.arange(len(ids)))
    plain: Any = model.backbone
    for row, length in enumerate(LENGTHS):
        prompt = ids[row : row + 1, :length]
        wanted = plain.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False
        )[0, length:].tolist()
        tokens = [token for token in found.tokens[row].tolist() if token >= 0]
        assert tokens == wanted[: len(tokens)]


def test_a_model_may_not_change_its_logits_as_its_config_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a LLaVA over Gemma 2 does, which reads no soft cap."""
    folder = write_language_model("granite", WORDS, tmp_path / "lm")
    forward = hf.GraniteForCausalLM.forward

    def unscaled(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        return type(out)(logits=self.config.logits_scaling * out.logits)

    assert build_language_model(str(folder), None, "auto", True).logit_scale != 1
    monkeypatch.setattr(hf.GraniteForCausalLM, "forward", unscaled)
    assert build_language_model(str(folder), None, "auto", True).logit_scale == 1


def test_another_change_of_the_logits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_language_model("granite", WORDS, tmp_path / "lm")
    forward = hf.GraniteForCausalLM.forward

    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        return type(out)(logits=3 * out.logits)

    monkeypatch.setattr(hf.GraniteForCausalLM, "forward", changed)
    with pytest.raises(UserError, match="changes its logits after its linear head in a way"):
        build_language_model(str(folder), None, "auto", True)
