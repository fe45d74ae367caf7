"""What a folder of graphs says of itself: README.md with lines to type, and inference.json with exact numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmft.batch import MULTIPLE, padded_length
from mmft.config.schema.data import names_of
from mmft.data.images.image import background_colour, drafts
from mmft.data.images.squares import Squaring, squaring
from mmft.models.similarity import SimilarityHead
from mmft.run.export.card import opening_lines, shown, square_lines, task_lines
from mmft.run.export.encoders import pixel_statistics
from mmft.run.export.graph import PRESENT, SHORTEST, Graph
from mmft.run.saved_model import SavedModel
from mmft.tasks.graph_outputs import GraphOutput

_HOW = {
    "squash": "the whole image resized to the square, whatever its aspect ratio",
    "crop": "resized so that the shorter side fits (the other rounded down), then the square in the middle (offsets "
    "rounded down)",
    "pad": "resized so that the longer side fits (the other rounded, at least 1), bars of the background around it",
}
_RESAMPLES = {
    "bicubic": "bicubic (a = -0.5) with antialiasing, rounded to uint8, as Pillow's BICUBIC",
    "bilinear": "bilinear with antialiasing, rounded to uint8, as Pillow's BILINEAR",
}
_JPEG = "may be decoded at 1/2, 1/4 or 1/8 where twice the side is left, as Pillow's draft mode does"
_INPUTS: dict[str, tuple[str, list[Any], str]] = {
    "pixel_values": ("uint8", ["batch", 3, "side", "side"], "red, green, blue; normalised inside the graph"),
    "input_ids": ("int64", ["batch", "length"], "token ids, special tokens included"),
    "attention_mask": ("int64", ["batch", "length"], "1 for tokens, 0 for padding"),
    "image_present": ("bool", ["batch"], "false: the row has no image, and its pixels count for nothing"),
    "text_present": ("bool", ["batch"], "false: the row has no text or a blank one, and its tokens count for nothing"),
}


def write_description(
    saved: SavedModel,
    graphs: Sequence[Graph],
    ending: str,
    bits: str | None,
    compared: Mapping[str, Mapping[str, Any]],
    folder: Path,
) -> dict[str, Any]:
    """Writes inference.json, and returns what is in it.

    Args:
        saved: the finished model.
        graphs: that were written.
        ending: of their files.
        bits: the value of `quantize`.
        compared: by graph, how far it is from the run's model.
        folder: exists; has the tokenizer's files.
    """
    description: dict[str, Any] = {
        "format": 1,
        "task": saved.config.task.type,
        "image": _image(saved),
        "text": _text(saved),
        "quantize": bits,
        "graphs": {
            f"{graph.name}{ending}": _graph(graph, saved) | {"compared": compared[graph.name]} for graph in graphs
        },
    }
    if isinstance(saved.model.head, SimilarityHead):
        head = saved.model.head
        bias = None if head.bias is None else float(head.bias.detach())
        description["similarity"] = {"scale": float(head.log_scale.detach().exp()), "bias": bias}
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    (folder / "inference.json").write_text(text, encoding="utf-8")
    return description


def _image(saved: SavedModel) -> dict[str, Any]:
    encoder, data = saved.model.image_encoder, saved.config.data
    mean, std = pixel_statistics(encoder)
    how = squaring(data)
    return {
        "read": data.columns.image is not None,
        "side": encoder.image_size,
        "resize": how.resize,
        "resize_meaning": _HOW[how.resize],
        "scaled_to": how.scaled(encoder.image_size),
        "crop_pct": how.crop_pct,
        "crop_pct_meaning": "the square of `side` is the centre of an image scaled to `scaled_to` instead",
        "resample": how.resample,
        "resample_meaning": _RESAMPLES[how.resample],
        "background": list(background_colour(data)),
        "background_meaning": "behind transparent pixels, and of the bars",
        "exif_orientation": "applied, before resizing",
        "colour": "RGB; the first frame of an animation; 16 bits are scaled by 255 / 65535",
        "jpeg": _JPEG if drafts(data) else "decoded at its own size",
        "mean": mean,
        "std": std,
        "normalised": "inside the graph: (pixel / 255 - mean) / std",
    }


def _text(saved: SavedModel) -> dict[str, Any]:
    encoder = saved.model.text_encoder
    return {
        "read": bool(names_of(saved.config.data.columns.text)) or saved.task.captions_of is not None,
        "tokenizer": "the tokenizer files beside this one, special tokens added",
        "max_length": encoder.max_length,
        "truncation": f"at max_length, {encoder.tokenizer.truncation_side} side",
        "padding_side": "right",
        "padding_id": encoder.tokenizer.pad_token_id or 0,
        "padding_multiple": MULTIPLE,
        "longest": encoder.positions,
        "shortest": SHORTEST,
        "length_meaning": "tokens of a batch's texts with padding, from shortest to longest; any multiple will do",
    }


def _graph(graph: Graph, saved: SavedModel) -> dict[str, Any]:
    side = saved.model.image_encoder.image_size
    inputs = {}
    for name in graph.inputs:
        kind, shape, meaning = _INPUTS[name]
        inputs[name] = {"type": kind, "shape": [side if n == "side" else n for n in shape], "meaning": meaning}
    return {"inputs": inputs, "outputs": {output.name: _output(output) for output in graph.outputs}}


def _output(output: GraphOutput) -> dict[str, Any]:
    columns = [name for name in output.columns if name]
    return {"meaning": output.meaning, **({"columns": columns} if columns else {})}


def graph_card(saved: SavedModel, summary: Mapping[str, Any], description: Mapping[str, Any]) -> str:
    """README.md in the Hugging Face hub's format: YAML front matter, then Markdown with lines that run as they are.

    Args:
        saved: the finished model.
        summary: the run's summary.json.
        description: of `write_description`.
    """
    model, files = saved.model, list(description["graphs"])
    onnx = files[0].endswith(".onnx")
    sources = dict.fromkeys((model.image_encoder.source.name, model.text_encoder.source.name))
    of_hub = [f"- {source}" for source in sources if source == shown(source)]
    kind = "onnx" if onnx else "pytorch"
    lines = ["---", f"library_name: {kind}", "tags: [mmft, image-text]", *(["base_model:", *of_hub] if of_hub else [])]
    lines += ["---", "", f"# {' and '.join(map(shown, sources))}, fine-tuned by mmft", ""]
    what = "ONNX, which onnxruntime runs" if onnx else "torch.export's, which torch runs"
    lines += [f"Graphs ({', '.join(files)}; {what}) from uint8 images and token ids to answers; mmft is not needed."]
    if description["quantize"]:
        lines += ["Weights of linear layers and embeddings are in int8."]
    lines += ["", "## Task", "", *task_lines(saved, summary), "", "## Use", ""]
    lines += ["```python", *_example(description, onnx), "```", "", "## Outputs", ""]
    lines += ["| graph | output | meaning |", "|---|---|---|"]
    for file, graph in description["graphs"].items():
        lines += [f"| {file} | {name} | {output['meaning']} |" for name, output in graph["outputs"].items()]
    outputs = [output for graph in description["graphs"].values() for output in graph["outputs"].values()]
    labels = "the labels in order, and " if any("columns" in output for output in outputs) else ""
    lines += ["", f"`inference.json` has {labels}exactly how images and texts are prepared."]
    reduced = description["image"]["jpeg"] == _JPEG
    more = " (of large JPEGs, which the run decoded at a reduced scale, by more)" if reduced else ""
    lines += ["The lines above prepare them with Pillow and the tokenizer;"]
    lines += [f"a pixel may differ by one from the run's{more}."]
    for kind in ("image", "text"):
        if not description[kind]["read"]:
            lines += ["", f"The run read no {kind}s: its answers are those without, `{kind}_present` being false."]
    for file, graph in description["graphs"].items():
        found = graph["compared"]
        lines += ["", f"{file} was compared with the run's model on {found['rows']} rows: the largest difference was"]
        lines += [f"{found['largest_difference']:.1e}."]
        if "same_predictions" in found:
            lines += [f"{found['same_predictions']:.1%} of the predictions were the same."]
    return "\n".join([*lines, ""])


def _example(description: Mapping[str, Any], onnx: bool) -> list[str]:
    """Lines of Python from a file and a text to an answer."""
    image, text = description["image"], description["text"]
    lines = ["import numpy as np", "import onnxruntime" if onnx else "import torch", "from PIL import Image, ImageOps"]
    lines += ["from transformers import AutoTokenizer", ""]
    lines += [f"side, background = {image['side']}, {tuple(image['background'])}"]
    lines += opening_lines(image["background"])
    squares = square_lines(Squaring(image["resize"], image["resample"], image["crop_pct"]))
    lines += [*squares, "pixels = np.asarray(square).transpose(2, 0, 1)[None]"]
    lines += ['tokenizer = AutoTokenizer.from_pretrained(".")']
    lines += [f'options = {{"truncation": True, "max_length": {text["max_length"]}, "return_attention_mask": True}}']
    fits = padded_length(text["max_length"], None) <= text["longest"]
    padding = f"padding=True, pad_to_multiple_of={MULTIPLE}" if fits else 'padding="max_length"'
    lines += [f'tokens = tokenizer(["a red bird"], {padding}, return_tensors="np", **options)']
    given = {"pixel_values": "pixels", **{name: f'tokens["{name}"]' for name in ("input_ids", "attention_mask")}}
    given |= {name: f"np.array([{description[name.partition('_')[0]]['read']}])" for name in PRESENT}
    results = []
    for file, graph in description["graphs"].items():
        pairs = ", ".join(f'"{name}": {given[name]}' for name in graph["inputs"])
        results.append(name := file.partition(".")[0])
        if onnx:
            lines += [f'{name} = onnxruntime.InferenceSession("{file}").run(None, {{{pairs}}})']
        else:
            tensors = f"{{name: torch.tensor(value) for name, value in {{{pairs}}}.items()}}"
            lines += [f'with torch.no_grad():\n    {name} = torch.export.load("{file}").module()(**{tensors})']
    if len(results) > 1:
        return [*lines, f"print(float(({results[0]}[0] * {results[1]}[0]).sum()))  # the cosine"]
    names = ", ".join(next(iter(description["graphs"].values()))["outputs"])
    return [*lines, f"print({results[0]})  # {names}"]
