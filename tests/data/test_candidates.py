"""Which other rows' texts a row is trained and measured with."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from make_shapes import Shapes

from mmft import build
from mmft.batch import Batch, Candidate, Sample
from mmft.config.compose import compose
from mmft.data.candidates import NextInBatch
from mmft.data.collate import Collate
from mmft.data.datamodule import VisionLanguageData
from mmft.data.gathered import NOBODY
from mmft.data.mismatches import mismatched_texts
from mmft.data.order import BatchSizes, epoch_order
from mmft.data.splitting.splits import Split, load_splits
from mmft.errors import UserError

ROWS, SIZE, COUNT = 45, 10, 4  # the last batch of an epoch has 5 rows


def rows(targets: torch.Tensor, bad: tuple[int, ...] = (), weightless: tuple[int, ...] = ()) -> Any:
    """What is asked of a data set: row `at` has the number 100 + at."""
    numbers = 100 + np.arange(len(targets))
    table = SimpleNamespace(weight=lambda row: float(row - 100 not in weightless), id=str)
    split = SimpleNamespace(rows=numbers, table=table)
    return SimpleNamespace(targets=targets, bad={100 + at for at in bad}, split=split)


def targets(count: int = ROWS) -> torch.Tensor:
    """Pairs of which no two belong together, without labels."""
    at = torch.arange(count)
    return torch.stack([at, 1000 + at, -torch.ones_like(at), -torch.ones_like(at)], dim=1)


def next_in_batch(data: Any, count: int = COUNT, sizes: dict[int, int] | None = None) -> NextInBatch:
    return NextInBatch(partial(epoch_order, ROWS, 3), data, BatchSizes(sizes or {0: SIZE}), count, 3)


def test_candidates_are_other_rows_of_the_logical_batch() -> None:
    given = next_in_batch(rows(targets()))
    for epoch in (0, 1):
        lines = given(epoch)
        assert lines[:, 0].tolist() == epoch_order(ROWS, 3, epoch).tolist()
        assert np.array_equal(lines, given(epoch))
        for first in range(0, ROWS, SIZE):
            batch = lines[first : first + SIZE]
            for position, *others in batch[:, : 1 + COUNT].tolist():
                assert len(set(others)) == COUNT
                assert position not in others
                assert set(others) <= set(batch[:, 0].tolist())
    assert not np.array_equal(given(0), given(1))
    chances = np.concatenate([given(epoch)[:, -COUNT:].ravel() for epoch in range(50)]) / 2**52
    assert len(set(chances)) == len(chances) == 50 * ROWS * COUNT
    assert np.histogram(chances, 4, (0, 1))[0] == pytest.approx([len(chances) / 4] * 4, rel=0.1)
    counted = Counter(given(0)[:, 1 : 1 + COUNT].ravel().tolist())
    assert set(counted.values()) == {COUNT}


def test_a_small_batch_has_fewer() -> None:
    lines = next_in_batch(rows(targets()), count=12, sizes={0: SIZE, 1: 20})
    assert (lines(0)[:40, 1:13] != NOBODY).sum(1).tolist() == [9] * 40
    assert (lines(0)[40:, 1:13] != NOBODY).sum(1).tolist() == [4] * 5
    assert (lines(1)[:40, 1:13] != NOBODY).all()


def test_what_belongs_together_is_no_candidate() -> None:
    made = targets()
    made[::3, 0] = 7  # images
    made[1::4, 1] = 8  # texts
    made[::5, 2] = 9  # groups
    lines = next_in_batch(rows(made, bad=(2,), weightless=(4,)))(0)[:, : 1 + COUNT]
    for position, *others in lines.tolist():
        own = made[position, :3]
        found = [at for at in others if at != NOBODY]
        assert found or position in (2, 4)
        assert not {2, 4} & set(found)
        for at in found:
            assert not bool(((own == made[at, :3]) & (own >= 0)).any())


def test_a_given_negative_asks_for_none_and_may_be_one() -> None:
    made = targets()
    made[:, 3] = torch.arange(ROWS) % 2
    lines = next_in_batch(rows(made))(0)[:, : 1 + COUNT]
    asked = (lines[:, 1:] != NOBODY).any(1)
    assert np.array_equal(asked, lines[:, 0] % 2 == 1)
    assert {at % 2 for at in lines[asked, 1:].ravel().tolist()} == {0, 1}


def test_nothing_that_does_not_belong_together_is_an_error() -> None:
    made = targets()
    made[:, 2] = 1
    with pytest.raises(UserError, match="no negative pairs"):
        next_in_batch(rows(made))
    made[0, 3] = 0
    assert (next_in_batch(rows(made))(0)[:, 1 : 1 + COUNT] == NOBODY).all()


def mismatched(made: torch.Tensor, bad: tuple[int, ...] = ()) -> np.ndarray[Any, Any]:
    data = rows(made, bad)
    return mismatched_texts(Split(data.split.table, data.split.rows), made, set(data.bad))


def test_every_text_is_measured_once_where_it_does_not_belong() -> None:
    made = targets()
    made[::9, 0] = 7
    made[1::9, 1] = 8
    made[2::9, 2] = 9
    given = mismatched(made, bad=(5,))
    assert given[5] == NOBODY
    good = np.flatnonzero(given != NOBODY)
    assert sorted(given[good]) == good.tolist() == [at for at in range(ROWS) if at != 5]
    for at in good:
        assert not bool(((made[at, :3] == made[given[at], :3]) & (made[at, :3] >= 0)).any())
    assert np.array_equal(given, mismatched(made, bad=(5,)))


def test_where_most_belong_together_the_others_texts_come_again() -> None:
    made = targets()
    made[:40, 1] = 8
    given = mismatched(made)
    assert all(whose >= 40 for whose in given[:40])
    assert all(0 <= whose != at for at, whose in enumerate(given))
    made[:, 2] = 1
    assert (mismatched(made) == NOBODY).all()


def test_a_chain_of_what_belongs_together_is_no_obstacle() -> None:
    made = targets()
    for at in range(0, ROWS - 1, 2):
        made[at + 1, 0] = made[at, 0]  # the same image as the one before
        made[at + 2, 1] = made[at + 1, 1]  # the same text as the one before
    for at, whose in enumerate(mismatched(made)):
        assert abs(at - whose) > 1


def test_rows_with_a_label_are_measured_as_they_are() -> None:
    made = targets()
    made[:20, 3] = 1
    given = mismatched(made)
    assert (given[:20] == NOBODY).all()
    assert sorted(given[20:]) == list(range(20, ROWS))


def data_of(shapes: Shapes, *more: str) -> VisionLanguageData:
    kept = [o for o in shapes.overrides if not o.startswith("data.columns.label")]
    config = compose("train", [*kept, "task=matching", "data.limit=40", "data.batch_size=12", *more]).config
    splits = load_splits(config.data, 0)
    task = build.build_task(config.task)
    task.fit(splits["train"].table.labels(splits["train"].rows))
    model = build.build_model(config.model, task.make_head, 0)
    config.data.max_bad_fraction = 1.0
    return build.build_data(config, splits, model, task)


def told(batch: Batch) -> dict[int, list[tuple[int, list[int], float]]]:
    """By row: its candidates' rows, tokens and chances."""
    assert batch.candidates is not None
    return {
        row: [(int(n), i[m].tolist(), float(c)) for i, m, n, c in zip(*parts, strict=True) if n >= 0]
        for row, *parts in zip(batch.row.tolist(), *batch.candidates, strict=True)
    }


