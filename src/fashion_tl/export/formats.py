"""One folder for each format: its files, the names of the classes, the model card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from torch import Tensor

from fashion_tl import __version__
from fashion_tl.data.transforms import describe_preprocessing, to_float
from fashion_tl.errors import UserError
from fashion_tl.export.card import Exported, model_card
from fashion_tl.export.names import CARD, CONFIG, INT8, LABELS, ONNX, PROGRAM, WEIGHTS
from fashion_tl.export.network import input_shape, plain_network
from fashion_tl.export.subject import (
    CHECKED_IMAGES,
    Subject,
    calibration_images,
    checked_images,
    open_subject,
    run_images,
)
from fashion_tl.export.weights import backbone_files, torch_program, weights_file
from fashion_tl.files import replacing_folder, write_bytes, write_text
from fashion_tl.inspection.inference import classify, tracked
from fashion_tl.inspection.run import OpenedRun
from fashion_tl.models.staged import count_parameters
from fashion_tl.plain_text import clean
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.transfer import TransferClassifier

if TYPE_CHECKING:
    from fashion_tl.export.onnx_file import OnnxSession
    from fashion_tl.export.verb import Format

_USAGE = {
    "timm": 'import timm\n\nbackbone = timm.create_model("local-dir:FOLDER", pretrained=True)',
    "safetensors": "from safetensors.torch import load_file\n\n"
    'weights = load_file("model.safetensors")  # backbone.*, head.*',
    "torch": 'import torch\n\nnetwork = torch.export.load("model.pt2").module()\nlogits = network(images)',
    "onnx": "import onnxruntime\n\n"
    'session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])\n'
    'logits = session.run(["logits"], {"images": images})[0]',
}


@dataclass(frozen=True)
class Options:
    """How a network is exported.

    Attributes:
        format: timm, safetensors, torch or onnx.
        preprocessing: Whether the network takes images as stored.
        input_type: uint8 or float32, of images as stored.
        int8: Whether a quantised model is written, too.
    """

    format: Format
    preprocessing: bool = True
    input_type: Literal["uint8", "float32"] = "uint8"
    int8: bool = False


def export_network(
    subject: Subject,
    module: ImageClassifier,
    folder: Path,
    options: Options,
    log_dir: Path,
    checkpoint_dir: Path,
    root: str | None,
) -> str:
    """Write the folder, whole or not at all.

    Args:
        subject: What is exported.
        module: Its classifier, which is used up.
        folder: A new or empty folder.
        options: How it is exported.
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.
        root: Folder with the data, where it lies elsewhere than for the run.

    Returns:
        What to tell the user.

    Raises:
        UserError: If the network cannot be exported, or computes something else afterwards.
    """
    about = _about(module, options)
    if options.format == "timm":
        files = backbone_files(cast(TransferClassifier, module))
        facts = ["It holds the backbone, with its adapters merged, and not the head that names the classes."]
        told = f"local-dir:{folder}"
    elif options.format == "safetensors":
        files, facts, told = {WEIGHTS: weights_file(plain_network(module, False).network, _metadata(about))}, [], ""
    elif options.format == "torch":
        network, example = plain_network(module, options.preprocessing), _example(module, options)
        files, facts, told = {PROGRAM: torch_program(network, example, _metadata(about))}, [], ""
    else:
        opened = open_subject(subject, log_dir, checkpoint_dir, root)
        files, facts = _onnx(module, options, about, opened)
        told = "\n".join(facts)
    described = {name: _CONTENTS[name] for name in files} | {LABELS: "names of the classes, in the order of the logits"}
    card = model_card(subject, replace(about, files=described, facts=facts))
    with replacing_folder(folder) as draft:
        for name, content in files.items():
            write_bytes(draft / name, content)
        write_text(draft / LABELS, "".join(f"{clean(name)}\n" for name in about.class_names))
        write_text(draft / CARD, card)
    return told if options.format == "timm" else f"{told}\n{folder}".lstrip("\n")


_CONTENTS = {
    ONNX: "the network, for onnxruntime and others",
    INT8: "the same with eight-bit weights and activations (static quantisation)",
    PROGRAM: "the network, for `torch.export.load`",
    WEIGHTS: "the weights",
    CONFIG: "what timm builds the backbone from",
}


def _about(module: ImageClassifier, options: Options) -> Exported:
    """Describe the network and what it takes."""
    shape = input_shape(module, options.preprocessing and options.format in ("torch", "onnx"))
    size = ", ".join(map(str, ("N", *shape)))
    if options.format not in ("torch", "onnx") or not options.preprocessing:
        taken = f"float32 ({size}), preprocessed as below"
    else:
        values = "uint8, 0 to 255," if options.input_type == "uint8" else "float32, 0 to 1,"
        taken = f"images {values} ({size}), as stored: resizing and normalising are part of the network"
    spec = module.input_spec
    return Exported(
        task="image-feature-extraction" if options.format == "timm" else "image-classification",
        class_names=module.class_names,
        architecture=module.architecture,
        parameters=count_parameters(module.network),
        files={},
        usage=_USAGE[options.format],
        input=taken,
        output=_output(module, options),
        facts=(),
        preprocessing={
            "stored size": f"{spec.stored} x {spec.stored}, {spec.channels} channels",
            "files of other proportions": f"{spec.resize}, share of the shorter side {spec.crop}",
            "values": "0 to 1 (bytes divided by 255)",
            **{name.replace("_", " "): value for name, value in describe_preprocessing(module.preprocess).items()},
        },
    )


def _output(module: ImageClassifier, options: Options) -> str:
    if options.format == "timm":
        return f"features (N, {cast(TransferClassifier, module).backbone_info.features}), without the head"
    classes = len(module.class_names)
    return f"logits (N, {classes}); the class of the largest is the prediction, in the order of `{LABELS}`"


def _metadata(about: Exported) -> dict[str, str]:
    return {
        "class_names": json.dumps(list(about.class_names)),
        "architecture": about.architecture,
        "input": about.input,
        "preprocessing": json.dumps(dict(about.preprocessing)),
        "fashion_tl": __version__,
    }


def _example(module: ImageClassifier, options: Options) -> Tensor:
    shape = (2, *input_shape(module, options.preprocessing))
    if options.preprocessing and options.input_type == "uint8":
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _onnx(
    module: ImageClassifier, options: Options, about: Exported, opened: OpenedRun | str
) -> tuple[dict[str, bytes], list[str]]:
    """Convert, compare, quantise; returns the files and what was measured."""
    from fashion_tl.export.onnx_file import OnnxSession, largest_difference, onnx_model, quantised

    run = None if isinstance(opened, str) else opened
    if options.int8 and run is None:
        raise UserError(f"--int8 needs training images of the run to be calibrated by: {opened}.")
    # The original first: what it computes is what the file is held to.
    expected = [classify(module, images) for images, _ in _inputs(module, options, run)]
    model = onnx_model(plain_network(module, options.preprocessing), _example(module, options), _metadata(about))
    session = OnnxSession(model.content)
    inputs = (taken for _, taken in _inputs(module, options, run))
    largest, count = largest_difference(session, zip(inputs, expected, strict=True))
    of = "test images" if run else f"generated images ({opened})"
    facts = [f"Largest difference of a logit to the trained network: {largest:.2g} on {count:,} {of}."]
    files = {ONNX: model.content}
    if options.int8 and run is not None:
        files[INT8] = quantised(model, (_taken(module, options, images) for images in calibration_images(run)))
        facts.append(_accuracy(session, OnnxSession(files[INT8]), module, options, run))
        sizes = [len(content) / 2**20 for content in files.values()]
        facts.append(f"Size: {sizes[0]:.2f} MiB, of the int8 model {sizes[1]:.2f} MiB.")
    return files, facts


def _accuracy(
    session: OnnxSession, small: OnnxSession, module: ImageClassifier, options: Options, run: OpenedRun
) -> str:
    """Say how accurate a model and its quantised one are."""
    inputs = (_taken(module, options, images) for images in tracked(run_images(run), "images", len(run.labels)))
    both = [(session(taken).argmax(1), small(taken).argmax(1)) for taken in inputs]
    whole, after = (np.concatenate(classes) for classes in zip(*both, strict=True))
    accuracies = [float(np.mean(classes == run.labels)) for classes in (whole, after)]
    return (
        f"Accuracy on {len(run.labels):,} test images: {accuracies[0]:.4f}, of the int8 model {accuracies[1]:.4f} "
        f"(the same class for {np.mean(whole == after):.1%})."
    )


def _inputs(module: ImageClassifier, options: Options, run: OpenedRun | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images as stored, and what the exported network takes of them."""
    for images in tracked(checked_images(run, module.input_spec), "images", CHECKED_IMAGES):
        yield images, _taken(module, options, images)


def _taken(module: ImageClassifier, options: Options, images: Tensor) -> Tensor:
    """Turn images as stored into what the exported network takes."""
    if not options.preprocessing:
        prepared: Tensor = module.preprocess(images)
        return prepared.contiguous()
    return images if options.input_type == "uint8" else to_float(images)
