"""A network as a program of ``torch.export``, and its weights alone as safetensors."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fashion_tl.errors import UserError, one_line
from fashion_tl.export.converters import FAILURES, quiet

METADATA = "metadata.json"  # within the program


def torch_program(network: nn.Module, example: Tensor, metadata: Mapping[str, str]) -> bytes:
    """Trace a network into a program that runs with torch alone; the first axis of its input is of any length.

    Args:
        network: A network in eval mode.
        example: An input (2, ...).
        metadata: Text by name, kept in the file as ``metadata.json``.

    Raises:
        UserError: If it cannot be traced.
    """
    try:
        with quiet():
            program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except FAILURES as error:
        raise UserError(
            f"the network cannot be exported by torch.export: {one_line(error)} Try --format safetensors."
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names of this machine's folders
    content = io.BytesIO()
    with quiet():
        torch.export.save(program, content, extra_files={METADATA: json.dumps(dict(metadata))})
    return content.getvalue()


def weights_file(network: nn.Module, metadata: Mapping[str, str]) -> bytes:
    """Pack the weights and buffers of a network, by their names in it, as safetensors with metadata."""
    from safetensors.torch import save

    # A copy each: the format holds no tensor twice.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
    return save(tensors, metadata=dict(metadata))
