"""`mmft export run=RUN`: a run's encoders as folders that plain timm and transformers load.

README.md            the model card
image_encoder/       config and float32 weights, with weights added in training merged
text_encoder/        the same, and the tokenizer
adapters/ENCODER/      the adapter that peft added, if any, in its own format

With format=transformers or format=open_clip, a fine-tuned pair as one folder instead; see `mmft.runs.export.pair` and
`mmft.runs.export.open_clip`.
"""

from __future__ import annotations

from pathlib import Path

from mmft import logs
from mmft.commands.output import print_path
from mmft.config.compose import Composed
from mmft.config.schema.model import ENCODERS
from mmft.config.schema.root import ExportConfig
from mmft.data.image import squaring
from mmft.errors import ExitCode, UserError
from mmft.files import replace_folder
from mmft.run_folder import find_run
from mmft.runs.export.card import model_card
from mmft.runs.export.encoders import write_adapter, write_encoder
from mmft.runs.export.open_clip import check_has_format, write_open_clip
from mmft.runs.export.pair import check_is_pair, write_pair
from mmft.runs.saved_model import load_model
from mmft.shipped import located
from mmft.training.checkpoint import system_errors


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
    if config.format != "hf":
        check_is_pair(saved, config.format)
    if config.format == "open_clip":
        check_has_format(saved)
    summary = run.peek()

    def fill_pair(new: Path) -> None:
        saved.merge()
        write = write_open_clip if config.format == "open_clip" else write_pair
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
        replace_folder(out, fill if config.format == "hf" else fill_pair)
    print_path(out)
    return ExitCode.DONE
