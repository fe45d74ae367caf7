"""`mmft.load_pair`: a pretrained pair as it is, before any training.

pair = mmft.load_pair("openai/clip-vit-base-patch32")
pair.zero_shot(["cat", "dog"]).predict([{"image": "a.jpg"}])
"""

from __future__ import annotations

from pathlib import Path

from mmft import build
from mmft.config.compose import compose
from mmft.config.schema.root import TrainConfig
from mmft.run.loaded_model import LoadedModel
from mmft.run.saved_model import SavedModel


def load_pair(pair: str | Path, image: str = "image", text: str = "text", accelerator: str = "auto") -> LoadedModel:
    """Loads a pretrained pair (CLIP, SigLIP and their kind) for retrieval, embeddings and zero-shot classification.

    Args:
        pair: a folder or a hub name, as in `model.pair`.
        image: the key or column of a row's image.
        text: the key or column of its text.
        accelerator: `auto`, `cpu` or `gpu`.

    Raises:
        UserError: there is no such pair, or a GPU is requested but there is none.
    """
    config: TrainConfig = compose(
        "train", ["data=table", "task=contrastive", "model/fusion=pretrained"], partial=True
    ).config
    config.model.pair = config.model.image_encoder.name = config.model.text_encoder.name = str(pair)
    config.data.columns.image, config.data.columns.text = image, text
    build.choose_for_pair(config, Path.cwd())
    task = build.build_task(config.task)
    task.fit([])
    model = build.build_model(config.model, task.make_head, config.seed).eval()
    model.requires_grad_(False)
    return LoadedModel(SavedModel(model, task, config, Path.cwd(), {}, frozenset()), accelerator)
