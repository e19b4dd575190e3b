"""``fashion-tl ensemble RUN RUN ...``: several finished runs, or several views of an image, as one classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fashion_tl.errors import UserError, check_options

if TYPE_CHECKING:
    from fashion_tl.records.record import RunPaths


def ensemble(
    *runs: str,
    name: str = "ensemble",
    method: Literal["mean", "greedy", "stack", "soup"] = "mean",
    calibrated: bool = False,
    tta: list[str] | None = None,
    bn: Literal["reestimate", "average"] = "reestimate",
    bn_images: int = 2048,
    log_dir: Path = Path("lightning_logs"),
    checkpoint_dir: Path = Path("checkpoints"),
    root: str | None = None,
    batch_size: int = 512,
) -> RunPaths:
    """Combine finished runs on the same test images into one result, with a record that `compare` reads.

    The logits of the members are those of their records; whatever is chosen is chosen on the validation images.

    Args:
        runs: Names of runs, folders of versions, or their best.ckpt: two or more, or one with --tta.
        name: Name of the result.
        method: mean of the probabilities; greedy selection of members with replacement (Caruana 2004); stack, a
            logistic regression on their log-probabilities (Wolpert 1992); soup, a mean of the weights of those members
            that do not lower the validation accuracy (Wortsman 2022), one network with a checkpoint of its own.
        calibrated: Calibrate each member first, as `fashion-tl diagnose` has fitted it.
        tta: Test-time augmentation: hflip, shift:N; the views that lower the validation loss of a run are averaged.
        bn: BatchNorm statistics of a soup: reestimate on training images where the members' differ, or average.
        bn_images: Training images that they are estimated from, at least 2.
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.
        root: Folder with the data, where it lies elsewhere than for the runs.
        batch_size: Images in a batch.

    Returns:
        The folders of the result.

    Raises:
        UserError: If the runs do not belong together, or one is not completed; nothing is written then.
    """
    check_options(batch_size=(batch_size, 1), bn_images=(bn_images, 2))
    if method == "soup" and (tta or calibrated):
        raise UserError(
            f"--method soup takes no --{'tta' if tta else 'calibrated'}: it averages weights. Run the ensemble on the "
            "soup afterwards, as in `fashion-tl ensemble soup --tta hflip --name soup_tta`."
        )
    from fashion_tl.combine.averaging import Averager
    from fashion_tl.combine.members import open_members, test_logits
    from fashion_tl.combine.mixing import mix
    from fashion_tl.combine.result import write_combination
    from fashion_tl.combine.soup import greedy_soup

    members = open_members(runs, name, log_dir, checkpoint_dir, root, least=1 if tta else 2)
    test = test_logits(members)
    if method == "soup":
        made = greedy_soup(members, test, bn == "reestimate", Averager(members[0], (), bn_images, batch_size))
    else:
        made = mix(members, test, method, calibrated, tta or [], batch_size)
    command = ["ensemble", *runs, "--method", method, *(["--calibrated"] if calibrated else [])]
    command += ["--tta", *tta] if tta else []
    command += ["--bn", bn, "--bn_images", str(bn_images)] if method == "soup" else []
    return write_combination(made, test[0], command, name, log_dir, checkpoint_dir)
