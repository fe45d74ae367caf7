"""The page: inputs by the run's columns, its answer, and marks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from mmft.reports.review.marks import MARKS
from mmft.run.demo.examples import Example
from mmft.run.demo.marks import Marked, MarksFile
from mmft.run.serve.rows import Answer, Served, UnreadableRow

Inputs = tuple[str | None, ...]
"""The file of the image, if the run has images, and the texts."""


class Shown(NamedTuple):
    """An answer on the page, and the inputs that it is for."""

    answer: Marked
    inputs: str


class Page:
    """The page of one run.

    Args:
        name: of the run.
        served: its predictions.
        examples: rows to choose from.
        marks: where marks go.
        by: who marks, unless another name is typed on the page.
    """

    def __init__(self, name: str, served: Served, examples: Sequence[Example], marks: MarksFile, by: str) -> None:
        self._name, self._served, self._examples, self._marks, self._by = name, served, tuple(examples), marks, by
        self._known = {self._digest(self._inputs(one)): one for one in examples}

    @property
    def _texts(self) -> list[str]:
        return text_columns(self._served)

    def _inputs(self, example: Example) -> Inputs:
        image = () if self._served.reader.image is None else (None if example.image is None else str(example.image),)
        return *image, *example.texts

    def blocks(self) -> gr.Blocks:
        """The page for Gradio."""
        page: gr.Blocks
        with gr.Blocks(title=f"mmft: {self._name}", analytics_enabled=False) as page:
            gr.Markdown(f"# {self._name}")
            shown = gr.State(None)
            with gr.Row():
                with gr.Column():
                    inputs = self._input_fields()
                    predict = gr.Button("Predict", variant="primary")
                with gr.Column():
                    prediction = gr.Textbox(label="Prediction", interactive=False, lines=2)
                    scores = gr.Label(label="Scores", num_top_classes=10, show_heading=False, visible=False)
                    with gr.Accordion("All columns of the answer", open=False):
                        columns = gr.JSON(show_label=False)
                    self._mark_fields(shown, inputs)
            outputs = [prediction, scores, columns, shown]
            gr.on(
                [predict.click, *(one.submit for one in inputs if isinstance(one, gr.Textbox))],
                self.answer,
                inputs,
                outputs,
                api_visibility="private",
            )
            if self._examples:
                gr.Examples(
                    [list(self._inputs(one)) for one in self._examples],
                    inputs,
                    outputs,
                    self.answer,
                    run_on_click=True,
                    cache_examples=False,
                    api_visibility="private",
                    label="Rows of the run",
                )
        return page

    def _input_fields(self) -> list[Any]:
        image = self._served.reader.image
        fields = (
            []
            if image is None
            else [gr.Image(label=image, type="filepath", image_mode=None, sources=["upload", "clipboard"])]
        )
        return [*fields, *(gr.Textbox(label=name, lines=2, max_lines=8, submit_btn=False) for name in self._texts)]

    def _mark_fields(self, shown: Any, inputs: list[Any]) -> None:
        gr.Markdown("### Is the answer right?")
        with gr.Row():
            buttons = [(mark, gr.Button(mark.capitalize())) for mark in MARKS]
        with gr.Row():
            note = gr.Textbox(label="Note", scale=2)
            by = gr.Textbox(label="Marked by", value=self._by)
        said = gr.Markdown()
        for mark, button in buttons:
            button.click(self._marker(mark), [shown, note, by, *inputs], [said, note], api_visibility="private")

    def answer(self, *inputs: str | None) -> tuple[str, Any, Answer, Shown | None]:
        """What is shown for inputs: the prediction, its scores, all columns, and what is marked."""
        answer = self._computed(inputs)
        if answer["error"] is not None:
            return f"No answer: {answer['error']}", gr.update(visible=False), answer, None
        example = self._known.get(self._digest(inputs))
        row, own = (None, None) if example is None else (example.row, example.id)
        answer |= {"row": row, "id": own}
        predictions = {name: value for name, value in answer.items() if name.startswith("prediction")}
        shown = Shown(Marked(self._name, row, own, _only(predictions)), self._digest(inputs))
        scores = _scores(answer)
        return _said(predictions), gr.update(value=scores or None, visible=bool(scores)), answer, shown

    def _computed(self, inputs: Sequence[str | None]) -> Answer:
        names = [*([] if self._served.reader.image is None else [self._served.reader.image]), *self._texts]
        given: dict[str, Any] = {name: value or None for name, value in zip(names, inputs, strict=True)}
        if given.get(self._served.reader.image or "") is not None:
            given[str(self._served.reader.image)] = Path(str(inputs[0])).read_bytes()
        try:
            answers = self._served.answers([self._served.reader.row(given)])
        except UnreadableRow as error:
            answers = [self._served.unreadable(str(error))]
        return self._served.numbered(answers, [given])[0]

    def _digest(self, inputs: Sequence[str | None]) -> str:
        """Equal for equal inputs: texts, and the bytes of the image."""
        parts = [(one or "").encode("utf-8", "surrogatepass") for one in inputs]
        if self._served.reader.image is not None and inputs[0]:
            parts[0] = Path(inputs[0]).read_bytes()
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    def _marker(self, mark: str) -> Any:
        def marked(shown: Shown | None, note: str, by: str, *inputs: str | None) -> tuple[str, Any]:
            return self.mark(mark, shown, note, by, *inputs)

        return marked

    def mark(self, mark: str, shown: Shown | None, note: str, by: str, *inputs: str | None) -> tuple[str, Any]:
        """Appends a mark of the answer on the page; gives what is said of it, and the note, empty once it is kept."""
        if shown is None:
            return "There is no answer to mark. Predict first.", note
        if shown.inputs != self._digest(inputs):
            return "The inputs have changed since this answer. Predict again, then mark.", note
        if not by.strip():
            return "Type who marks: the field *Marked by* is empty.", note
        try:
            self._marks.append(shown.answer, mark, note, by.strip())
        except OSError as error:
            return f"The mark is not kept: {self._marks.path} cannot be written ({error.strerror}).", note
        return f"Marked as {mark} in `{self._marks.path.name}`.", ""


def text_columns(served: Served) -> list[str]:
    """The columns that are typed: all but the image's and the id's."""
    return [name for name in served.reader.names if name not in (served.reader.image, served.data.columns.id)]


def _only(predictions: Mapping[str, Any]) -> Any:
    return next(iter(predictions.values())) if len(predictions) == 1 else dict(predictions)


def _said(predictions: Mapping[str, Any]) -> str:
    only = _only(predictions)
    if not isinstance(only, dict):
        return str(only)
    return "\n".join(f"{name.removeprefix('prediction_')}: {value}" for name, value in only.items())


def _scores(answer: Mapping[str, Any]) -> dict[str, float]:
    """Probabilities by label, if the answer has some."""
    found = {name.removeprefix("score_"): value for name, value in answer.items() if name.startswith("score_")}
    return found if all(isinstance(value, float) and 0 <= value <= 1 for value in found.values()) else {}
