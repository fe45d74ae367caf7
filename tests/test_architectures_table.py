"""docs/architectures.md says what `mmft train` does with every architecture; a part of it is tried here."""

from __future__ import annotations

import re

import architectures
import pytest

FAST = ["bert", "t5", "gpt2", "swin", "timm/vision_transformer"]
SLOW = [
    *("albert", "bart", "canine", "deberta-v2", "funnel", "longformer", "mamba", "mt5", "reformer", "xlnet"),
    *("beit", "cvt", "detr", "efficientnet", "pvt", "sam_vision_model", "vit"),
    *("timm/crossvit", "timm/levit", "timm/resnet"),
]


def rows() -> dict[str, tuple[str, str]]:
    """Architecture -> model and outcome, of the tables in docs/architectures.md."""
    lines = architectures.TABLE.read_text(encoding="utf-8").splitlines()
    cells = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if re.match(r"\| [^|]+ \| ", line)
    ]
    return {name: (model, " | ".join(outcome)) for name, model, *outcome in cells if name != "architecture"}


def test_the_table_is_long() -> None:
    outcomes = [outcome for _, outcome in rows().values()]
    assert len(outcomes) >= 60
    assert all(outcome == architectures.TRAINS or outcome.startswith("refused: ") for outcome in outcomes)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in FAST + SLOW]
)
def test_the_table_is_current(name: str) -> None:
    known = rows()
    (outcome,) = architectures.outcomes([name])
    if name in known:
        model, said = known[name]
        assert outcome.model == model
        assert outcome.what == said.partition(":")[0], outcome.why
    else:
        assert outcome.what == architectures.NOT_TRIED, outcome
