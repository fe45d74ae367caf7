"""Writes a fine-tuned pair, or two encoders with dual fusion, as a folder that SentenceTransformer loads.

A pair of transformers is one `Transformer` module; two encoders are a `Router` with a sequence of modules for texts and
one for images. The package writes its own files.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mmft.data.images.squares import squaring
from mmft.errors import UserError, first_line
from mmft.models.encoder import Encoder
from mmft.models.fusion.dual import DualFusion
from mmft.models.image_encoder import ImageEncoder
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.run.export.card import sentence_transformers_card
from mmft.run.export.encoders import write_encoder
from mmft.run.export.pair import check_head, check_is_pair, own_size, write_pair
from mmft.run.saved_model import SavedModel

_FORMAT = "sentence_transformers"
_POOLS: dict[str, Any] = {"cls": "cls", "mean": "mean", "cls_mean": ("cls", "mean"), "last": "lasttoken"}
_CLOSE = 1e-4  # embeddings have length 1; what rounding makes is ten times less


def check_has_modules(saved: SavedModel) -> None:
    """Checks that a run's model embeds images and texts, and that the package is there.

    Raises:
        UserError: it does not, or it is not.
    """
    if importlib.util.find_spec(_FORMAT) is None:
        raise UserError(f"format={_FORMAT} needs that package. Type pip install 'mmft[sentence-transformers]'")
    if isinstance(saved.model.fusion, DualFusion):
        check_head(saved, _FORMAT)
    else:
        check_is_pair(saved, _FORMAT)


def write_sentence_transformers(saved: SavedModel, summary: Mapping[str, Any], folder: Path) -> str:
    """Writes the modules, once they compute the run's embeddings; returns their model card.

    Args:
        saved: with `check_has_modules`, merged.
        summary: the run's summary.json, for the model card.
        folder: exists.

    Raises:
        UserError: the package cannot load an encoder, or computes other embeddings.
    """
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    transformers.utils.logging.set_verbosity_error()
    logging.getLogger(_FORMAT).setLevel(logging.ERROR)
    model = saved.model.float().cpu().eval()
    with tempfile.TemporaryDirectory() as parts:
        try:
            first = _router(saved, Path(parts)) if isinstance(model.fusion, DualFusion) else _whole(saved, Path(parts))
            written = SentenceTransformer(modules=[first, Normalize()], device="cpu").eval()
            _check_same(model, written)
        except (UserError, OSError):
            raise
        except Exception as error:
            trained = "".join(f"Train with {key}, or type" for key in own_size(model.image_encoder)) or "Type"
            raise UserError(
                f"sentence-transformers cannot compute this model ({first_line(error).rstrip('.')}). {trained} "
                "format=hf for the encoders alone"
            ) from error
        written.save_pretrained(str(folder), create_model_card=False)
    return sentence_transformers_card(saved, summary)


def _whole(saved: SavedModel, parts: Path) -> nn.Module:
    """The module of a pair of transformers."""
    from sentence_transformers.sentence_transformer.modules import Transformer

    text = saved.model.text_encoder
    options: dict[str, Any] = {"padding": True, "max_length": text.max_length}  # some processors have their own
    if text.fixed_length:  # padding is read like words
        options = {"padding": "max_length", "max_length": text.positions, "return_attention_mask": False}
    write_pair(saved, {}, parts)
    module: nn.Module = Transformer(str(parts), processing_kwargs={"text": options})
    return module


def _router(saved: SavedModel, parts: Path) -> nn.Module:
    """The modules of two encoders with dual fusion."""
    from sentence_transformers.sentence_transformer.modules import Router

    model, how = saved.model, squaring(saved.config.data)
    model.text_encoder.tokenizer.model_max_length = model.text_encoder.max_length
    routes: dict[str, Any] = {}
    for name, encoder in (("text", model.text_encoder), ("image", model.image_encoder)):
        write_encoder(encoder, parts / name, how)
        routes[name] = [*_encoder(encoder, name, parts / name), *_projection(model.fusion.get_submodule(name))]
    router: nn.Module = Router(routes, default_route="text")
    return router


def _encoder(encoder: Encoder, modality: str, folder: Path) -> list[nn.Module]:
    """The modules of an encoder in `folder`, with its pooling."""
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    if encoder.pool == "own":
        own = {modality: {"method": "forward", "method_output_name": "pooler_output"}}
        return [Transformer(str(folder), modality_config=own, module_output_name="sentence_embedding")]
    loaded = Transformer(str(folder))
    prefix = getattr(encoder, "prefix", 0)
    if not prefix or encoder.pool == "cls":
        return [loaded, Pooling(encoder.width, _POOLS[encoder.pool])]
    weight = _mean_of_patches(encoder, prefix)  # Pooling's own mean includes the class token
    if encoder.pool == "cls_mean":
        weight = torch.cat([torch.eye(encoder.width, 2 * encoder.width), weight])
    rows, columns = weight.shape
    dense = Dense(columns, rows, bias=False, activation_function=None, init_weight=weight)
    return [loaded, Pooling(encoder.width, ("cls", "mean")), dense]


def _mean_of_patches(encoder: Encoder, prefix: int) -> Tensor:
    """(D, 2 D) that makes the mean of the patches from the class token and the mean of all tokens.

    Raises:
        UserError: there are other tokens than the class token and patches.
    """
    assert isinstance(encoder, ImageEncoder)
    if prefix > 1:
        raise UserError(
            f"format={_FORMAT}: its modules cannot leave tokens of {encoder.source.name} that are neither "
            "class token nor patches out of a mean. Train with model.image_encoder.pool=own or pool=cls"
        )
    side = encoder.image_size
    with torch.no_grad():
        patches = encoder(torch.zeros(1, 3, side, side, dtype=torch.uint8)).tokens.shape[1] - 1
    eye = torch.eye(encoder.width)
    return torch.cat([-eye / patches, eye * (patches + 1) / patches], dim=1)


def _projection(layers: nn.Module) -> list[nn.Module]:
    """The modules of a projection of dual fusion."""
    from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm

    found: list[nn.Module] = []
    for layer in layers.children():
        if isinstance(layer, nn.LayerNorm):
            norm = LayerNorm(layer.normalized_shape[0])
            norm.norm.load_state_dict(layer.state_dict())
            found.append(norm)
        elif isinstance(layer, nn.Linear):
            bias = layer.bias is not None
            dense = Dense(layer.in_features, layer.out_features, bias=bias, activation_function=None)
            dense.linear.load_state_dict(layer.state_dict())
            found.append(dense)
        elif isinstance(layer, nn.GELU):
            found[-1].activation_function = nn.GELU()
    return found


@torch.no_grad()
def _check_same(model: VisionLanguageModel, written: Any) -> None:
    """Compares the embeddings of two images, and of a short and a long text.

    Raises:
        UserError: those of the modules are others.
    """
    side, text = model.image_encoder.image_size, model.text_encoder
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, side, side), generator=random, dtype=torch.uint8)
    texts = ["a", " ".join(str(number) for number in range(2 * min(text.max_length, 512)))]
    options: dict[str, Any] = {"return_tensors": "pt", "padding": True, "return_attention_mask": True}
    tokens = text.tokenizer(texts, truncation=True, max_length=text.max_length, **options)
    fused = model.fusion(model.image_encoder(pixels), text(tokens["input_ids"], tokens["attention_mask"].bool()))
    encoders: dict[str, Encoder] = {"image": model.image_encoder, "text": text}
    given = {"image": [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels], "text": texts}
    for (kind, inputs), own in zip(given.items(), fused.chunk(2, dim=-1), strict=True):
        found = written.encode(inputs, convert_to_tensor=True, show_progress_bar=False)
        difference = float((found - own).abs().max())
        if difference > _CLOSE:
            raise UserError(
                f"sentence-transformers computes other embeddings of {kind}s than this run's model (a difference of "
                f"{difference:.1e}), which has model.{kind}_encoder.pool={encoders[kind].pool}. Train with another "
                "pooling, or type format=hf for the encoders alone"
            )
