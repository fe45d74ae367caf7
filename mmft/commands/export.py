"""`mmft export run=RUN`: a run's encoders as folders that plain timm and transformers load.

README.md            the model card
image_encoder/       config and float32 weights, with weights added in training merged
text_encoder/        the same, and the tokenizer
adapters/ENCODER/      the adapter that peft added, if any, in its own format

With another `format`, a fine-tuned pair or a LLaVA as one folder instead, and of `model.whole` always, or the whole
model as graphs (`onnx`, `torch_export`); see the modules of `mmft.run.export`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mmft import logs
from mmft.commands.output import print_path
from mmft.config.compose import Composed
from mmft.config.schema.root import ExportConfig
from mmft.errors import ExitCode, UserError
from mmft.files import located, replace_folder, write_text
from mmft.models.fusion.dual import DualFusion
from mmft.models.language.generative_model import GenerativeModel
from mmft.run.export.dual_encoder import check_fits, write_dual_encoder
from mmft.run.export.encoders import write_encoders
from mmft.run.export.graph_folder import FORMATS, check_has_graph, write_graphs
from mmft.run.export.llava import check_is_llava, write_llava
from mmft.run.export.open_clip import check_has_format, write_open_clip
from mmft.run.export.pair import check_is_pair, write_pair
from mmft.run.export.sentence_transformers import check_has_modules, write_sentence_transformers
from mmft.run.export.whole import check_has_whole, write_whole
from mmft.run.saved_model import SavedModel, load_model
from mmft.run_folder import find_run
from mmft.training.checkpoint import system_errors
from mmft.tuning.quantize import is_quantized

log = logging.getLogger(__name__)
Writer = Callable[[SavedModel, Mapping[str, Any], Path], str]
"""Writes a model, with the run's summary.json, into a folder, and returns what README.md is to say of it."""
_CARD = "README.md"


def export(composed: Composed) -> int:
    """Writes the folder atomically and prints its path.

    Returns:
        The exit code.

    Raises:
        UserError: there is no such run, its tuning method cannot be merged, or the folder is not an export.
    """
    config: ExportConfig = composed.config
    logs.configure(None)
    run = find_run(config.run, located(config.paths.runs))
    out = run.path / "export" if config.out is None else located(config.out)
    if out.exists() and any(out.iterdir()) and not (out / _CARD).is_file():
        raise UserError(f"out: {out} exists and is not an earlier export. Name a new folder")
    saved = load_model(run.model)
    write, summary = _writer(saved, config), run.peek()
    if is_quantized(saved.model) and config.format not in FORMATS:  # which tell by how much
        log.warning(
            "the run computed with weights in 8 or 4 bits; the exported ones are in float32, so that what they compute "
            "differs by a little"
        )
    with system_errors(out):
        replace_folder(out, lambda new: write_text(new / _CARD, write(saved, summary, new)))
    print_path(out)
    return ExitCode.DONE


def _writer(saved: SavedModel, config: ExportConfig) -> Writer:
    """What writes the run's model in the format that is asked for.

    Raises:
        UserError: the format has no place for this model.
    """
    written = config.format
    if written in FORMATS:
        check_has_graph(saved, written)
        return partial(write_graphs, written=written, bits=config.quantize)
    if saved.config.model.whole is not None:
        check_has_whole(written)
        return write_whole
    if written == "hf":
        return write_encoders
    if written == "transformers" and isinstance(saved.model, GenerativeModel):
        check_is_llava(saved)
        return _merged(write_llava)
    if written == "sentence_transformers":
        check_has_modules(saved)
        return _merged(write_sentence_transformers)
    if written == "transformers" and isinstance(saved.model.fusion, DualFusion):
        check_fits(saved)
        return _merged(write_dual_encoder)
    check_is_pair(saved, written)
    if written == "transformers":
        return _merged(write_pair)
    check_has_format(saved)
    return _merged(write_open_clip)


def _merged(write: Writer) -> Writer:
    """`write`, given the model with the weights that were added in training merged."""

    def merge_and_write(saved: SavedModel, summary: Mapping[str, Any], folder: Path) -> str:
        saved.merge()
        return write(saved, summary, folder)

    return merge_and_write
