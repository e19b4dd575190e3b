"""A network as an ONNX file: made, compared with the original by onnxruntime, quantised to eight bits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fashion_tl.errors import UserError, one_line
from fashion_tl.export.weights import FAILURES, quiet
from fashion_tl.files import write_bytes
from fashion_tl.imports import is_installed

LIBRARIES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4  # largest difference of a logit, as a share of the largest logit where that is above 1
_BATCH = "batch"
_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX model.

    Attributes:
        content: The file.
        kept_float: Names of the nodes that quantising leaves alone: those of the preprocessing.
    """

    content: bytes
    kept_float: tuple[str, ...]


def check_libraries() -> None:
    """Raise a UserError if a library that ONNX files need is not installed."""
    missing = [name for name in LIBRARIES if not is_installed(name)]
    if missing:
        raise UserError(f"--format onnx needs {', '.join(missing)}: pip install 'fashion-tl[onnx]'.")


def onnx_model(network: nn.Module, example: Tensor, metadata: Mapping[str, str]) -> OnnxModel:
    """Convert a network; the first axis of its input and output, "images" and "logits", is of any length.

    Args:
        network: A network in eval mode; what lies below its attribute ``preprocess`` stays float.
        example: An input (2, ...).
        metadata: Text by name, kept in the file.

    Raises:
        UserError: If a layer cannot be converted.
    """
    with quiet():
        try:
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim(_BATCH)},),
                input_names=["images"],
                output_names=["logits"],
                verbose=False,
            )
        except FAILURES as error:
            cause = error.__cause__ or error
            raise UserError(
                f"the network cannot be converted to ONNX: {one_line(cause)} Try --format torch or safetensors."
            ) from error
    model: Any = program.model_proto  # type: ignore[union-attr]
    kept = []
    for node in model.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "")
        if "preprocess'" in scopes:  # the end of a qualified name
            kept.append(node.name)
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]  # lines of source code and names of this machine's folders
    del model.metadata_props[:]
    for name, text in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, text
    try:
        return OnnxModel(model.SerializeToString(), tuple(kept))
    except ValueError as error:
        raise UserError(f"the network does not fit in one ONNX file of 2 GiB: {one_line(error)}") from error


class OnnxSession:
    """Runs an ONNX model on the CPU, with as many threads as torch has.

    Args:
        content: The file.

    Raises:
        UserError: If onnxruntime cannot run it.
    """

    def __init__(self, content: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.log_severity_level = 4
        with _refusing():
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def __call__(self, inputs: Tensor) -> np.ndarray:
        """Compute logits (B, K), float32."""
        with _refusing():
            logits: np.ndarray = self._session.run(["logits"], {"images": inputs.numpy()})[0]
        return logits


def largest_difference(session: OnnxSession, pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, int]:
    """Compare logits with those of the original.

    Args:
        session: The ONNX model.
        pairs: Inputs (B, ...) and the logits (B, K) that the original gives for them.

    Returns:
        The largest absolute difference, and the number of images.

    Raises:
        UserError: If a difference is above 1e-4 of the largest logit of a batch, or of 1 where that is more, or a logit
            is not finite.
    """
    largest, count = 0.0, 0
    for inputs, expected in pairs:
        difference = float(np.abs(session(inputs) - expected.numpy()).max())
        allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
        count += len(inputs)
        if not difference <= allowed:  # NaN included
            raise UserError(
                f"logits of the ONNX file differ from the network's by {difference:.2g} within {count} images, allowed "
                f"is {allowed:.2g}: nothing was written. Export it with --format torch."
            )
        largest = max(largest, difference)
    return largest, count


def quantised(model: OnnxModel, batches: Iterable[Tensor]) -> bytes:
    """Quantise weights and activations to eight bits (static quantisation); the preprocessing stays float.

    The range of every activation is that on the images given, the range of weights that of each channel of a
    convolution: those of depthwise convolutions differ by orders of magnitude, and one range for all of them, as
    dynamic quantisation has it, ruins MobileNets. Both are unsigned: processors without VNNI add products of unsigned
    by signed bytes in 16 bits, which overflow.

    Args:
        model: The model.
        batches: Inputs to calibrate by, such as training images.

    Raises:
        UserError: If onnxruntime cannot quantise it.
    """
    with quiet(), _refusing(), tempfile.TemporaryDirectory() as folder:
        from onnxruntime.quantization import QuantType, quantize_static

        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        write_bytes(source, model.content)
        quantize_static(
            source,
            target,
            _reader(batches),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QUInt8,
            nodes_to_exclude=list(model.kept_float),
        )
        return target.read_bytes()


def _reader(batches: Iterable[Tensor]) -> Any:  # noqa: ANN401 - onnxruntime's, imported where it is needed
    """Hand batches to onnxruntime's calibration."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.left, None)
            return None if batch is None else {"images": batch.numpy()}

    return Reader()


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what onnxruntime raises into one message."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [one for one in vars(state).values() if isinstance(one, type) and issubclass(one, Exception)]
    raised: tuple[type[Exception], ...] = (*FAILURES, *own)
    try:
        yield
    except raised as error:
        raise UserError(f"onnxruntime cannot run the exported network: {one_line(error)}") from error
