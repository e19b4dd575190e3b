"""``fashion-tl predict``: classes and probabilities of image files."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

from fashion_tl.errors import UserError, check_options

_BEGINNING = b"path,class,"


def predict(
    checkpoint: Path,
    images: list[Path],
    output: Path | None = None,
    batch_size: int = 64,
    invert: bool = False,
    skip_unreadable: bool = False,
    calibrated: bool = False,
) -> None:
    """Classify image files with a checkpoint: a row of CSV each, path, class, and the probability of every class.

    Args:
        checkpoint: The best.ckpt of a run.
        images: Image files, or folders that are searched for images.
        output: CSV file to write, new or an earlier one of this command; standard output if not given.
        batch_size: Images in a batch, at least 1.
        invert: Invert first: for dark objects on white, as photographed.
        skip_unreadable: Leave out files that cannot be read.
        calibrated: Apply what `fashion-tl diagnose` fitted.

    Raises:
        UserError: If a file cannot be read or written, or the checkpoint has no calibration.
    """
    from fashion_tl.data.files import decoded, image_files
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
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["path", "class", *module.class_names])
    count = 0
    for names, batch in decoded(files, module.input_spec, batch_size, skip_unreadable):
        probabilities = probabilities_of(classify(module, 1 - to_float(batch) if invert else batch).cpu().numpy())
        for name, best, row in zip(names, probabilities.argmax(1).tolist(), probabilities.tolist(), strict=True):
            table.writerow([str(name), module.class_names[best], *(f"{p:.6f}" for p in row)])
            count += 1
    if output is None:
        sys.stdout.write(text.getvalue())
        return
    try:
        write_bytes(output, text.getvalue().encode("utf-8", "surrogateescape"))  # names of files are bytes
    except (IsADirectoryError, NotADirectoryError, FileExistsError, PermissionError) as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror}.") from error
    print(f"{count} images: {output}")


def _check_output(output: Path, inputs: list[Path]) -> None:
    """Refuse to replace a file that this command did not write."""
    if output.is_dir() or not output.exists():
        return
    if any(path.exists() and output.samefile(path) for path in inputs):
        raise UserError(f"--output {output} is also given to be read. Name another file.")
    with output.open("rb") if output.is_file() else io.BytesIO() as file:
        former = file.read(len(_BEGINNING)) == _BEGINNING
    if not former:
        raise UserError(f"--output {output} exists and is no table of predictions. Remove it, or name another file.")
