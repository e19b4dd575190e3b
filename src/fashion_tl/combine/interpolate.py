"""``fashion-tl interpolate START END``: a network between two runs, in their weights (WiSE-FT)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fashion_tl.errors import check_options

if TYPE_CHECKING:
    from fashion_tl.records.record import RunPaths


def interpolate(
    start: str,
    end: str,
    name: str = "wise",
    steps: int = 11,
    bn: Literal["reestimate", "interpolate"] = "reestimate",
    bn_images: int = 2048,
    log_dir: Path = Path("lightning_logs"),
    checkpoint_dir: Path = Path("checkpoints"),
    root: str | None = None,
    batch_size: int = 512,
) -> RunPaths:
    """Interpolate between the weights of two runs, and keep what is best on the validation images.

    WiSE-FT (Wortsman et al. 2022): weights (1 - a) START + a END for a from 0 to 1, such as between a linear probe and
    what was fine-tuned from it. The result is a checkpoint and a record; the accuracy over a is its analysis.

    Args:
        start: The run at a = 0: a name, folder of a version, or best.ckpt.
        end: The run at a = 1, of the same architecture.
        name: Name of the result.
        steps: Values of a, both ends included, at least 3.
        bn: BatchNorm statistics between the ends: reestimate on training images where those of the runs differ, or
            interpolate them too.
        bn_images: Training images that they are estimated from, at least 2.
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.
        root: Folder with the data, where it lies elsewhere than for the runs.
        batch_size: Images in a batch.

    Returns:
        The folders of the result.

    Raises:
        UserError: If the runs are not networks of the same layers on the same data; nothing is written then.
    """
    check_options(steps=(steps, 3), batch_size=(batch_size, 1), bn_images=(bn_images, 2))
    from fashion_tl.combine.averaging import Averager
    from fashion_tl.combine.members import open_members, test_logits
    from fashion_tl.combine.path import best_between
    from fashion_tl.combine.result import write_combination

    members = open_members((start, end), name, log_dir, checkpoint_dir, root)
    test = test_logits(members)
    averager = Averager(members[0], (), bn_images, batch_size)
    made = best_between(members, test, steps, bn == "reestimate", averager)
    command = ["interpolate", start, end, "--steps", str(steps), "--bn", bn, "--bn_images", str(bn_images)]
    return write_combination(made, test[0], command, name, log_dir, checkpoint_dir)
