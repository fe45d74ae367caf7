"""What a run logs before it trains: hardware, row counts, and warnings about the rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch.nn.modules.batchnorm import _BatchNorm

from mmft.config.schema.model import MODALITY
from mmft.config.schema.root import TrainConfig
from mmft.data.bad_rows import BadRows
from mmft.data.datamodule import VisionLanguageData
from mmft.data.splitting.splits import Split, groups_of_earlier_splits
from mmft.models.vision_language_model import VisionLanguageModel

log = logging.getLogger(__name__)
_PLACE = "<image>"


def report_bad_rows(data: VisionLanguageData, bad: BadRows) -> None:
    """Logs in one line how many rows of each split are left out, why the first is, and where all are listed."""
    if not bad.count:
        return
    counts = ", ".join(f"{name or 'no split'} {len(rows)}" for name, rows in data.by_split(bad.rows).items())
    first = bad.rows[0]
    listed = f"; all in {bad.path}" if bad.path is not None else ""
    log.warning(
        "%d %s left out (%s); row %d, %s%s",
        *(bad.count, "row is" if bad.count == 1 else "rows are", counts, first.row, first.why, listed),
    )


def announce(
    config: TrainConfig,
    model: VisionLanguageModel,
    data: VisionLanguageData,
    splits: Mapping[str, Split],
    bad: BadRows,
) -> None:
    """Logs what will be trained on what, and what a user should know about the rows."""
    log.info("accelerator %s, precision %s", config.trainer.accelerator, config.trainer.precision)
    rows = "  ".join(f"{name} {count}" for name, count in data.usable_rows(bad.rows).items())
    steps = f"optimizer steps: {data.plan.total}" if config.tune.probe is None else "no optimizer steps"
    log.info("rows: %s  %s", rows, steps)
    report_bad_rows(data, bad)
    for split, cut in data.texts_cut.items():
        if cut:
            log.info("%d of %d texts of %s exceed model.text_encoder.max_length", cut, data.rows[split], split)
    if config.task.generates and config.data.columns.messages is None:
        _warn_of_places(splits["train"])
    if leaks := len(list(groups_of_earlier_splits(splits))):
        log.warning("%d rows belong to groups that also occur in an earlier split; mmft check lists them", leaks)
    for encoder, modality in MODALITY.items():
        if not config.reads(modality):
            log.warning("data.columns.%s is null: the %s has no input and is not trained", modality, encoder)
    normed = any(isinstance(module, _BatchNorm) and module.training for module in model.modules())
    if config.data.micro_batch_size is not None and normed:
        log.warning("BatchNorm is trained on micro-batches, so the result depends on data.micro_batch_size")


def _warn_of_places(train: Split) -> None:
    """Warns of texts with the place of an image in LLaVA's tables, which is a word in a text column."""
    texts = [text for text in train.table.texts(train.rows) if text is not None and _PLACE in text]
    if texts:
        log.warning(
            "%d texts have %s, which the model reads as a word: only data.columns.messages have places. "
            "Take it out of the table, and type task.prompt='{image}{text}'",
            *(len(texts), _PLACE),
        )
