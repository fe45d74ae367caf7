"""`FrozenCache`: the store of frozen work as a process uses it, which fills it with what is missing before it reads."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmft.cache.entry import Entry
from mmft.cache.identity import identity, says_what_it_reads
from mmft.cache.store import Store
from mmft.config.schema.data import DataConfig
from mmft.config.wording import counted
from mmft.data.dataset import RowDataset
from mmft.data.stored_rows import StoredRows, digests_of
from mmft.data.views import Views
from mmft.files import in_units
from mmft.models.frozen_part import CannotSplitError, FrozenPart
from mmft.models.frozen_pieces import frozen_part_of
from mmft.models.layers import evaluated
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.training.filling import Filling
from mmft.tuning.quantize import is_quantized

log = logging.getLogger(__name__)
_NEGLIGIBLE = 1.02  # times the time without the store: what later runs may cost this one
_AT_ONCE = 64  # rows of a batch that is computed for the store, unless those of the command are smaller
_DECIDED_AFTER = 128  # rows
_FROZEN = {None: "the encoder is frozen", 2: "the first layer is frozen"}  # by the lowest trained layer
_SHARD = 64 * 2**20  # bytes of values after which a shard is written


def is_exact(device: torch.device, precision: str) -> bool:
    """Whether a frozen part must compute the same of a row, to the last bit, in whatever batch; kernels allow it."""
    return device.type == "cpu" and precision in ("32-true", "64-true")


def frozen_part(
    model: VisionLanguageModel, encoder: str, lowest: int | None, exact: bool, form: str = "computed"
) -> FrozenPart | None:
    """The frozen part of an encoder whose lowest trained layer is `lowest`, None for none; None if there is none."""
    if is_quantized(getattr(model, encoder)) or (lowest is not None and lowest < 2):  # an entry's name has no scales
        return None
    if not says_what_it_reads(getattr(model, encoder)):
        log.info("model.%s: its frozen layers are computed each time: its code is your own, without `reads`", encoder)
        return None
    part = frozen_part_of(getattr(model, encoder), lowest, model.fusion.reads, exact, form)
    try:
        part.check()
        return part
    except CannotSplitError as error:
        log.info("model.%s: its frozen layers are computed each time: %s", encoder, error)
        return None


class Pooled(NamedTuple):
    """Pooled features of the rows of a split."""

    values: Tensor  # (R, D) in the dtype of the computation; zeros where they are not there
    there: Tensor  # (R,) bool, False = the row lacks the modality or could not be read

    def unread(self, rows: RowDataset) -> list[int]:
        """Positions of rows whose features these are, of the images, that are not bad but whose image is not there."""
        table, numbers = rows.split.table, rows.split.rows.tolist()
        missing = (~self.there).nonzero().squeeze(1).tolist()
        return [at for at in missing if numbers[at] not in rows.bad and table.image(numbers[at]) is not None]


class FrozenCache:
    """Fills a store with what frozen parts compute of rows, and says which rows are read from it.

    Args:
        store: of the values; None to keep nothing.
        keep: `auto` keeps what pays, `always` everything, `never` nothing.
        precision: of the computation, `32-true`.
        context: makes the context of the computation.
        data: how rows are read, and how many the device computes at once.
        rank: of this process, which computes every `world`-th row.
        world: processes that fill the store together.
    """

    def __init__(
        self,
        store: Store | None,
        keep: str,
        precision: str,
        context: Callable[[], AbstractContextManager[Any]],
        data: DataConfig,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._store, self.keep = store, "never" if store is None else keep
        self.precision, self._context = precision, context
        self._at_once = min(_AT_ONCE, data.micro_batch_size or data.batch_size)
        self._workers = data.num_workers
        self._rank, self._world = rank, world
        self._entries: dict[tuple[Any, ...], Entry] = {}
        self._in_use: list[tuple[StoredRows, int]] = []  # and how many rows were computed for it
        self._writes = self.keep != "never"

    @property
    def store(self) -> Store:
        """Of the values."""
        assert self._store is not None
        return self._store

    def taken_apart(
        self,
        model: VisionLanguageModel,
        encoder: str,
        lowest: int | None,
        passes: Mapping[str, tuple[RowDataset, int]],
        form: str = "computed",
        together: Callable[[], object] = lambda: None,
    ) -> tuple[FrozenPart | None, dict[str, StoredRows]]:
        """The frozen part that a model must have for an encoder, and what the store has of it, as `filled` finds it.

        The part is None if there is none, or if the encoder as a whole computes the same.

        Args:
            model: on its device.
            encoder: `image_encoder` or `text_encoder`.
            lowest: its lowest trained layer; None for none.
            passes: as for `filled`.
            form: see `FrozenPart`.
            together: as for `filled`.
        """
        exact = is_exact(next(getattr(model, encoder).parameters()).device, self.precision)
        part = frozen_part(model, encoder, lowest, exact, form)
        if part is None:
            return None, {}
        stored = self.filled(part, passes, together)
        return part if exact or stored or form != "computed" else None, stored

    def filled(
        self,
        part: FrozenPart,
        passes: Mapping[str, tuple[RowDataset, int]],
        together: Callable[[], object] = lambda: None,
    ) -> dict[str, StoredRows]:
        """What the store has of rows, once what is missing has been computed and written.

        Args:
            part: on its device, checked.
            passes: rows and how often they are read, by split.
            together: called once this process has written its share of some rows; returns when all have.

        Returns:
            By split; without splits of which nothing is there, or of which reading does not pay.
        """
        found: dict[str, StoredRows] = {}
        for split, (rows, times) in passes.items() if self.keep != "never" else ():
            stored = self._stored(part, rows, rows.views)
            computed = len(stored.missing())
            pays = self._fill(part, stored, rows, times)
            together()
            stored.refresh()
            if not (stored.there and pays):
                continue
            found[split] = stored
            self._in_use.append((stored, computed))
        if found:
            entry, total = next(iter(found.values())).entry, sum(stored.there for stored in found.values())
            frozen = _FROZEN.get(part.layer, f"the first {(part.layer or 1) - 1} layers are frozen")
            log.info(
                "model.%s_encoder: %s; what that gives for %s is read from %s (%s)",
                *(part.modality, frozen, counted(total, part.modality), entry.folder, in_units(entry.bytes)),
            )
        return found

    def note_reads(self) -> None:
        """Notes how often rows were read so far instead of being computed, in this process and not by its workers."""
        for stored, computed in self._in_use if self._rank == 0 else ():
            stored.entry.note_read(max(0, stored.reads - computed))
        self._in_use = []

    def pooled(self, part: FrozenPart, rows: RowDataset) -> Pooled:
        """The pooled features of all rows, without augmentation: read from the store, and computed where it lacks them.

        All are computed with `never`, and where it is not known what the encoder's output depends on.

        Args:
            part: of a whole encoder of which `pooled` alone is kept, on its device.
            rows: whose `stored` is left as it is.
        """
        if self.keep == "never" or not says_what_it_reads(part.encoder):
            stored = StoredRows(Entry(self.store.folder / "nothing", {}), digests_of(rows, part.modality))
        else:
            stored = self._stored(part, rows, None)
            self._in_use.append((stored, len(stored.missing())))
            self._fill(part, stored, rows, 1)
            stored.refresh()
        there = [at if stored.has(at) else None for at in range(len(rows))]
        read = stored.read(there, 0)
        self.note_reads()
        filling = self._filling(part, stored, rows, stored.to_compute())
        with evaluated(part.encoder):
            for _ in filling:
                pass
        new = filling.first_values()
        like = next(iter(new.values())) if read is None and new else torch.zeros(0)
        values = like.new_zeros(len(rows), part.encoder.widths.pooled) if read is None else read.values[0]
        known = torch.zeros(len(rows), dtype=torch.bool)
        for at, digest in enumerate(stored.digests):
            known[at] = there[at] is not None or digest in new
            if digest in new:
                values[at] = new[digest]
        return Pooled(values, known)

    def _stored(self, part: FrozenPart, rows: RowDataset, views: Views | None) -> StoredRows:
        return StoredRows(self._entry(part, rows), digests_of(rows, part.modality, views))

    def _entry(self, part: FrozenPart, rows: RowDataset) -> Entry:
        reading = rows.images.reader.facts if part.modality == "image" else {}
        key = (part.encoder, part.layer, part.names, part.exact, part.form, str(reading))
        if key not in self._entries:  # weights are hashed once
            self._entries[key] = self.store.entry(*identity(part, self.precision, reading))
        return self._entries[key]

    def _filling(self, part: FrozenPart, stored: StoredRows, rows: RowDataset, positions: Sequence[int]) -> Filling:
        return Filling(part, stored, rows, positions, self._at_once, self._workers, self._context)

    def _fill(self, part: FrozenPart, stored: StoredRows, rows: RowDataset, passes: int) -> bool:
        """Computes and writes this process's share of the missing rows, unless that does not pay or fit.

        Another run that does the same at the same time is waited for.

        Returns:
            Whether reading what is there pays.
        """
        if not (self._writes and stored.missing()):
            return True
        try:
            with stored.entry.writing(f"{self._rank}-{self._world}"), evaluated(part.encoder):
                stored.refresh()
                share = [at for at in stored.to_compute() if at % self._world == self._rank]
                if share:
                    log.info("cache: computing %s once for %s", counted(len(share), part.modality), self.store.folder)
                return self._filled(self._filling(part, stored, rows, share), len(share), passes)
        except OSError as error:
            log.warning(
                "cache: %s cannot be written (%s); what is not there is computed each time", self.store.folder, error
            )
            self._writes = False
            return True

    def _filled(self, filling: Filling, rows: int, passes: int) -> bool:
        decided, asked = self.keep != "auto", False
        for _ in filling:
            decides_now, full = not decided and filling.rows >= _DECIDED_AFTER, filling.held >= _SHARD
            if not (decides_now or full or (decided and not asked)):
                continue
            if not self._fits(filling, rows if decided else filling.rows):  # no room is made for what may not pay
                return True
            asked = decided
            if decides_now or full:
                filling.flush()
            if decides_now and not self._pays(filling, passes):
                return False
            decided = decided or decides_now
        if self._fits(filling, filling.rows):
            filling.flush()
        filling.stored.entry.note_computed(filling.rows, filling.seconds)
        return True

    def _fits(self, filling: Filling, rows: int) -> bool:
        """Whether the values of all `rows` fit into the store; says so if not."""
        each = (filling.held + filling.written) / max(1, filling.rows)
        in_use = [entry.folder for entry in self._entries.values()]
        if self.store.make_room(round(each * rows) - filling.written, in_use):
            return True
        log.warning(
            "cache: %s for %d rows do not fit into %s (cache.limit, or a full disk); they are computed each time",
            *(in_units(round(each * rows)), rows, self.store.folder),
        )
        return False

    def _pays(self, filling: Filling, passes: int) -> bool:
        """Whether reading the values is faster than computing them so often, by what both took so far."""
        stored = filling.stored
        stored.refresh()
        positions = list(islice(filter(stored.has, range(len(stored.digests))), _AT_ONCE))
        begin = time.perf_counter()
        stored.read(positions, 0)
        reading = (time.perf_counter() - begin) / len(positions)
        computing, writing = filling.seconds / filling.rows, filling.writing / filling.rows
        pays = computing + writing + passes * reading <= _NEGLIGIBLE * passes * computing
        if not pays:
            log.info(
                "cache=auto: the frozen layers of %s are computed each time: that takes %.2g ms a row, against "
                "%.2g ms to write once and %.2g ms to read, and they are read %d times",
                *(filling.part.encoder.source.name, 1e3 * computing, 1e3 * writing, 1e3 * reading, passes),
            )
        return pays
