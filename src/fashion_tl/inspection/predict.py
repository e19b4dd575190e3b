"""``fashion-tl predict``: classes and probabilities of image files."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from fashion_tl.errors import UserError, check_options


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
        output: File to write, new or an earlier one of this command: JSON lines if its name ends in .jsonl, Parquet if
            in .parquet, CSV if in .csv, .txt or nothing. CSV on standard output if not given.
        batch_size: Images in a batch, at least 1.
        invert: Invert first: for dark objects on white, as photographed.
        skip_unreadable: Leave out files that cannot be read.
        calibrated: Apply what `fashion-tl diagnose` fitted.

    Raises:
        UserError: If a file cannot be read or written, a library is missing, the checkpoint has no calibration, or it
            gives logits that are not finite.
    """
    from fashion_tl.data.file_list import PASSED_OVER, counted_endings, image_files
    from fashion_tl.data.files import decoded
    from fashion_tl.inspection.calibration import load_calibration
    from fashion_tl.inspection.inference import classify_many
    from fashion_tl.inspection.prediction_files import check_class_names, check_output, opened_table, text_rows
    from fashion_tl.metrics.metrics import softmax
    from fashion_tl.process import keep_freed_memory, own_device
    from fashion_tl.training.loading import load_classifier

    check_options(batch_size=(batch_size, 1))
    others = Counter[str]()
    files = image_files(images, others)
    if output is not None:
        check_output(output, checkpoint, files)
    probabilities_of = load_calibration(checkpoint) if calibrated else softmax
    module = load_classifier(checkpoint).to(own_device())
    check_class_names(output, module.class_names)
    keep_freed_memory()
    classify = classify_many(module, len(files), batch_size)
    count, printed = 0, list[str]()
    table = (
        opened_table(output, module.class_names)
        if output
        else nullcontext(text_rows(printed.append, module.class_names))
    )
    with table as write:
        for names, batch in decoded(files, module.input_spec, batch_size, skip_unreadable, invert):
            logits = classify(batch).cpu().numpy()
            if not np.isfinite(logits).all():
                first = next(name for name, row in zip(names, logits, strict=True) if not np.isfinite(row).all())
                raise UserError(f"{checkpoint} gives no finite logits for {first}: its training has diverged.")
            write(list(map(str, names)), probabilities_of(logits))
            count += len(names)
    if others:
        print(f"{PASSED_OVER}: {counted_endings(others)}", file=sys.stderr)
    if output is None:
        sys.stdout.write("".join(printed))
    else:
        print(f"{count} images: {output}")
