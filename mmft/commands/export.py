"""`mmft export run=RUN`: a run's encoders as folders that plain timm and transformers load.

README.md            the model card
image_encoder/       config and float32 weights, with weights added in training merged
text_encoder/        the same, and the tokenizer
adapters/ENCODER/      the adapter that peft added, if any, in its own format

With another `format`, a fine-tuned pair or a LLaVA as one folder instead, and of `model.whole` always, or the whole
model as graphs (`onnx`, `torch_export`); see the modules of `mmft.run.export`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmft import logs
from mmft.commands.output import print_path
from mmft.config.compose import Composed
from mmft.config.schema.model import ENCODERS
from mmft.config.schema.root import ExportConfig
from mmft.data.images.squares import squaring
from mmft.errors import ExitCode, UserError
from mmft.files import located, replace_folder
from mmft.models.fusion.dual import DualFusion
from mmft.models.language.generative_model import GenerativeModel
from mmft.run.export.card import model_card
from mmft.run.export.dual_encoder import check_fits, write_dual_encoder
from mmft.run.export.encoders import write_adapter, write_encoder
from mmft.run.export.graph_folder import FORMATS, check_has_graph, write_graphs
from mmft.run.export.llava import check_is_llava, write_llava
from mmft.run.export.open_clip import check_has_format, write_open_clip
from mmft.run.export.pair import check_is_pair, write_pair
from mmft.run.export.sentence_transformers import check_has_modules, write_sentence_transformers
from mmft.run.export.whole import check_has_whole, write_whole
from mmft.run.saved_model import SavedModel, load_model
from mmft.run_folder import find_run
from mmft.training.checkpoint import system_errors

Writer = Callable[[SavedModel, Mapping[str, Any], Path], None]


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
    if out.exists() and any(out.iterdir()) and not (out / "README.md").is_file():
        raise UserError(f"out: {out} exists and is not an earlier export. Name a new folder")
    saved = load_model(run.model)
    is_graph = config.format in FORMATS
    if is_graph:
        check_has_graph(saved, config.format)
    is_encoders = is_graph or (config.format == "hf" and saved.config.model.whole is None)
    write = None if is_encoders else _writer(saved, config.format)
    summary = run.peek()

    def fill_graphs(new: Path) -> None:
        write_graphs(saved, summary, new, config.format, config.quantize)

    def fill_whole(new: Path) -> None:
        assert write is not None
        saved.merge()
        write(saved, summary, new)

    def fill(new: Path) -> None:
        adapters = [
            encoder for encoder in ENCODERS if write_adapter(getattr(saved.model, encoder), new / "adapters" / encoder)
        ]
        saved.merge()
        for encoder in ENCODERS:
            write_encoder(getattr(saved.model, encoder), new / encoder, squaring(saved.config.data))
        (new / "README.md").write_text(model_card(saved, summary, adapters), encoding="utf-8")

    with system_errors(out):
        replace_folder(out, fill_graphs if is_graph else fill if write is None else fill_whole)
    print_path(out)
    return ExitCode.DONE


def _writer(saved: SavedModel, written: str) -> Writer:
    """What writes a model as a whole in the format `written`.

    Raises:
        UserError: the format has no place for this model.
    """
    if saved.config.model.whole is not None:
        check_has_whole(written)
        return write_whole
    if written == "transformers" and isinstance(saved.model, GenerativeModel):
        check_is_llava(saved)
        return write_llava
    if written == "sentence_transformers":
        check_has_modules(saved)
        return write_sentence_transformers
    if written == "transformers" and isinstance(saved.model.fusion, DualFusion):
        check_fits(saved)
        return write_dual_encoder
    check_is_pair(saved, written)
    if written == "transformers":
        return write_pair
    check_has_format(saved)
    return write_open_clip
