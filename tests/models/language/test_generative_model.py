"""The generative model against plain transformers, given the same embedded sequences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from generative_rows import added_up
from language_models import LANGUAGE_MODELS, write_language_model
from make_shapes import LABELS, captions
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from mmft import build
from mmft.batch import Batch
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.models.language.generative_model import GenerativeModel
from mmft.models.language.language_model import LanguageModel, build_language_model
from mmft.models.language.prompt_tokenizer import IMAGE_MARK
from mmft.tasks.generation import Generation
from mmft.tuning.quantize import quantize, quantized_layers

WORDS = [*captions(), *LABELS, "what is it"]
TEXTS = ["red", "drawn in blue ink", None, "is it green? yes", "red", "a small study of blue", "something red here"]
ANSWERS = ["red disc", "blue cross", "a disc", "green disc", "it", "blue", "red cross here yes"]


@pytest.fixture(scope="module", params=LANGUAGE_MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(request.param, WORDS, tmp_path_factory.mktemp("lm") / request.param)


def make(folder: Path, shapes: Any, *overrides: str) -> tuple[Any, Generation, Any]:
    """Model, task and config of a run with the language model in `folder`, dropout off."""
    typed = [*shapes.overrides, "task=generation", "model/fusion=projector", f"model.text_encoder.name={folder}"]
    config: Any = compose("train", [*typed, "task.max_answer_tokens=12", "model.dropout=0", *overrides]).config
    task: Any = build.build_task(config.task)
    model = build.build_model(config.model, task.make_head, seed=0)
    build.prepare_generation(model, task)
    return model, task, config


def rows(model: Any, task: Generation) -> Batch:
    """Seven rows, one without a text, one without an image; trained weights are random, so that all matters."""
    generator = torch.Generator().manual_seed(0)
    tokenizer: Any = model.text_encoder.tokenizer
    ids = tokenizer([text or "" for text in TEXTS], truncation=True, max_length=16)["input_ids"]
    length = max(map(len, ids))
    there = torch.ones(len(TEXTS), dtype=torch.bool)
    target = torch.tensor([task.encode(answer) for answer in ANSWERS])
    return Batch(
        pixel_values=torch.randint(0, 256, (len(TEXTS), 3, 32, 32), dtype=torch.uint8, generator=generator),
        input_ids=torch.tensor([own + [0] * (length - len(own)) for own in ids]),
        attention_mask=torch.tensor([[True] * len(own) + [False] * (length - len(own)) for own in ids]),
        image_present=there.clone().index_fill(0, torch.tensor([4]), False),
        text_present=torch.tensor([text is not None for text in TEXTS]),
        row=torch.arange(len(TEXTS)),
        weight=torch.tensor([1.0, 2.0, 1.0, 0.5, 1.0, 1.0, 3.0]),
        target=target,
    )


def embedded_row(model: Any, batch: Batch, row: int) -> Tensor:
    """(S, D) prompt and image of one row, joined by hand."""
    text: Any = model.text_encoder
    tokenizer = text.tokenizer
    ids = tokenizer([TEXTS[row] or ""])["input_ids"][0]
    prompt = text.embed(torch.tensor(ids, dtype=torch.int64).clamp_min(0))
    if batch.image_present[row]:
        assert batch.pixel_values is not None
        image = model.fusion(model.image_encoder(batch.pixel_values[row : row + 1]))[0]
    else:
        image = model.missing_image.vector[None]
    first = ids.index(IMAGE_MARK)
    return torch.cat([prompt[:first], image, prompt[first + 1 :]])


def plain_loss(model: Any, task: Generation, batch: Batch) -> Tensor:
    """The loss of the whole batch by transformers' own forward, one row after the other.

    From the logits, for with `labels` transformers computes the loss in float32.
    """
    total, weights = 0.0, 0.0
    for row, answer in enumerate(ANSWERS):
        prompt = embedded_row(model, batch, row)
        ids = torch.tensor(task.tokenizer.answer(answer))
        embedded = torch.cat([prompt, model.text_encoder.embed(ids)])[None]
        logits = model.text_encoder.backbone(inputs_embeds=embedded, use_cache=False).logits[0]  # (S, V)
        weight = float(batch.weight[row])
        total = total + weight * functional.cross_entropy(logits[len(prompt) - 1 : -1], ids, reduction="sum")
        weights += weight * len(ids)
    return torch.as_tensor(total / weights)


@pytest.mark.parametrize("micro", [None, 3, 1])
def test_loss_and_gradients_are_those_of_plain_transformers(folder: Path, shapes: Any, micro: int | None) -> None:
    model, task, _ = make(folder, shapes)
    model.double().train()
    torch.nn.init.normal_(model.missing_image.vector)
    batch = rows(model, task)
    plain_loss(model, task, batch).backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = added_up(model, task, [batch], micro)
    assert float(loss) == pytest.approx(float(plain_loss(model, task, batch).detach()), abs=1e-10)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    assert "missing_image.vector" in found
    assert max(float((found[name] - wanted[name]).abs().max()) for name in found) < 1e-10


def test_training_makes_no_logits_of_all_tokens(folder: Path, shapes: Any) -> None:
    model, task, _ = make(folder, shapes)
    called: list[Any] = []
    model.text_encoder.head.register_forward_hook(lambda *given: called.append(given[-1].shape))
    task.loss_sum(model.train()(rows(model, task)), rows(model, task)).backward()
    assert called == []
    model.eval()(rows(model, task))
    assert {shape[1] for shape in called} == {1}  # the last token alone, in generation


def test_normalised_by_rows_each_row_counts_alike(folder: Path, shapes: Any) -> None:
    model, task, _ = make(folder, shapes, "task.normalise=rows")
    batch = rows(model, task)
    outputs = model.train()(batch)
    assert batch.target is not None
    means = outputs.logits.sum(1) / (batch.target >= 0).sum(1)
    wanted = -(means * batch.weight).sum() / batch.weight.sum()
    assert float(task.loss_sum(outputs, batch) / task.normaliser(batch)) == pytest.approx(float(wanted), rel=1e-6)


def test_a_row_alone_is_the_row_in_a_batch(folder: Path, shapes: Any) -> None:
    model, task, _ = make(folder, shapes)
    batch = rows(model, task)
    with torch.no_grad():
        together = model.eval()(batch)
        for row, part in enumerate(batch.split(1)):
            ids, mask = part.input_ids, part.attention_mask
            assert ids is not None
            assert mask is not None
            length = int(mask.sum())
            alone = model(replace(part, input_ids=ids[:, :length], attention_mask=mask[:, :length]))
            torch.testing.assert_close(alone.logits, together.logits[row : row + 1], atol=1e-6, rtol=1e-6)
            tokens = together.generated[row : row + 1, : alone.generated.shape[1]]
            assert torch.equal(alone.generated, tokens)


def test_generated_texts_are_those_of_plain_transformers(folder: Path, shapes: Any) -> None:
    model, task, _ = make(folder, shapes)
    batch = rows(model, task)
    with torch.no_grad():
        found = model.eval()(batch)
        for row in range(len(batch)):
            prompt = embedded_row(model, batch, row)[None]
            plain = model.text_encoder.backbone.generate(
                inputs_embeds=prompt, attention_mask=torch.ones(prompt.shape[:2]), max_new_tokens=12, do_sample=False
            )[0].tolist()
            tokens = [token for token in found.generated[row].tolist() if token >= 0]
            assert tokens == plain[: len(tokens)]
            whole = torch.cat([prompt[0], model.text_encoder.embed(torch.tensor(tokens))])[None]
            logits = model.text_encoder.backbone(inputs_embeds=whole).logits[0, prompt.shape[1] - 1 : -1]
            log_probs = logits.log_softmax(-1)[range(len(tokens)), tokens]
            assert task.answers(found)[row]["score"] == pytest.approx(float(log_probs.mean()), abs=1e-5)


def test_the_folders_own_way_to_sample_is_not_used(folder: Path, shapes: Any) -> None:
    model, task, _ = make(folder, shapes)
    with torch.no_grad():
        greedy = model.eval()(rows(model, task))
        settings = model.text_encoder.backbone.generation_config
        settings.update(do_sample=True, temperature=5.0, repetition_penalty=3.0)
        again = model(rows(model, task))
    assert torch.equal(again.generated, greedy.generated)
    assert model.text_encoder.backbone.generation_config is settings  # as it is exported


def test_generation_stops_at_the_end_of_text(folder: Path, shapes: Any) -> None:
    model, task, _ = make(folder, shapes)
    end = task.tokenizer.eos_token_id
    head = model.text_encoder.head
    if head.weight is model.text_encoder.backbone.get_input_embeddings().weight:
        return  # tied: another head would be another prompt
    with torch.no_grad():
        hidden = model.fuse(rows(model, task)).features
        head.weight[end] = 100 * hidden.mean(0)
        found = model.eval()(rows(model, task))
    assert found.generated[0, 0] == end
    assert set(found.generated[0, 1:].tolist()) <= {-1}
    assert task.answers(found)[0]["prediction"] == ""


def test_the_dropped_text_of_a_row_is_not_read(folder: Path, shapes: Any) -> None:
    """Modality dropout leaves the tokens in the batch."""
    model, task, _ = make(folder, shapes)
    batch = rows(model, task)
    nothing = torch.zeros(len(batch), dtype=torch.bool)
    with torch.no_grad():
        dropped = model.eval()(replace(batch, text_present=nothing)).logits
        without = model(replace(batch, text_present=nothing, input_ids=None, attention_mask=None)).logits
    torch.testing.assert_close(dropped, without, atol=1e-6, rtol=1e-6)


def test_a_batch_without_images_reads_the_stand_in(folder: Path, shapes: Any) -> None:
    model, task, _ = make(folder, shapes)
    batch = replace(rows(model, task), pixel_values=None, image_present=torch.zeros(len(TEXTS), dtype=torch.bool))
    with torch.no_grad():
        torch.nn.init.normal_(model.missing_image.vector)
        one = model.eval()(batch).logits
        model.missing_image.vector.mul_(-1)
        other = model(batch).logits
    assert not torch.allclose(one, other)


def test_a_tied_weight_is_saved_once(folder: Path, shapes: Any, tmp_path: Path) -> None:
    model: GenerativeModel = make(folder, shapes)[0]
    state = model.state_dict()
    tied = model.text_encoder.head.weight is model.text_encoder.backbone.get_input_embeddings().weight
    assert ("text_encoder.backbone.lm_head.weight" in state) is not tied
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "all.safetensors")
    other: GenerativeModel = make(folder, shapes, "seed=1")[0]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    assert other.load_state_dict(load_file(tmp_path / "all.safetensors")) == ([], [])
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())


def test_the_head_is_the_top_layer_and_stays_unquantized(folder: Path, shapes: Any) -> None:
    encoder: LanguageModel = make(folder, shapes)[0].text_encoder
    layers = encoder.layers()
    assert encoder.top_layer == 3
    embedding = [layer for name, layer in layers.items() if "embed_tokens" in name or "wte" in name]
    assert embedding == [0]
    assert layers.get("backbone.lm_head.weight", 3) == 3
    if "gpt2" not in str(folder):  # whose layers are no nn.Linear
        assert quantize(encoder, 8) == 14
        assert "lm_head" not in dict(quantized_layers(encoder.backbone))


def test_beams_are_scored_by_the_models_own_distribution(folder: Path, shapes: Any) -> None:
    model, task, _ = make(folder, shapes, "task.num_beams=3")
    batch = rows(model, task)
    with torch.no_grad():
        found = model.eval()(batch)
        for row in range(len(batch)):
            prompt = embedded_row(model, batch, row)
            tokens = [token for token in found.generated[row].tolist() if token >= 0]
            whole = torch.cat([prompt, model.text_encoder.embed(torch.tensor(tokens))])[None]
            logits = model.text_encoder.backbone(inputs_embeds=whole).logits[0, len(prompt) - 1 : -1]
            wanted = logits.log_softmax(-1)[range(len(tokens)), tokens]
            assert task.answers(found)[row]["score"] == pytest.approx(float(wanted.mean()), abs=1e-5)


def test_choices_have_the_probabilities_of_plain_transformers(folder: Path, shapes: Any) -> None:
    choices = ["red disc", "red", "blue cross", "it"]
    model, task, _ = make(folder, shapes, f"task.choices=[{','.join(choices)}]")
    model.double().eval()
    batch = rows(model, task)
    with torch.no_grad():
        answers = task.answers(model(batch))
        for row, answer in enumerate(answers):
            prompt = embedded_row(model, batch, row)
            sums = []
            for choice in choices:
                ids = torch.tensor(task.tokenizer.answer(choice))
                whole = torch.cat([prompt, model.text_encoder.embed(ids)])[None]
                logits = model.text_encoder.backbone(inputs_embeds=whole, use_cache=False).logits[0]
                sums.append(-functional.cross_entropy(logits[len(prompt) - 1 : -1], ids, reduction="sum"))
            wanted = torch.stack(sums).softmax(0)
            found = torch.tensor([answer[f"score_{choice}"] for choice in choices], dtype=torch.float64)
            torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)
            assert float(found.sum()) == pytest.approx(1, abs=1e-12)
            assert answer["prediction"] == choices[int(wanted.argmax())]
            assert answer["score"] == float(found.max())
        alone = [task.answers(model(part))[0] for part in batch.split(1)]
    for one, other in zip(answers, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-10)


def test_a_thousand_choices_are_scored_in_parts(folder: Path, shapes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [str(number) for number in range(1000)]
    model, task, _ = make(folder, shapes, f"task.choices=[{','.join(numbers)}]")
    batch = next(rows(model, task).split(2))
    with torch.no_grad():
        whole = model.eval()(batch).choices
        monkeypatch.setattr("mmft.models.language.generative_model._CACHED", 700)
        torch.testing.assert_close(model(batch).choices, whole, atol=1e-5, rtol=1e-5)
    assert whole.shape == (2, 1000)


@pytest.mark.parametrize("more", [[], ["task.choices=[red,blue]"]], ids=str)
def test_texts_can_be_written_for_some_rows_alone(folder: Path, shapes: Any, more: list[str]) -> None:
    model, task, _ = make(folder, shapes, *more)
    batch = rows(model, task)
    chosen = torch.tensor([1, 4, 6, 99])
    with torch.no_grad():
        every = model.eval()(batch)
        model.written_rows = chosen
        some = model(batch)
        model.written_rows = torch.tensor([99])
        none = model(batch)
    torch.testing.assert_close(some.logits, every.logits)
    length = some.generated.shape[1]
    assert torch.equal(some.generated[[1, 4, 6]], every.generated[[1, 4, 6], :length])
    assert (some.generated[[0, 2, 3, 5]] == -1).all()
    found = []
    for outputs in (every, some):
        metrics = task.metrics()
        task.update(metrics, outputs, batch)
        task.update(metrics, none, batch)
        found.append(task.scalars(metrics))
    assert found[0].keys() == found[1].keys()
    assert found[0]["perplexity"] == pytest.approx(found[1]["perplexity"])


# ---------------------------------------------------------------- what is refused


def test_an_encoder_is_no_language_model(shapes: Any) -> None:
    with pytest.raises(UserError, match=r"text_encoder\.name=.*no causal language model but BertModel"):
        build_language_model(str(shapes.text_encoder), None, "auto", True)


def test_too_few_positions_are_an_error_with_what_to_type(folder: Path, shapes: Any) -> None:
    with pytest.raises(UserError, match=r"max_length=150.*makes 178.*160 positions\. Type .*max_length=132"):
        make(folder, shapes, "model.text_encoder.max_length=150")


def test_pooling_is_not_used(folder: Path) -> None:
    with pytest.raises(UserError, match=r"pool=mean changes nothing with task=generation"):
        build_language_model(str(folder), None, "mean", True)


def test_a_missing_image_has_a_gradient_like_any_other(folder: Path, shapes: Any) -> None:
    """A vector of zeros in front of the text would stay zeros through all layers: norms make its gradient infinite."""
    model, task, _ = make(folder, shapes)
    norms = []
    for present in (True, False):
        batch = replace(rows(model, task), image_present=torch.full((len(TEXTS),), present))
        model.zero_grad()
        inputs = model.missing_image.vector if not present else model.fusion.layers[-1].bias
        model(batch).logits.sum().backward()
        norms.append(float(inputs.grad.norm()))
    assert 0 < norms[1] < 20 * norms[0]
    assert model.missing_image.is_untrained
    with torch.no_grad():
        model.missing_image.vector += 1e-3
    assert not model.missing_image.is_untrained
