"""The task of generation by itself, its rules, and that it learns answers by heart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers as hf
from make_shapes import Shapes
from task_batches import batch
from torch import Tensor, nn
from tuned_encoders import like_a_pretrained_one

from mmft import build
from mmft.batch import Outputs
from mmft.config.compose import compose
from mmft.config.schema.decoding import DecodingConfig
from mmft.config.schema.task import TEXT_METRICS
from mmft.data.splitting.splits import load_splits
from mmft.errors import UserError
from mmft.tasks.classification import Classification
from mmft.tasks.generation import Generation
from mmft.tasks.metrics.texts import text_metric_names

ROWS, STEPS = 16, 700
Folder = Callable[..., Path]


@pytest.fixture
def task(language_model_folder: Folder) -> Generation:
    made = Generation(max_answer_tokens=6)
    made.start_generation(hf.AutoTokenizer.from_pretrained(language_model_folder("llama")))
    return made


def test_an_answer_is_its_tokens_and_the_end(task: Generation) -> None:
    found = task.encode("red disc")
    end = task.tokenizer.eos_token_id
    assert found[-2:] == [-1, -1]
    assert found[found.index(end) :] == [end] + [-1] * (5 - found.index(end))
    assert task.encode(7) == task.encode("7")
    assert task.empty_target().tolist() == [-1] * 6


@pytest.mark.parametrize("label", [None, "", "  "])
def test_a_row_without_an_answer_is_bad(task: Generation, label: Any) -> None:
    with pytest.raises(ValueError, match="no answer"):
        task.encode(label)


def test_an_answer_that_does_not_fit_is_bad_and_not_cut(task: Generation) -> None:
    with pytest.raises(ValueError, match=r"the answer has \d+ tokens, more than task\.max_answer_tokens=6"):
        task.encode("red disc " * 4)


def test_without_any_answer_there_is_nothing_to_learn(task: Generation) -> None:
    with pytest.raises(UserError, match=r"data\.columns: no training row has an answer"):
        task.fit([None, ""])


def test_answers_that_squads_form_takes_for_nothing_are_told(task: Generation, caplog: Any) -> None:
    task.fit(["A", "b", "the +"])
    assert "of the answers A, the + nothing is left in SQuAD's form" in caplog.text
    caplog.clear()
    Generation(metrics=["anls"]).fit(["A", "b"])
    task.fit(["a cat", "b"])
    assert not caplog.text


def test_the_first_of_several_answers_is_learned(task: Generation) -> None:
    assert task.encode(["red", "blue"]) == task.encode("red") == task.encode('["red", "blue"]')
    assert task.drawn_targets is None
    assert task.encode(["red", "red disc " * 4]) == task.encode("red")  # the others are only compared with


def test_of_answers_that_are_drawn_each_has_to_fit(task: Generation) -> None:
    drawing = Generation(max_answer_tokens=6, references="random")
    drawing.start_generation(task.tokenizer.tokenizer)
    assert drawing.encode(["red", "blue"]) == task.encode("red")
    assert drawing.drawn_targets is not None
    assert drawing.drawn_targets(["red", "blue"]) == [task.encode("red"), task.encode("blue")]
    with pytest.raises(ValueError, match="the answer has"):
        drawing.encode(["red", "red disc " * 4])
    assert drawing.encode_evaluated(["red", "red disc " * 4], []) == task.encode("red")


def test_metrics_are_over_all_reference_answers(task: Generation) -> None:
    target = torch.tensor([task.encode(["red disc", "blue"]), task.encode("green")])
    generated = torch.tensor([task.encode("blue"), task.encode("red")])
    metrics, zeros = task.metrics(), torch.zeros(2, 6)
    given = replace(batch(target), references=(("red disc", "blue"), ("green",)))
    task.update(metrics, Outputs(zeros, zeros, zeros, generated=generated), given)
    assert task.scalars(metrics)["exact_match"] == 0.5


def test_every_metric_of_texts_can_be_chosen(language_model_folder: Folder) -> None:
    assert list(TEXT_METRICS) == text_metric_names()
    made = Generation(max_answer_tokens=6, metrics=text_metric_names())
    made.start_generation(hf.AutoTokenizer.from_pretrained(language_model_folder("llama")))
    target = torch.tensor([made.encode("red disc")])
    zeros = torch.zeros(1, 6)
    metrics = made.metrics()
    made.update(metrics, Outputs(zeros, zeros, zeros, generated=target), batch(target))
    assert list(made.scalars(metrics)) == made.metric_names() == [*text_metric_names(), "perplexity"]
    assert made.monitor == "exact_match"


def test_metrics(task: Generation) -> None:
    target = torch.tensor([task.encode("red disc"), task.encode("blue cross")])
    generated = torch.tensor([task.encode("red disc"), task.encode("red cross")])
    count = (target >= 0).sum(1)
    logits = torch.where(target >= 0, -0.5, 0.0)
    metrics = task.metrics()
    for row in range(2):  # in two batches
        outputs = Outputs(logits[row : row + 1], logits, logits, generated=generated[row : row + 1])
        task.update(metrics, outputs, batch(target[row : row + 1]))
    found = task.scalars(metrics)
    assert found == {"exact_match": 0.5, "token_f1": 0.75, "perplexity": pytest.approx(float(torch.tensor(0.5).exp()))}
    assert task.metric_names() == list(found)
    weight = torch.tensor([1.0, 3.0])
    assert float(task.normaliser(batch(target, weight))) == float((count * weight).sum())


def test_the_score_is_the_mean_log_probability(task: Generation) -> None:
    tokens = torch.tensor([task.encode("red disc"), task.encode("red")])
    log_probs = torch.where(tokens >= 0, -0.25, 0.0)
    outputs = Outputs(log_probs, log_probs, log_probs, generated=tokens, generated_log_probs=log_probs)
    assert task.answers(outputs) == [{"prediction": "red disc", "score": -0.25}, {"prediction": "red", "score": -0.25}]


def test_a_text_is_cut_at_the_stop_text(language_model_folder: Folder) -> None:
    made = Generation(max_answer_tokens=6, decoding=DecodingConfig(stop=[" di"]))
    made.start_generation(hf.AutoTokenizer.from_pretrained(language_model_folder("llama")))
    tokens = torch.tensor([made.encode("red disc"), made.encode("red")])
    zeros = torch.zeros(2, 6)
    outputs = Outputs(zeros, zeros, zeros, generated=tokens, generated_log_probs=zeros)
    assert [answer["prediction"] for answer in made.answers(outputs)] == ["red", "red"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "task.max_new_tokens=3 ended the text 'red discred'; others may be cut, too. Type a larger one"),
        ({"pattern": "(red ?)+disc"}, "ended the text 'red discred', and does not match task.pattern; others"),
        ({"stop": ["disc"]}, ""),
        ({"max_new_tokens": 4}, ""),
    ],
)
def test_texts_that_reach_the_limit_are_told_once(
    more: dict[str, Any], said: str, language_model_folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    made = Generation(decoding=DecodingConfig(**{"max_new_tokens": 3} | more))
    made.start_generation(hf.AutoTokenizer.from_pretrained(language_model_folder("llama")))
    end = made.tokenizer.eos_token_id
    red, disc = made.encode("red disc")[:2]
    ended = torch.tensor([[red, disc, end], [red, end, -1]])
    cut = torch.tensor([[red, end, -1], [red, disc, red]])
    for tokens in (ended, cut, cut):
        zeros = torch.zeros(2, 3)
        made.answers(Outputs(zeros, zeros, zeros, generated=tokens, generated_log_probs=zeros))
        assert tokens is cut or not caplog.messages
    assert len(caplog.messages) == bool(said)
    assert said in caplog.text


# ---------------------------------------------------------------- choices


@pytest.fixture
def choosing(language_model_folder: Folder) -> Generation:
    made = Generation(max_answer_tokens=6, decoding=DecodingConfig(choices="labels"))
    made.fit(["red disc", "blue", None, "red disc ", "green"])
    made.start_generation(hf.AutoTokenizer.from_pretrained(language_model_folder("llama")))
    return made


def outputs_of(task: Generation, target: Tensor, scores: Tensor) -> Outputs:
    """Of rows whose likeliest answers are written."""
    written = torch.tensor([task.encode(task.output_names[best]) for best in scores.argmax(1).tolist()])
    zeros = torch.zeros(target.shape)
    return Outputs(zeros, zeros, zeros, generated=written, choices=scores)


def test_choices_are_the_training_answers_and_have_the_metrics_of_classification(choosing: Generation) -> None:
    assert choosing.output_names == ["blue", "green", "red disc"]
    target = torch.tensor([choosing.encode(answer) for answer in ("blue", "red disc", "green", "a disc")])
    scores = torch.tensor([[3.0, 1, 1], [3, 0, 1], [0, 5, 1], [0, 1, 9]])
    own = Classification(choosing.output_names, calibration="temperature")
    wanted, metrics = own.metrics(), choosing.metrics()
    for some in (slice(0, 1), slice(1, 4)):
        classes = torch.tensor([0, 2, 1, 3])[some]  # "a disc" is not in the list
        own.update(wanted, Outputs(scores[some], scores[some], scores[some]), batch(classes))
        choosing.update(metrics, outputs_of(choosing, target[some], scores[some]), batch(target[some]))
    found = choosing.scalars(metrics)
    assert found == pytest.approx(own.scalars(wanted) | {"exact_match": 0.5, "token_f1": 2 / 3, "perplexity": 1.0})
    assert found["accuracy"] == 0.5
    assert set(choosing.metric_names()) == set(found)
    assert choosing.tables(metrics) == own.tables(wanted)
    assert choosing.answers(outputs_of(choosing, target, scores)) == own.answers(Outputs(scores, scores, scores))
    assert choosing.answer_columns == ["prediction", "score", "score_blue", "score_green", "score_red disc"]


def test_choices_are_saved_and_restored(choosing: Generation) -> None:
    again = Generation(max_answer_tokens=6, decoding=DecodingConfig(choices="labels"))
    again.load_state(choosing.state())
    assert again.output_names == choosing.output_names
    with pytest.raises(UserError, match=r"task\.choices=labels: the run kept no list of its answers"):
        again.load_state({})


def test_one_answer_is_no_choice() -> None:
    with pytest.raises(UserError, match=r"task\.choices=labels: all training rows have the same answer \(red\)"):
        Generation(decoding=DecodingConfig(choices="labels")).fit(["red", "red"])


def test_training_answers_outside_the_list_are_told(caplog: pytest.LogCaptureFixture) -> None:
    Generation(decoding=DecodingConfig(choices=["red", "blue"])).fit(["red", "green", "green", "blue"])
    assert "2 training rows have answers that are not in the list, which can never be chosen: green" in caplog.text


def test_a_list_without_any_of_the_training_answers_is_an_error() -> None:
    with pytest.raises(UserError, match=r"task\.choices: no training row has an answer of the list\. Answers: green"):
        Generation(decoding=DecodingConfig(choices=["red", "blue"])).fit(["green", "green"])


# ---------------------------------------------------------------- the config


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["model/fusion=concat"], "concat does not go with task=generation...Type model/fusion=projector"),
        (["task=classification"], "projector does not go with task=classification...Type model/fusion=concat"),
        (["data.columns.image=null"], "data.columns.image: must be given: task=generation writes about images"),
        (["data.columns.text=null"], "task.prompt: nothing is asked"),
        (["task.prompt='what is it'"], "has no {text}, so data.columns.text='text' would not be read"),
        (["data.columns.text=null", "task.prompt='{text} here'"], "needs a text for {text}"),
        (["task.prompt='{text} or {text}'"], "has {text} twice, and a row has one text"),
        (["task.prompt='{text} {colour}'"], "has {colour}, but its places are {text} and {image}"),
        (["trainer=fsdp"], "fsdp does not go with task=generation yet"),
        (["model.auxiliary.alignment=kl"], "does not go with task=generation, which reads tokens"),
        (["model.auxiliary.distillation_weight=1"], "does not go with task=generation, which reads tokens"),
        (["data.augment.token_dropout=0.1"], "would change the prompt around the text"),
        (["data.subset.rows=20"], "data.subset: does not go with task=generation yet"),
        (["data.augment.mixup=0.2"], "it does not go with task=generation"),
        (
            ["data.columns.messages=messages"],
            "data.columns.messages: does not go with data.columns.text: a conversation",
        ),
        (
            ["data.columns.text=null", "data.columns.messages=messages"],
            "data.columns.messages: does not go with data.columns.label: the last turn of the assistant is the answer",
        ),
        (
            ["data.columns.text=null", "data.columns.label=null", "data.columns.messages=m", "task.prompt=hi"],
            "task.prompt: does not go with data.columns.messages",
        ),
        (["data.columns.text=null", "data.columns.label=null"], "data.columns.label: must be given"),
        (["data.columns.label=[label,id]"], "a list needs a task with several targets"),
        (["task.metrics=[]"], "task.metrics: []: name at least one"),
        (["task.metrics=[exact]"], "task.metrics: exact: no such metric. Did you mean exact_match?"),
        (["task.num_beams=4", "task.temperature=1"], "task.temperature: 1.0 does not go with task.num_beams"),
        (["task.top_p=0.9"], "task.top_p: 0.9 changes nothing, because nothing is sampled. Type task.temperature=1"),
        (["task.stop=['']"], "task.stop: [''] an empty text would end every answer"),
        (["task.choices=labels", "task.num_beams=2"], "task.num_beams: 2 changes nothing with task.choices"),
        (["task.choices=labels", "task.pattern=a"], "task.pattern: 'a' changes nothing with task.choices"),
        (["task.choices=[red]"], "task.choices: red: give at least two answers"),
        (["task.choices=[red,'red ']"], "task.choices: red, red: give at least two answers, without duplicates"),
        (["task.validation_rows=3", "data.columns.split=null", "data.fractions.val=0"], "needs validation rows"),
        (["tune=probe"], "model/fusion=projector would stay untrained"),
        (["model.pair=a/b"], "model.pair: does not go with task=generation"),
    ],
)
def test_what_makes_no_sense_is_refused(shapes: Shapes, typed: list[str], expected: str) -> None:
    with pytest.raises(UserError) as error:
        compose("train", [*shapes.overrides, "task=generation", "model/fusion=projector", *typed])
    assert all(part in "\n".join(error.value.messages) for part in expected.split("...")), error.value.messages


# ---------------------------------------------------------------- learning


FRONT, WITHIN = "task.prompt='{text}'", "task.prompt='what {image} {text}'"
METHODS = {
    "lora": ["tune.rank=8"],
    "lora_8bit": [],
    "lora_4bit": [],
    "loha": [],
    "ia3": ["tune.targets=all"],
    "adapters": [],
    "prompt": [],
    "prefix": [],
    "norms": [],
    "last_n": [],
    "first_frozen": [],
    "pattern": ["tune.image_encoder.pattern=mlp", "tune.text_encoder.pattern=mlp"],
    "full": [],
    "freeze": [],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("llama", []),
        ("gpt2", ["model.fusion.tokens=pooled"]),
        ("qwen3", ["model.fusion.tokens=pixel_shuffle", "task.normalise=rows"]),
        ("qwen3", ["tune/text_encoder=lora", "tune.text_encoder.targets=all"]),
        *(("llama", [f"tune={method}", *keys, FRONT]) for method, keys in [*METHODS.items()][::2]),
        *(("qwen3", [f"tune={method}", *keys, WITHIN]) for method, keys in [*METHODS.items()][1::2]),
        *(("llama", ["tune=lora", f"tune.{key}=true", WITHIN]) for key in ("rslora", "dora")),
        *(("llama", ["tune=adapters", f"tune.text_encoder.kind={kind}"]) for kind in ("houlsby", "parallel")),
        ("llama", ["tune=prompt", "tune.text_encoder.deep=false", WITHIN]),
        ("phi", ["tune=bitfit", FRONT]),  # which has biases
    ],
    ids=lambda given: given if isinstance(given, str) else " ".join(given),
)
def test_16_rows_are_learned_by_heart(
    kind: str, more: list[str], shapes: Shapes, language_model_folder: Folder, tmp_path: Path
) -> None:
    frame = pd.read_csv(shapes.rows).dropna(subset=["image", "text"]).query("split == 'train'").head(ROWS)
    frame["text"] = [f"what is it {number}" for number in range(ROWS)]
    frame.to_csv(tmp_path / "rows.csv", index=False)
    where = [f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}", f"data.batch_size={ROWS}"]
    typed = [*shapes.overrides, *where, "task=generation", "model/fusion=projector", "model.dropout=0"]
    folder = language_model_folder(kind, chat=kind == "qwen3")
    typed += [f"model.text_encoder.name={folder}", "model.text_encoder.max_length=64", "task.max_answer_tokens=8"]
    config = compose(
        "train", [*typed, f"optim.lr={'null' if 'tune=freeze' in more else 3e-3}", "optim.head_lr=3e-3", *more]
    ).config
    splits = load_splits(config.data, 0)
    task: Any = build.build_task(config.task)
    model = build.build_model(config.model, task.make_head, seed=0)
    build.prepare_generation(model, task)
    like_a_pretrained_one(model)
    nn.init.normal_(model.text_encoder.backbone.get_input_embeddings().weight, std=0.3)  # the head, where it is tied
    module = build.build_module(config, model, task, build.build_plan(config, model))
    module.micro_batch_size = 5
    optimizer: Any = module.configure_optimizers()
    data = build.build_data(config, splits, model, task)
    learned = next(iter(data.train_dataloader()))
    assert len(learned) == ROWS
    for step in range(STEPS):
        module.update(learned, optimizer, step, Tensor.backward)
        if step % 20 == 19:
            metrics = task.metrics()
            with torch.no_grad():
                task.update(metrics, model.eval()(learned), learned)
            model.train()
            if task.scalars(metrics)["exact_match"] == 1:
                return
    raise AssertionError(f"exact match {task.scalars(metrics)} after {STEPS} steps")
