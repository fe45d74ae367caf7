"""Files of graphs: ONNX for onnxruntime, and programs of torch.export; how each is written and run."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from mmft.errors import UserError, first_line
from mmft.run.export.compared import Compute
from mmft.run.export.graph import Graph

_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_QUANTIZED = ("MatMul", "Gemm", "Gather")  # a convolution in 8 bits is slower than in 32 on most processors


def check_packages() -> None:
    """Raises UserError if a package that format=onnx needs is not installed."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(f"format=onnx needs {' and '.join(missing)}. Type pip install 'mmft[onnx]'")


def write_onnx(graph: Graph, program: ExportedProgram, file: Path) -> None:
    """Writes a traced graph as ONNX in float32; beyond 2 GB its weights are in a file of their own beside it.

    Args:
        graph: of which `program` is the trace.
        program: as of `trace`.
        file: to write.

    Raises:
        UserError: ONNX has no place for one of its operations.
    """
    names = [output.name for output in graph.outputs]
    with _quiet():
        try:
            written = torch.onnx.export(program, output_names=names, dynamic_shapes=graph.axes, verbose=False)
        except Exception as error:  # each operation that has no place fails in its own way
            raise UserError(
                f"format=onnx has no place for an operation of this run's model: {first_line(error).rstrip('.')}. Type "
                "format=torch_export, or format=hf for the encoders alone"
            ) from error
        assert written is not None
        written.save(file)


def quantize(file: Path, quantized: Path) -> None:
    """Writes an ONNX graph with the weights of its linear layers and embeddings in int8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped]

    with _quiet():
        quantize_dynamic(
            file,
            quantized,
            op_types_to_quantize=list(_QUANTIZED),
            per_channel=True,
            weight_type=QuantType.QUInt8,  # signed ones saturate on processors without VNNI
            use_external_data_format=any(file.parent.glob(f"{file.name}.*")),
        )


def with_onnxruntime(graph: Graph, file: Path) -> Compute:
    """What onnxruntime computes on the CPU."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in graph.outputs]

    def compute(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        found: list[Any] = session.run(names, {name: value.numpy() for name, value in inputs.items()})
        return dict(zip(names, map(torch.from_numpy, found), strict=True))

    return compute


def write_program(program: ExportedProgram, file: Path) -> None:
    """Writes a traced graph in the format of torch.export (.pt2)."""
    with _quiet():
        torch.export.save(program, file)


def with_torch(graph: Graph, file: Path) -> Compute:
    """What the program in a file computes."""
    with _quiet():
        module = torch.export.load(file).module()

    def compute(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        with torch.no_grad():
            return {one.name: value for one, value in zip(graph.outputs, module(**inputs), strict=True)}

    return compute


@contextmanager
def _quiet() -> Iterator[None]:
    """Context without what the exporters say to their own developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
