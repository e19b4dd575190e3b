"""``fashion-tl export``: a trained network as files that others run, with its model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fashion_tl.errors import UserError

if TYPE_CHECKING:
    from fashion_tl.export.subject import Subject
    from fashion_tl.training.classifier import ImageClassifier

Format = Literal["timm", "safetensors", "torch", "onnx"]


def export(
    run: str,
    folder: Path,
    format: Format | None = None,
    preprocessing: bool = True,
    input_type: Literal["uint8", "float32"] = "uint8",
    int8: bool = False,
    log_dir: Path = Path("lightning_logs"),
    checkpoint_dir: Path = Path("checkpoints"),
    root: str | None = None,
) -> None:
    """Write a trained network into a new folder, with the names of its classes and a model card.

    Args:
        run: Name of a run, folder of a version, or a checkpoint.
        folder: New folder to write into.
        format: timm (the backbone alone, which `--model.backbone local-dir:FOLDER` loads; the default where there is
            one), safetensors (all weights), torch (a program of torch.export), or onnx.
        preprocessing: Whether images go in as stored, to be resized and normalised by the network; else as the network
            sees them (torch, onnx).
        input_type: Values of the images as stored: uint8, 0 to 255, or float32, 0 to 1 (torch, onnx).
        int8: Write a second file with eight-bit weights and activations, calibrated by training images (onnx).
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.
        root: Folder with the data, where it lies elsewhere than for the run.

    Raises:
        UserError: If the run, an option or the folder is not allowed, or the exported network differs from the trained
            one; nothing is written then.
    """
    _check_options(format, preprocessing, input_type, int8)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; name a new one.")
    from fashion_tl.export.formats import Options, export_network
    from fashion_tl.export.subject import find_subject
    from fashion_tl.training.loading import load_classifier

    subject = find_subject(run, log_dir, checkpoint_dir)
    module = load_classifier(subject.checkpoint)
    chosen = _format(format, module, subject)
    options = Options(chosen, preprocessing, input_type, int8)
    print(export_network(subject, module, folder, options, log_dir, checkpoint_dir, root))


def _check_options(format: Format | None, preprocessing: bool, input_type: str, int8: bool) -> None:
    """Refuse options that the format does not have, and libraries that are not there."""
    problems = []
    if format not in ("torch", "onnx"):
        problems += ["--preprocessing false"] if not preprocessing else []
        problems += ["--input_type float32"] if input_type != "uint8" else []
    elif not preprocessing and input_type != "uint8":
        raise UserError("--input_type is of images as stored: it goes with --preprocessing true alone.")
    problems += ["--int8"] if int8 and format != "onnx" else []
    if problems:
        needed = "onnx" if "--int8" in problems else "onnx or torch"
        given = f"--format {format}" if format else "no --format"
        raise UserError(f"{' and '.join(problems)} with {given}: allowed with --format {needed}.")
    if format == "onnx":
        from fashion_tl.export.onnx_file import check_libraries

        check_libraries()


def _format(format: Format | None, module: ImageClassifier, subject: Subject) -> Format:
    """Choose the format: timm if none is given; it is refused where there is no backbone of timm."""
    from fashion_tl.training.transfer import TransferClassifier

    if format in (None, "timm") and not isinstance(module, TransferClassifier):
        raise UserError(
            f"{subject.checkpoint} holds no timm backbone: only a TransferClassifier can be exported with --format "
            "timm. Choose --format onnx, torch or safetensors."
        )
    return format or "timm"
