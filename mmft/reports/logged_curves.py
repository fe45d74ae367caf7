"""The ROC and precision-recall curves of a run's answers, for loggers that draw them."""

from __future__ import annotations

from collections.abc import Iterable

from mmft.config.schema.task import TaskConfig
from mmft.reports.page.evidence import answers_on
from mmft.reports.page.score_curves import score_curves, scores_of
from mmft.run_folder import RunFolder
from mmft.tasks.labels import in_files
from mmft.training.loggers.base import Curve, RunLogger


def log_curves(logger: RunLogger, folder: RunFolder, task: TaskConfig, splits: Iterable[str]) -> None:
    """Logs `SPLIT/roc` and `SPLIT/precision_recall`, of one of several tasks `SPLIT/TASK_roc`.

    Args:
        logger: to log to.
        folder: the run's, with predictions.csv.
        task: the run's.
        splits: the test splits, as `test` or `test/photo`.
    """
    for split in splits:
        for answers in answers_on(folder, task, split):
            found = score_curves(scores_of(answers.labelled))
            if not found:
                continue
            prefix = f"{split}/{in_files(answers.name)}_" if answers.name else f"{split}/"  # as other tables have
            roc = {label: Curve(one.false_positives, one.true_positives) for label, one in found.items()}
            logger.log_curves(f"{prefix}roc", "ROC", roc, ("false positive rate", "true positive rate"))
            recall = {label: Curve(one.recall, one.precision) for label, one in found.items()}
            logger.log_curves(f"{prefix}precision_recall", "Precision and recall", recall, ("recall", "precision"))
