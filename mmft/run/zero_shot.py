"""Zero-shot classification: a finished `task=contrastive` run as an image classifier, from label names alone.

Usable wherever a classifier is: `mmft predict`, `mmft test`, `mmft explain` and `LoadedModel.zero_shot`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from mmft.config.schema.root import ZeroShotConfig
from mmft.config.schema.task import has_place
from mmft.data.splitting.splits import Split
from mmft.errors import UserError
from mmft.models.similarity import PromptHead, SimilarityHead
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.run.saved_model import SavedModel
from mmft.tasks.classification import Classification
from mmft.tasks.labels import in_order, label_name, shown
from mmft.tasks.prompts import NAME_ALONE, label_embeddings, prompts_of, templates_of
from mmft.training.prompts import fused_texts

log = logging.getLogger(__name__)


def check_texts(saved: SavedModel) -> None:
    """Raises UserError for a run that has no texts to compare an image with."""
    if saved.task.captions_of is not None:
        labels = saved.task.state()["labels"]
        raise UserError(
            "the run was trained on captions of labels (task.texts=templates), so there are no texts to compare an "
            f"image with. Use model.zero_shot(LABELS).predict(rows); its own labels: {shown(labels)}"
        )


def classifier(
    saved: SavedModel, labels: Sequence[str], templates: str | Sequence[str] | None, device: torch.device
) -> SavedModel:
    """The model with a head built from the labels' prompts, and classification as its task.

    Args:
        saved: a run of `task=contrastive`.
        labels: names to choose from.
        templates: prompts with `{}` for a label's name, or the name of a set; None for the run's own.
        device: the device that embeds the prompts.

    Raises:
        UserError: the run has another task, labels are no list of at least two different names, or a template has no
            place for them.
    """
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise UserError(f"zero_shot.labels: {labels!r} given. Give a list of names, such as ['cat', 'dog']")
    if not isinstance(templates, str | None):
        for template in templates:
            if not isinstance(template, str) or not has_place(template):
                raise UserError(f"zero_shot.templates: {template!r} needs one {{}} for the label's name")
    if saved.task.templates is None:
        raise UserError(f"zero_shot: the run's task is {saved.config.task.type}, but it needs task=contrastive.")
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise UserError(
            f"zero_shot.labels: at least two different labels are needed. Given: {shown(labels) or 'none'}."
        )
    alike = Counter(prompts_of(labels, NAME_ALONE))
    if same := [name for name in labels if alike[prompts_of([name], NAME_ALONE)[0]] > 1]:
        raise UserError(f"zero_shot.labels: {shown(same)} have the same prompt, since underscores become spaces.")
    model = saved.model.to(device).eval()
    prompts = prompts_of(labels, templates_of(templates) if templates else saved.task.templates)
    texts = label_embeddings(fused_texts(model, prompts, device).clone(), len(labels))
    assert isinstance(model.head, SimilarityHead)
    made = VisionLanguageModel(model.image_encoder, model.text_encoder, model.fusion, PromptHead(model.head, texts))
    made.missing_image, made.missing_text = model.missing_image, model.missing_text
    columns = replace(saved.config.data.columns, text=None)
    config = replace(saved.config, data=replace(saved.config.data, columns=columns))
    return replace(saved, model=made.to(device).eval(), task=Classification(list(labels)), config=config)


def asked(saved: SavedModel, config: ZeroShotConfig, split: Split, device: torch.device) -> SavedModel:
    """The model that a command uses: the run's own, or the classifier built by `zero_shot`.

    A run whose texts are captions of labels has no texts of its own to match, so it classifies by its labels.

    Args:
        saved: the run's.
        config: the command's `zero_shot`.
        split: the command's rows, which labels may come from.
        device: the device to run on.

    Raises:
        UserError: as `classifier`, or there are no labels at the given source, or a text column that is not read.
    """
    given, templates = config.labels, config.templates
    if given is None and saved.task.captions_of is not None:
        if split.table.columns.text is not None:
            raise UserError(
                "data.columns.text: the run makes its texts of labels (task.texts=templates). Leave it out."
            )
        log.info("the run was trained on captions of labels: images are classified by zero_shot.labels=run")
        given = "run"
    if given is None:
        return saved
    labels = given if isinstance(given, list) else _labels(saved, given, split)
    return classifier(saved, labels, templates, device)


def _labels(saved: SavedModel, of: str, split: Split) -> list[str]:
    if of == "run":
        return [str(name) for name in saved.task.state().get("labels", [])]
    given = split.table.labels(split.rows)
    return in_order({label_name(label) for label in given if label is not None and not isinstance(label, (list, dict))})
