"""What a graph that leaves mmft returns of a row: the tensors behind each task's answers.

Legend: B batch, C columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch

from torch import Tensor

from mmft.batch import Outputs
from mmft.models.precision import at_least_float32
from mmft.tasks.base import Task
from mmft.tasks.classification import Classification
from mmft.tasks.contrastive import Contrastive
from mmft.tasks.matching import Matching
from mmft.tasks.multi_label import MultiLabel
from mmft.tasks.part_columns import part_column
from mmft.tasks.question_answering import QuestionAnswering
from mmft.tasks.regression import Regression
from mmft.tasks.several import Several


@dataclass(frozen=True)
class GraphOutput:
    """One output of an exported graph.

    Attributes:
        name: of the output.
        meaning: what its values are, in a sentence without a full stop.
        compute: outputs of the model -> the tensor, (B,) or (B, C); of floats if it is compared with the original.
        columns: the names of the C columns, labels or targets; empty if they have none.
        scales: what differences are measured in, one number for each column; 1 for scores.
    """

    name: str
    meaning: str
    compute: Callable[[Outputs], Tensor]
    columns: Sequence[str] = ()
    scales: Sequence[float] = (1.0,)


@singledispatch
def graph_outputs(task: Task) -> list[GraphOutput]:
    """What a graph returns of a fitted task, in what `answers` reports; of a task of one's own the head's outputs.

    Of a pairwise task these are two, of images alone and of texts alone.
    """
    return [GraphOutput("outputs", "outputs of the head", lambda outputs: outputs.logits, task.output_names)]


@graph_outputs.register
def _of_classification(task: Classification) -> list[GraphOutput]:
    def scores(outputs: Outputs) -> Tensor:
        return task.tempered(outputs.logits).softmax(-1)

    def prediction(outputs: Outputs) -> Tensor:
        return task.moved(task.tempered(outputs.logits)).argmax(-1)

    chosen = "the likeliest" if task.threshold == 0.5 else f"the second above a probability of {task.threshold:g}"
    return [
        GraphOutput("scores", "probability of each label", scores, task.labels),
        GraphOutput("prediction", f"number of the predicted label, from 0: {chosen}", prediction),
    ]


@graph_outputs.register
def _of_multi_label(task: MultiLabel) -> list[GraphOutput]:
    def prediction(outputs: Outputs) -> Tensor:
        return _sigmoid(outputs) > outputs.logits.new_tensor(task.thresholds)

    above = ", ".join(f"{threshold:g}" for threshold in task.thresholds)
    meaning = f"whether each label is predicted: its probability is above its threshold ({above})"
    return [
        GraphOutput("scores", "probability of each label", _sigmoid, task.labels),
        GraphOutput("prediction", meaning, prediction, task.labels),
    ]


@graph_outputs.register
def _of_regression(task: Regression) -> list[GraphOutput]:
    def prediction(outputs: Outputs) -> Tensor:
        return task.unscaled(outputs.logits)

    meaning = "the predicted number of each target, in the target's own unit"
    return [GraphOutput("prediction", meaning, prediction, task.names, task.std.tolist())]


@graph_outputs.register
def _of_matching(task: Matching) -> list[GraphOutput]:  # noqa: ARG001 - the same for every one
    def scores(outputs: Outputs) -> Tensor:
        return _sigmoid(outputs)[:, 0]

    def prediction(outputs: Outputs) -> Tensor:
        return scores(outputs) > 0.5

    return [
        GraphOutput("scores", "probability that image and text match", scores),
        GraphOutput("prediction", "whether they match: the probability is above 0.5", prediction),
    ]


@graph_outputs.register
def _of_question_answering(task: QuestionAnswering) -> list[GraphOutput]:
    def scores(outputs: Outputs) -> Tensor:
        return at_least_float32(outputs.logits).softmax(1) if task.softmax else _sigmoid(outputs)

    def prediction(outputs: Outputs) -> Tensor:
        return task.likeliest(outputs.logits)

    together = "they sum to 1" if task.softmax else "they are independent and do not sum to 1"
    return [
        GraphOutput("scores", f"probability of each answer; {together}", scores, task.labels),
        GraphOutput("prediction", "numbers of the likeliest answers, from 0, the likeliest first", prediction),
    ]


@graph_outputs.register
def _of_several(task: Several) -> list[GraphOutput]:
    found = []
    for name, own in task.parts.items():
        for output in graph_outputs(own):

            def compute(outputs: Outputs, part: str = name, of: Callable[[Outputs], Tensor] = output.compute) -> Tensor:
                return of(task.outputs_of(part, outputs))

            found.append(replace(output, name=part_column(output.name, name), compute=compute))
    return found


@graph_outputs.register
def _of_contrastive(task: Contrastive) -> list[GraphOutput]:
    def image(outputs: Outputs) -> Tensor:
        return task.embeddings(outputs)[0]

    def text(outputs: Outputs) -> Tensor:
        return task.embeddings(outputs)[1]

    meaning = "embedding of the {}, of length 1; its inner product with that of the {} is their cosine"
    return [
        GraphOutput("image_embedding", meaning.format("image", "text"), image),
        GraphOutput("text_embedding", meaning.format("text", "image"), text),
    ]


def _sigmoid(outputs: Outputs) -> Tensor:
    """(B, C) independent probabilities."""
    return at_least_float32(outputs.logits).sigmoid()
