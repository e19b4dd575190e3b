"""A network as a program of ``torch.export``, its weights as safetensors, a backbone as the files that timm loads."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from fashion_tl.errors import UserError, one_line
from fashion_tl.models.lora import merge_adapters
from fashion_tl.training.transfer import TransferClassifier

METADATA = "metadata.json"  # within the program
FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError)  # of a converter


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what a converter logs and prints from the user, who can do nothing about them."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        # torch prints the graph that it cannot trace.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


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
    # A copy each: the format holds no tensor twice.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
    return save(tensors, metadata=dict(metadata))


def backbone_files(module: TransferClassifier) -> dict[str, bytes]:
    """Return the files of a backbone by name; its adapters are merged.

    Args:
        module: The classifier, whose head is left out.
    """
    info, size = module.backbone_info, module.input_spec.image_size
    merge_adapters(info.module)
    config: dict[str, Any] = {
        "architecture": info.architecture,
        "num_classes": 0,
        "num_features": info.features,
        "model_args": {k: v for k, v in info.arguments.items() if k != "img_size"},
        "pretrained_cfg": {
            **{k: info.module.pretrained_cfg[k] for k in ("first_conv", "classifier", "pool_size")},  # type: ignore[index]
            "num_classes": 0,
            "input_size": [info.channels, size, size],
            "fixed_input_size": "img_size" in info.arguments,
            "interpolation": module.input_spec.interpolation,
            "mean": module.preprocess.mean.flatten().tolist(),
            "std": module.preprocess.std.flatten().tolist(),
        },
    }
    weights = save({k: v.contiguous() for k, v in info.module.state_dict().items()})
    return {"model.safetensors": weights, "config.json": (json.dumps(config, indent=2) + "\n").encode()}
