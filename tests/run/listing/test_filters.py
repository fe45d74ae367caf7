"""What `mmft runs` filters by: typed as for `mmft train`, and what is wrong comes at once."""

from __future__ import annotations

import pytest

from mmft.errors import UserError
from mmft.run.listing.filters import Filter, compose_runs


def test_own_keys_and_filters() -> None:
    typed = [
        "name=2026_11",
        "status=completed",
        "tune=full,head_only",
        "optim.lr=5e-5",
        "init=null",
        "sort=test/accuracy",
    ]
    composed, filters = compose_runs([*typed, "limit=3", "paths.runs=there"])
    config = composed.config
    assert (config.status, config.sort, config.limit, config.paths.runs) == ("completed", "test/accuracy", 3, "there")
    assert filters == [
        Filter("name", False, ["2026_11"]),
        Filter("tune", True, ["full", "head_only"]),
        Filter("optim.lr", False, [5e-5]),
        Filter("init", False, [None]),
    ]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("compare=a,b", ["a", "b"]),
        ("compare=[a,b]", ["a", "b"]),
        ("compare=last,runs/x/2026-11-01_10-00-00", ["last", "runs/x/2026-11-01_10-00-00"]),
        ("compare=all", "all"),
    ],
)
def test_compare(typed: str, expected: object) -> None:
    assert compose_runs([typed])[0].config.compare == expected


def test_numbers_are_typed_as_their_key_is() -> None:
    [one] = compose_runs(["optim.lr=1"])[1]
    assert type(one.values[0]) is float


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("optim.lrr=1", "optim.lrr: no such key. Did you mean optim.lr?"),
        ("statu=completed", "Did you mean status?"),
        ("status=complete", "Did you mean completed?"),
        ("seed=abc", "seed: 'abc' is not allowed; expected an integer"),
        ("optim=sdg", "Did you mean sgd?"),
        ("optim=gone,sgd", "'gone' is not an option"),
        ("optim.type=sgd", "Type optim=NAME"),
        ("limit=0", "at least 1"),
        ("out=runs.txt", ".csv, .jsonl, or - for CSV"),
        ("out=gone/runs.csv", "there is no folder gone"),
        ("last", "is not an override"),
        ("+_target_=os.system", "_target_: no such key"),
    ],
)
def test_what_is_wrong(typed: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_runs([typed, "seeed=1"])
    assert len(caught.value.messages) == 2  # both at once
    assert said in str(caught.value)
