"""Metrics of generated texts: known values, the official programs' values, any number of ranks."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from mmft.tasks.metrics.names import lower_is_better
from mmft.tasks.metrics.ngrams import bleu, chrf, cider
from mmft.tasks.metrics.texts import (
    Perplexity,
    TextMetrics,
    anls,
    edits,
    exact_match,
    rouge_l,
    text_metric_names,
    token_f1,
    vqa_accuracy,
)
from mmft.training.parallel import merging

CAPTIONS = [
    (
        "A man riding a wave on top of a surfboard.",
        [
            "A man rides a wave on a surfboard.",
            "Surfer riding a big wave in the ocean.",
            "A man on a surfboard riding a wave.",
        ],
    ),
    (
        "Two dogs don't play in the snow",
        ["Two dogs are playing in the snow.", "A pair of dogs run through white snow, and it's cold."],
    ),
    ("a red double-decker bus on a street", ["A red double-decker bus drives down the street", "The bus is red."]),
    ("a cat", ["A black cat is sleeping on the couch", "the cat's on a couch"]),
]
WORDS = "a the dog cat is on mat, runs. red blue house; 3.5 2,000 it's don't over under tree-house café sky & sun"
OFFICIAL = {
    "bleu": 0.5220420247709181,
    "chrf": 0.6145261399399062,
    "rouge_l": 0.6757012658876164,
    "cider": 2.2400698215326087,
}


def captions(rows: int) -> list[tuple[str, list[str]]]:
    """Random texts with one to five references each, the text made from the first."""
    chance = random.Random(5)
    made = []
    for _ in range(rows):
        references = [
            " ".join(chance.choices(WORDS.split(), k=chance.randint(3, 14))) for _ in range(chance.choice([1, 3, 5]))
        ]
        words = references[0].split()
        for _ in range(chance.randint(0, 6)):
            words[chance.randrange(len(words))] = chance.choice(WORDS.split())
        made.append((" ".join(words) if chance.random() > 0.03 else "", references))
    return made


def computed(names: list[str], rows: list[tuple[str, list[str]]]) -> dict[str, float]:
    metric = TextMetrics(names)
    metric.update(*zip(*rows, strict=True))
    return {name: float(value) for name, value in metric.compute().items()}


@pytest.mark.parametrize(
    ("prediction", "references", "match", "f1"),
    [
        ("The Cat!", ["a cat"], 1, 1),
        ("cats", ["a cat"], 0, 0),
        ("a red cat", ["cat", "red dog house"], 0, 2 / 3),
        ("in the  U.S.A.", ["usa in", "in usa"], 1, 1),
        ("to be to be", ["to be"], 0, 2 / 3),
        ("the", ["a"], 1, 1),  # nothing is left of either
        ("", ["a cat"], 0, 0),
        ("", ["the", "cat"], 1, 1),
    ],
)
def test_squad(prediction: str, references: list[str], match: float, f1: float) -> None:
    assert exact_match(prediction, references) == match
    assert token_f1(prediction, references) == pytest.approx(f1, abs=1e-6)


@pytest.mark.parametrize(
    ("prediction", "right", "score"),
    [("Two.", 0, 0), ("Two.", 1, 0.3), ("the 2", 3, 0.9), ("two", 4, 1), ("two", 10, 1)],
)
def test_vqa(prediction: str, right: int, score: float) -> None:
    assert vqa_accuracy(prediction, ["2"] * right + ["three"] * (10 - right)) == pytest.approx(score)


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [
        ("Hello  world", ["hello world"], 1),
        ("hello wrld", ["Hello World"], 10 / 11),
        ("hello wrld", ["nothing", "hello world"], 10 / 11),
        ("ab", ["ax"], 0.5),  # the official script keeps exactly a half
        ("abc", ["axx"], 0),
        ("", ["abc"], 0),
        ("", [" "], 1),
    ],
)
def test_anls(prediction: str, references: list[str], score: float) -> None:
    assert anls(prediction, references) == pytest.approx(score)


def test_edits() -> None:
    assert edits("kitten", "sitting") == edits("sitting", "kitten") == 3
    assert edits("", "abc") == edits("abc", "") == 3
    start = "".join(random.Random(1).choices("abcdefgh", k=40))
    text = "".join(random.Random(2).choices("abcdefgh", k=60))
    assert edits(text, start + text) == 40  # far from the diagonal


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [
        ("police killed the gunman", ["police kill the gunman"], 0.75),  # Lin 2004, section 3.1
        ("the gunman kill police", ["police killed the gunman"], 0.5),
        ("The man, on the mat!", ["nothing", "the man on the mat"], 1),
        ("", ["something"], 0),
        *zip(*zip(*CAPTIONS, strict=True), [7 / 9, 2 / 3, 12 / 17, 0.4], strict=True),  # rouge-score 0.1.2
    ],
)
def test_rouge_l(prediction: str, references: list[str], score: float) -> None:
    assert rouge_l(prediction, references) == pytest.approx(score, abs=1e-6)


def test_bleu_of_its_paper() -> None:
    """Papineni et al. 2002: unigram precision 17/18, bigram 10/17 of candidate 1 in example 1."""
    text = "It is a guide to action which ensures that the military always obeys the commands of the party"
    references = [
        "It is a guide to action that ensures that the military will forever heed Party commands",
        "It is the guiding principle which guarantees the military forces always being under the command of the Party",
        "It is the practical guide for the army always to heed the directions of the party",
    ]
    assert bleu([text], [references]) == pytest.approx((17 / 18 * 10 / 17 * 7 / 16 * 4 / 15) ** 0.25, abs=1e-6)


def test_bleu_takes_the_shorter_of_two_references_that_are_equally_near() -> None:
    """Five words between four and six: no penalty of brevity, in whatever order the references are."""
    texts = ["a b c d", "a b c d e f"]
    assert (
        bleu(["a b c d x"], [texts])
        == bleu(["a b c d x"], [texts[::-1]])
        == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 / 2) ** 0.25)
    )


def test_as_the_official_programs() -> None:
    """Values of sacrebleu 2.6.0 (no smoothing), rouge-score 0.1.2, and of pycocoevalcap 1.2 with its Java tokeniser."""
    found = computed(["bleu", "chrf", "rouge_l", "cider"], captions(200))
    assert found == pytest.approx(OFFICIAL, abs=1e-6)
    assert cider(*zip(*CAPTIONS, strict=True)) == pytest.approx(2.067740063185487, abs=1e-12)
    assert chrf(*zip(*CAPTIONS, strict=True)) == pytest.approx(0.5540600024913599, abs=1e-12)
    assert bleu(*zip(*CAPTIONS, strict=True)) == 0


def test_the_best_is_the_best() -> None:
    rows = [(references[0], references) for _, references in captions(20)]
    best = computed(text_metric_names(), rows)
    assert set(best) == set(text_metric_names())
    cider_value = best.pop("cider")
    best.pop("vqa_accuracy")  # one of five annotators is not enough
    assert best == pytest.approx(dict.fromkeys(best, 1), abs=1e-6)
    other = computed(text_metric_names(), [("sun over", references) for _, references in rows])
    assert all(other[name] < value for name, value in best.items())
    assert cider_value > other["cider"]
    assert not any(lower_is_better(name) for name in text_metric_names())


def test_rows_that_say_nothing() -> None:
    found = computed(text_metric_names(), [("", ["cat"])])
    assert found == dict.fromkeys(text_metric_names(), 0)
    assert all(math.isnan(value) for value in TextMetrics(["bleu", "anls"]).compute().values())


def test_an_unknown_name() -> None:
    with pytest.raises(ValueError, match="no metric of texts is named 'bleo': choose from exact_match"):
        TextMetrics(["bleu", "bleo"])


def test_perplexity() -> None:
    metric = Perplexity()
    assert math.isnan(metric.compute())
    metric.update(torch.tensor([-3.0, 0.0]), torch.tensor([2, 0]))
    metric.update(torch.tensor([-1.0]), torch.tensor([6]))
    assert metric.compute().item() == pytest.approx(math.exp(4 / 8))
    assert lower_is_better("val/perplexity")


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_computes_the_same(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, also where a rank has no batch; texts come in the order of batches."""
    rows = captions(20)
    batches = [rows[at : at + 4] for at in range(0, len(rows) if ranks == 2 else 8, 4)]
    log_probs = [torch.randn(4, generator=torch.Generator().manual_seed(n)) for n in range(len(batches))]

    def collection(numbers: range) -> Any:
        from torchmetrics import MetricCollection

        made = MetricCollection({"texts": TextMetrics(text_metric_names()), "perplexity": Perplexity()})
        for number in numbers:
            made["texts"].update(*zip(*batches[number], strict=True))
            made["perplexity"].update(log_probs[number], torch.ones(4, dtype=torch.int64))
        return made

    whole = collection(range(len(batches))).compute()
    dealt = [range(rank, len(batches), ranks) for rank in range(ranks)]
    shares = [collection(numbers) for numbers in dealt]
    sent: list[Any] = []
    monkeypatch.setattr(merging, "is_distributed", lambda: True)
    monkeypatch.setattr(merging, "gathered", lambda own: sent.append(own) or [own] * ranks)
    for numbers in dealt:  # what each rank would send
        merging.merge_metrics(collection(numbers), list(numbers))
    monkeypatch.setattr(merging, "gathered", lambda _: sent)
    for share, numbers in zip(shares, dealt, strict=True):
        merging.merge_metrics(share, list(numbers))
        assert share.compute() == whole
