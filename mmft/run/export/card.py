"""The model card of an exported run: what it is, its test metrics, how to load it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmft.data.images.image import background_colour
from mmft.data.images.squares import Squaring, squaring
from mmft.models.encoder import Encoder
from mmft.models.language.language_model import LanguageModel
from mmft.run.export.writing import unread_settings
from mmft.run.saved_model import SavedModel
from mmft.tasks.base import Task
from mmft.tasks.labels import shown as some

_SQUARES = {
    "squash": ["square = image.resize((side, side), {resample})"],
    "squash and crop": [
        "scaled = image.resize(({scaled}, {scaled}), {resample})",
        "corner = ({scaled} - side) // 2",
        "square = scaled.crop((corner, corner, corner + side, corner + side))",
    ],
    "crop": [
        "wide, high = ({scaled} * length // min(image.size) for length in image.size)",
        "left, top = (wide - side) // 2, (high - side) // 2",
        "scaled = image.resize((wide, high), {resample})",
        "square = scaled.crop((left, top, left + side, top + side))",
    ],
    "pad": ["square = ImageOps.pad(image, (side, side), {resample}, color=background)"],
}
_NO_IMAGE = "Without an image, the run read a learned vector in its place, which this folder does not have."

_LOADING = {
    "timm": """import timm

image_encoder = timm.create_model("local-dir:image_encoder", pretrained=True)
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(image_encoder))""",
    "image": """from transformers import AutoImageProcessor, AutoModel

image_encoder = AutoModel.from_pretrained("image_encoder")
processor = AutoImageProcessor.from_pretrained("image_encoder")""",
    "text": """from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("text_encoder")
text_encoder = AutoModel.from_pretrained("text_encoder")""",
}


def model_card(saved: SavedModel, summary: Mapping[str, Any], adapters: Sequence[str]) -> str:
    """README.md in the Hugging Face hub's format: YAML front matter, then Markdown.

    Args:
        saved: the finished model.
        summary: the run's summary.json.
        adapters: lines about the adapters that are also exported separately.
    """
    model = saved.model
    encoders = {"image_encoder": model.image_encoder, "text_encoder": model.text_encoder}
    names = {part: shown(encoder.source.name) for part, encoder in encoders.items()}
    of_hub = [f"- {name}" for part, name in names.items() if name == encoders[part].source.name]
    front = ["---", "library_name: mmft", "tags: [mmft, image-text]", *(["base_model:", *of_hub] if of_hub else [])]
    lines = [*front, "---", "", "# Encoders fine-tuned by mmft", ""]
    lines += ["| | base | trained as |", "|---|---|---|"]
    lines += [f"| {part} | {names[part]} | {saved.methods[part].name} |" for part in encoders]
    lines += ["", f"Weights added in training are merged into these float32 weights. {_left_out(saved.task)}"]
    for part, method in saved.methods.items():
        if bits := getattr(method, "bits", None):
            lines += [f"The run's own {part} computes with {bits}-bit weights, so its features differ slightly."]
    lines += [
        *adapters,
        "",
        "## Task",
        "",
        *task_lines(saved, summary),
        "",
        "## Use",
        "",
        "```python",
        *_loading(encoders),
        "```",
        "",
    ]
    side, length = model.image_encoder.image_size, model.text_encoder.max_length
    resize = squaring(saved.config.data).resize
    lines += [f"Images were {side} x {side} pixels (resize: {resize}), texts at most {length} tokens."]
    if model.image_encoder.after_blocks is not None:
        lines += ["The run's image tokens are those of the last block, in front of the final norm."]
    if resize == "pad":
        lines += ["The folder's own transform does not pad as the run did."]
    if not saved.config.task.generates:  # by tokens, as they are
        pools = (
            f"{_pool(encoder)} of the {kind} tokens"
            for kind, encoder in zip(("image", "text"), encoders.values(), strict=True)
        )
        lines += [f"Pooling: {', '.join(pools)}."]
    lines += [""]
    return "\n".join(lines)


def _pool(encoder: Encoder) -> str:
    return "the model's own pooling" if encoder.pool == "own" else encoder.pool


def pair_card(saved: SavedModel, summary: Mapping[str, Any], kind: str) -> str:
    """README.md of a pair that is exported as a whole, as transformers' class `kind`."""
    loading = [f"from transformers import AutoProcessor, {kind}", "", f'model = {kind}.from_pretrained(".")']
    return _pair_card(saved, summary, "transformers", [*loading, 'processor = AutoProcessor.from_pretrained(".")'])


