"""The whole story offline: pretrain on synthetic objects, transfer to synthetic garments, compare with scratch.

Run it as `make demo`. It takes the same command line as everybody, one verb after the other, in one process.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from fashion_tl.cli import main

FOLDER = Path(__file__).parent
LOGS, CHECKPOINTS = Path("lightning_logs"), Path("checkpoints")
TARGETS = ("demo_phase1", "demo_phase2", "demo_scratch")


def run(*args: str) -> None:
    """Run one command, or end with its status."""
    print(f"\n$ fashion-tl {' '.join(args)}", flush=True)
    status = main(args)
    if status:
        sys.exit(status)


def fit(name: str, *args: str) -> None:
    """Run one of the demo's experiments."""
    run("fit", "-c", str(FOLDER / f"{name}.yaml"), *args)


def demo() -> None:
    """Run the four experiments and compare them."""
    from fashion_tl.records.record import newest_completed, read_record

    fit("source")
    source = newest_completed(LOGS, CHECKPOINTS, "demo_source")
    backbone = source.checkpoints / "backbone"
    if backbone.exists():
        shutil.rmtree(backbone)
    run("export", str(source.best), str(backbone))
    for name in ("phase1", "phase2"):
        fit(name, "--model.backbone", f"local-dir:{backbone}")
    fit("scratch")
    run("runs", *TARGETS, "--newest")

    records = {name: read_record(newest_completed(LOGS, CHECKPOINTS, name).logs) for name in TARGETS}
    tuned, scratch = (records[name]["test"]["accuracy"] for name in TARGETS[1:])
    images = records["demo_scratch"]["data"]["sizes"]["train"]
    print(
        f"With the same {images} labelled images, fine-tuning scored {tuned:.3f} and training from scratch "
        f"{scratch:.3f} on 2,000 test images: {100 * (tuned - scratch):+.1f} points for transfer.\n"
        "Next: `make tensorboard` shows the curves, `make phase1 phase2` does the same on Fashion-MNIST."
    )


if __name__ == "__main__":
    demo()