def own_texts(batch: Batch) -> dict[int, list[int]]:
    assert batch.input_ids is not None
    assert batch.attention_mask is not None
    rows = zip(batch.row.tolist(), batch.input_ids, batch.attention_mask, strict=True)
    return {row: ids[mask].tolist() for row, ids, mask in rows}


@pytest.mark.parametrize("more", [[], ["data/augment=light", "data.augment.token_dropout=0.5"], ["data.num_workers=2"]])
def test_ranks_workers_and_augmentation_change_nobodys_candidates(shapes: Shapes, more: list[str]) -> None:
    reference, texts = {}, {}
    for batch in data_of(shapes).train_dataloader():
        reference |= told(batch)
        texts |= own_texts(batch)
    assert any(len(others) == 7 for others in reference.values())
    found, own = {}, {}
    for rank in (0, 1):
        data = data_of(shapes, *more)
        data._place = lambda rank=rank: (rank, 2)  # type: ignore[method-assign]
        loader: Any = data.train_dataloader()
        for batch in loader:
            found |= told(batch)
            own |= own_texts(batch)
        if loader.num_workers:
            loader._iterator._shutdown_workers()
    assert (own == texts) is ("data/augment=light" not in more)
    for row, others in found.items():
        assert [(other, chance) for other, _, chance in others] == [(o, c) for o, _, c in reference[row]]
        assert all(ids == own[other] for other, ids, _ in others)  # augmented as in their own rows, not more nor less


def test_evaluation_rows_come_with_one_whatever_the_batches(shapes: Shapes) -> None:
    found = []
    for size in (12, 5):  # and any seed
        made: dict[int, Any] = {}
        data = data_of(shapes, "data.limit=null", f"data.batch_size={size}", f"seed={size}")
        for batch in data.evaluation_loader("test"):
            made |= told(batch)
        found.append(made)
    assert found[0] == found[1]
    assert {len(others) for others in found[0].values()} == {1}
    assert all(others[0][0] != row for row, others in found[0].items())


def test_collate_pads_candidates_as_texts() -> None:
    collate = Collate(pad_id=9, empty=np.array([1], dtype=np.int32))
    long, short = torch.arange(10), torch.tensor([4, 5])
    image = torch.zeros(3, 2, 2, dtype=torch.uint8)
    first = Sample(0, image, short, candidates=(Candidate(5, long), Candidate(6, short)))
    batch = collate([first, replace(first, row=1, candidates=(Candidate(7, short),)), replace(first, candidates=())])
    assert batch.candidates is not None
    assert batch.candidates.row.tolist() == [[5, 6], [7, -1], [-1, -1]]
    assert batch.candidates.input_ids.shape == (3, 2, 16)
    assert batch.input_ids is not None
    assert batch.input_ids.shape == (3, 16)
    assert batch.candidates.attention_mask.sum(2).tolist() == [[10, 2], [2, 0], [0, 0]]
    assert batch.candidates.input_ids[1, 1].tolist() == [9] * 16
    parts = list(batch.split(2))
    assert [part.candidates.row.tolist() for part in parts if part.candidates] == [[[5, 6], [7, -1]], [[-1, -1]]]
    nobody = collate([replace(first, candidates=())]).candidates
    assert nobody is not None
    assert nobody.input_ids.shape == (1, 0, 8)
    assert collate([replace(first, candidates=None)]).candidates is None