def opening_lines(background: Iterable[int]) -> list[str]:
    """Lines of Python that open `image` as a run does: turned as its file says, on the background where transparent."""
    colour = (*background, 255)
    return [
        'layer = ImageOps.exif_transpose(Image.open("image.png"))',
        'if layer.mode.startswith("I;16"):  # 16 bits',
        "    layer = Image.fromarray(np.round(np.asarray(layer) / 257).astype(np.uint8))",
        'layer = layer.convert("RGBA")',
        f'image = Image.alpha_composite(Image.new("RGBA", layer.size, {colour}), layer).convert("RGB")',
    ]


def square_lines(how: Squaring) -> list[str]:
    """Lines of Python that make `square`, of `side` pixels, of a Pillow `image`, with bars of `background`."""
    resample = f"Image.Resampling.{how.resample.upper()}"
    scaled = "side" if how.crop_pct == 1 else f"round(side / {how.crop_pct})"
    lines = _SQUARES["squash and crop" if how.resize == "squash" and how.crop_pct < 1 else how.resize]
    return [line.replace("{resample}", resample).replace("{scaled}", scaled) for line in lines]


def writing_card(
    saved: SavedModel,
    summary: Mapping[str, Any],
    kind: str,
    prompt: list[str],
    settings: str = "",
    adapters: Sequence[str] = (),
) -> str:
    """README.md of a model that writes texts, exported as transformers' class `kind`.

    Args:
        saved: the run's model.
        summary: the run's summary.json.
        kind: the name of the class.
        prompt: lines of Python that make the inputs of a question from `image`.
        settings: further arguments of `generate`.
        adapters: as for `model_card`.
    """
    loading = [
        "import numpy as np",
        "from PIL import Image, ImageOps",
        f"from transformers import AutoProcessor, {kind}",
        "",
    ]
    loading += [f'model = {kind}.from_pretrained(".")', 'processor = AutoProcessor.from_pretrained(".")']
    loading += [*opening_lines(background_colour(saved.config.data)), *prompt]
    loading += [f'written = model.generate(**inputs{settings})[0, inputs["input_ids"].shape[1] :]']
    loading += ["print(processor.decode(written, skip_special_tokens=True))"]
    card = _pair_card(saved, summary, "transformers", loading)
    return "\n".join([card, *adapters, _NO_IMAGE, *unread_settings(saved), ""])


def open_clip_card(saved: SavedModel, summary: Mapping[str, Any]) -> str:
    """README.md of a pair that is exported as a whole, in open_clip's format."""
    loading = ["import open_clip", "", 'model, preprocess = open_clip.create_model_from_pretrained("local-dir:.")']
    return _pair_card(saved, summary, "open_clip", [*loading, 'tokenizer = open_clip.get_tokenizer("local-dir:.")'])


def sentence_transformers_card(saved: SavedModel, summary: Mapping[str, Any]) -> str:
    """README.md of a model of images and texts for sentence-transformers."""
    loading = ["from PIL import Image", "from sentence_transformers import SentenceTransformer", ""]
    loading += ['model = SentenceTransformer(".")', 'images, texts = [Image.open("image.png")], ["a red bird"]']
    loading += ["print(model.similarity(model.encode(images), model.encode(texts)))"]
    return _pair_card(saved, summary, "sentence-transformers", loading)


