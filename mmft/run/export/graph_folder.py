"""Writes a finished model as graphs that leave mmft: onnxruntime or torch alone run them.

README.md            the model card, with lines to type
inference.json       exact numbers: preprocessing, inputs, outputs, labels
model.onnx           or image.onnx and text.onnx of a retrieval model; .pt2 with format=torch_export
tokenizer files      for transformers' AutoTokenizer, or the package tokenizers
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmft.errors import UserError
from mmft.models.pairs.open_clip_tokenizer import with_cleaning
from mmft.run.export.compared import (
    Compute,
    Expected,
    check_close,
    compared_rows,
    expected_of,
    largest_difference,
    same_predictions,
)
from mmft.run.export.graph import Graph, graphs_of, trace
from mmft.run.export.graph_card import graph_card, write_description
from mmft.run.export.graph_files import (
    check_packages,
    quantize,
    with_onnxruntime,
    with_torch,
    write_onnx,
    write_program,
)
from mmft.run.saved_model import SavedModel
from mmft.tasks.graph_outputs import graph_outputs
from mmft.tuning.methods.inserted import Inserted

log = logging.getLogger(__name__)
FORMATS = {"onnx": ".onnx", "torch_export": ".pt2"}
"""The values of `format` that are graphs, and how their files end."""


def check_has_graph(saved: SavedModel, written: str) -> None:
    """Checks that a run's model can be a graph, and that the packages are there.

    Raises:
        UserError: it writes texts, or they are not.
    """
    if saved.config.model.whole is not None or any(part.facts.generates for part in saved.task.parts.values()):
        instead = "format=transformers" if saved.config.model.whole is not None else "format=hf"
        raise UserError(
            f"format={written} writes models that answer in one pass, but task={saved.config.task.type} writes its "
            f"answers token by token. Type {instead}"
        )
    if written == "onnx":
        check_packages()


def write_graphs(saved: SavedModel, summary: Mapping[str, Any], folder: Path, written: str, bits: str | None) -> str:
    """Writes the graphs, once they are found to compute what the run's model does; returns their model card.

    Args:
        saved: with `check_has_graph`, not merged.
        summary: the run's summary.json, for the model card.
        folder: exists.
        written: the value of `format`.
        bits: the value of `quantize`.

    Raises:
        UserError: the model cannot be traced or written, or a graph computes something else.
    """
    expected = _merged_and_expected(saved)
    model, ending = saved.model, FORMATS[written]
    named = " and ".join(dict.fromkeys((model.image_encoder.source.name, model.text_encoder.source.name)))
    graphs = graphs_of(model, saved.task)
    compared: dict[str, dict[str, Any]] = {}
    for graph in graphs:
        file = folder / f"{graph.name}{ending}"
        program = trace(graph, _several_rows(expected), model.text_encoder.positions, named)
        if written == "onnx":
            write_onnx(graph, program, file)
        else:
            write_program(program, file)
        run = with_onnxruntime if written == "onnx" else with_torch
        difference = check_close(graph, run(graph, file), expected, written)
        rows = sum(len(one.batch) for one in expected)
        log.info("%s: as the run's model on %d rows, largest difference %.1e", file.name, rows, difference)
        compared[graph.name] = {"rows": rows, "largest_difference": difference}
        if bits is not None:
            compared[graph.name] = _in_int8(graph, file, expected)
    _write_tokenizer(saved, folder)
    description = write_description(saved, graphs, ending, bits, compared, folder)
    return graph_card(saved, summary, description)


def _merged_and_expected(saved: SavedModel) -> list[Expected]:
    """What the graphs must compute; afterwards the model is in float32, with added weights merged where they can be.

    A run over weights in 4 or 8 bits is compared as it is with its weights in float32, which the graphs have.
    """
    rows = compared_rows(saved)
    bits = {part: of for part, method in saved.methods.items() if (of := getattr(method, "bits", None))}
    own = expected_of(saved, rows)
    for part, method in saved.methods.items():
        if not isinstance(method, Inserted):  # which stays in the graph as it is
            method.merge(getattr(saved.model, part))
    saved.model.float().cpu().eval()
    if not bits:
        return own
    merged = expected_of(saved, rows)
    for part, of in bits.items():
        log.warning("the run's %s computes with %d-bit weights; the graph has them in float32", part, of)
    pairs = [(one.outputs, other.outputs) for one, other in zip(own, merged, strict=True)]
    names = [output.name for output in graph_outputs(saved.task)]
    apart = max(float((a[n].double() - b[n].double()).abs().max()) for a, b in pairs for n in names)
    log.warning("so its outputs differ by up to %.1e from the run's own predictions", apart)
    return merged


def _several_rows(expected: Sequence[Expected]) -> Any:
    """A batch of more than one row: torch.export takes a single row for a fixed size."""
    return next(one.batch for one in expected if len(one.batch) > 1)


def _in_int8(graph: Graph, file: Path, expected: Sequence[Expected]) -> dict[str, Any]:
    """Replaces the file by one in int8, and tells how far it is from the run's model."""
    quantized = file.with_name(f"quantized{file.suffix}")
    quantize(file, quantized)
    for old in file.parent.glob(f"{file.name}*"):
        old.unlink()
    quantized.rename(file)
    compute: Compute = with_onnxruntime(graph, file)
    rows = sum(len(one.batch) for one in expected)
    told: dict[str, Any] = {"rows": rows, "largest_difference": largest_difference(graph, compute, expected)}
    share = same_predictions(graph, compute, expected)
    log.info("%s in int8: largest difference %.1e", file.name, told["largest_difference"])
    if share is not None:
        log.info("%s in int8: %.1f %% of the predictions are the same", file.name, 100 * share)
        told["same_predictions"] = share
    return told


def _write_tokenizer(saved: SavedModel, folder: Path) -> None:
    """Writes the tokenizer so that it alone makes texts as in the run: truncated, and padded on the right."""
    encoder = saved.model.text_encoder
    tokenizer = encoder.tokenizer
    if encoder.source.library == "open_clip":
        tokenizer = with_cleaning(tokenizer)
    tokenizer.model_max_length, tokenizer.padding_side = encoder.max_length, "right"
    if tokenizer.pad_token_id is None:  # any will do, since padding is masked
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.save_pretrained(folder)
