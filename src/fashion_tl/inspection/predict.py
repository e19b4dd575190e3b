"""``fashion-tl predict``: classes and probabilities of image files."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fashion_tl.errors import UserError, check_options

JSON_LINES = ".jsonl"
OTHERS = (".parquet", ".json", ".xlsx", ".xls", ".tsv")  # whose names would promise what is not in them
_BEGINNINGS = (b"path,class,", b'{"path": "')

WriteRow = Callable[[str, str, list[float]], None]


def predict(
    checkpoint: Path,
    images: list[Path],
    output: Path | None = None,
    batch_size: int = 64,
    invert: bool = False,
    skip_unreadable: bool = False,
    calibrated: bool = False,
) -> None:
    """Classify image files with a checkpoint: path, class, and the probability of every class, a row each.

    Args:
        checkpoint: The best.ckpt of a run.
        images: Image files, or folders that are searched for images.
        output: File to write, new or an earlier one of this command: JSON lines if its name ends in .jsonl, else CSV.
            CSV on standard output if not given.
        batch_size: Images in a batch, at least 1.
        invert: Invert first: for dark objects on white, as photographed.
        skip_unreadable: Leave out files that cannot be read.
        calibrated: Apply what `fashion-tl diagnose` fitted.

    Raises:
        UserError: If a file cannot be read or written, or the checkpoint has no calibration.
    """
    from fashion_tl.data.file_list import image_files
    from fashion_tl.data.files import decoded
    from fashion_tl.data.transforms import to_float
    from fashion_tl.files import write_bytes
    from fashion_tl.inspection.calibration import load_calibration
    from fashion_tl.inspection.inference import classify
    from fashion_tl.metrics.metrics import softmax
    from fashion_tl.training.loading import load_classifier

    check_options(batch_size=(batch_size, 1))
    files = image_files(images)
    if output is not None:
        _check_output(output, [checkpoint, *files])
    probabilities_of = load_calibration(checkpoint) if calibrated else softmax
    module = load_classifier(checkpoint)
    text = io.StringIO()
    write = (_json_rows if output is not None and output.suffix == JSON_LINES else _csv_rows)(text, module.class_names)
    count = 0
    for names, batch in decoded(files, module.input_spec, batch_size, skip_unreadable):
        probabilities = probabilities_of(classify(module, 1 - to_float(batch) if invert else batch).cpu().numpy())
        for name, best, row in zip(names, probabilities.argmax(1).tolist(), probabilities.tolist(), strict=True):
            write(str(name), module.class_names[best], row)
            count += 1
    if output is None:
        sys.stdout.write(text.getvalue())
        return
    try:
        write_bytes(output, text.getvalue().encode("utf-8", "surrogateescape"))  # names of files are bytes
    except (IsADirectoryError, NotADirectoryError, FileExistsError, PermissionError) as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror}.") from error
    print(f"{count} images: {output}")


def _csv_rows(text: io.StringIO, class_names: Sequence[str]) -> WriteRow:
    """Write the heading of a CSV table; what is returned writes its rows."""
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["path", "class", *class_names])

    def write(path: str, best: str, probabilities: list[float]) -> None:
        table.writerow([path, best, *(f"{p:.6f}" for p in probabilities)])

    return write


def _json_rows(text: io.StringIO, class_names: Sequence[str]) -> WriteRow:
    """Return what writes rows of JSON lines."""

    def write(path: str, best: str, probabilities: list[float]) -> None:
        named = {name: round(p, 6) for name, p in zip(class_names, probabilities, strict=True)}
        text.write(json.dumps({"path": path, "class": best, "probabilities": named}) + "\n")

    return write


def _check_output(output: Path, inputs: list[Path]) -> None:
    """Refuse a form that is not written, and to replace a file that this command did not write."""
    if output.suffix.lower() in OTHERS:
        raise UserError(f"--output {output}: predictions are written as .csv, or as JSON lines (.jsonl).")
    if output.is_dir() or not output.exists():
        return
    if any(path.exists() and output.samefile(path) for path in inputs):
        raise UserError(f"--output {output} is also given to be read. Name another file.")
    with output.open("rb") if output.is_file() else io.BytesIO() as file:
        former = file.read(20).startswith(_BEGINNINGS)
    if not former:
        raise UserError(f"--output {output} exists and is no table of predictions. Remove it, or name another file.")