def _pair_card(saved: SavedModel, summary: Mapping[str, Any], library: str, loading: list[str]) -> str:
    model = saved.model
    sources = dict.fromkeys((model.image_encoder.source.name, model.text_encoder.source.name))
    name = " and ".join(map(shown, sources))
    of_hub = [f"- {source}" for source in sources if source == shown(source)]
    base = ["base_model:", *of_hub] if of_hub else []
    methods = ", ".join(f"{part} {method.name}" for part, method in saved.methods.items())
    lines = ["---", f"library_name: {library}", "tags: [mmft, image-text]", *base, "---", ""]
    lines += [f"# {name}, fine-tuned by mmft", "", f"Trained: {methods}. Added weights are merged.", "", "## Task", ""]
    lines += [*task_lines(saved, summary), "", "## Use", "", "```python", *loading, "```", ""]
    padding = "padded to the longest one" if not model.text_encoder.fixed_length else "always padded to that length"
    side, length = model.image_encoder.image_size, model.text_encoder.max_length
    of_images = f"{side} x {side} pixels (resize: {squaring(saved.config.data).resize})"
    if model.image_encoder.reads_pieces:
        of_images = "cut as this folder's processor does it"
    lines += [f"Images were {of_images}, texts at most {length} tokens,"]
    lines += [f"{padding}."]
    if (
        library != "open_clip"
        and hasattr(model.image_encoder.backbone, "config")
        and squaring(saved.config.data).resize == "pad"
    ):
        lines += ["The folder's own processor does not pad images as the run did."]
    return "\n".join([*lines, ""])


def _left_out(task: Task) -> str:
    """What the folders leave out of the model, and what that means for their user."""
    if task.facts.generates:
        return "The fusion, which turns image tokens into tokens of the language model, is not exported."
    if not task.facts.pairwise:
        return "Head and fusion are not exported."
    return (
        "The projections into the shared space of images and texts, and the temperature, are not exported, so these "
        "folders alone cannot be used for retrieval. `mmft embed run=RUN` writes embeddings that can."
    )


def task_lines(saved: SavedModel, summary: Mapping[str, Any]) -> list[str]:
    """The task, its outputs and the run's test metrics, in Markdown."""
    rows = summary.get("rows", {})
    lines = [f"{saved.config.task.type}, trained on {rows.get('train', 0)} rows.", *_outputs(saved.task)]
    tables = summary.get("tests") or {"test": summary.get("test") or {}}
    found = [name for metrics in tables.values() for name, value in metrics.items() if value is not None]
    if found:
        lines += ["", f"| metric | {' | '.join(tables)} |", f"|{'---|' * (1 + len(tables))}"]
        first = [name for name in saved.task.headlines if name in found]
        for name in dict.fromkeys([*first, *found]):
            values = (metrics.get(name) for metrics in tables.values())
            lines.append(f"| {name} | {' | '.join('' if value is None else f'{value:.4f}' for value in values)} |")
    return lines


def _outputs(task: Task) -> list[str]:
    """The meaning of the task's outputs, one line per task."""
    lines = []
    for part, own in task.parts.items():
        names = [name for name in own.output_names if name]
        of = ["", f"Outputs of {part}"] if part else ["Outputs"]
        what = "texts" if own.facts.generates else some(names, 100) if names else "a number"
        lines += [*of[:-1], f"{of[-1]}: {what}."]
    return lines


def _loading(encoders: Mapping[str, Any]) -> list[str]:
    image = _LOADING["timm" if encoders["image_encoder"].source.library == "timm" else "image"]
    kind = type(encoders["text_encoder"].backbone)
    text = _LOADING["text"]
    if isinstance(encoders["text_encoder"], LanguageModel):
        text = text.replace("AutoModel", "AutoModelForCausalLM")
    elif kind.__name__.endswith(
        ("Encoder", "EncoderModel")
    ):  # of an encoder-decoder, which AutoModel would build whole
        text = text.replace("AutoModel, ", "").replace("AutoModel", kind.__name__)
        text = f"from {kind.__module__} import {kind.__name__}\n{text}"
    return [image, "", text]


def shown(name: str) -> str:
    """A local folder's own name without its path on this machine; a hub name unchanged."""
    return name.rstrip("/").rpartition("/")[2] if name.startswith((".", "/", "~")) or "://" in name else name
