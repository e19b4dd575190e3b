"""Our side: one or more ``fashion-tl fit`` in this process."""

from __future__ import annotations

from benchmarks.sides import common  # first: it starts the clock of the imports

# ruff: isort: split
import argparse
import importlib
import json
import os
import shlex
import shutil
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from fashion_tl.cli import main as fashion_tl_main

# What a run imports late, so that no import falls into the timed part.
for late in (
    *("fashion_tl.runs.verbs", "fashion_tl.commands", "timm", "torchvision.datasets", "torchvision.utils"),
    *("torch.utils.tensorboard", "matplotlib.figure", "matplotlib.backends.backend_agg"),
):
    importlib.import_module(late)


class TestClock:
    """Adds up the seconds of ``Trainer.test``, which the other sides time apart too."""

    def __init__(self) -> None:
        self.seconds = 0.0
        test = Trainer.test

        def timed(trainer: Trainer, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Lightning's types
            began = time.perf_counter()
            try:
                return test(trainer, *args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began

        Trainer.test = timed  # type: ignore[method-assign, assignment]


def fit(arguments: list[str], work: Path, clock: TestClock) -> dict[str, Any]:
    """Run ``fashion-tl fit`` and return what was measured and what its record says."""
    logs = work / "logs"
    known = {path.parent for path in logs.glob("*/*/run.json")}
    folders = ["--log_dir", str(logs), "--checkpoint_dir", str(work / "checkpoints")]
    tested, began = clock.seconds, time.perf_counter()
    with redirect_stdout(sys.stderr):
        status = fashion_tl_main(["fit", *arguments, *folders, "--trainer.enable_progress_bar", "false"])
    seconds = time.perf_counter() - began
    if status != 0:
        raise SystemExit(status)
    made = {path.parent for path in logs.glob("*/*/run.json")} - known
    # The candidates of a search are runs as well; what counts is the run of the best.
    (chosen,) = (folder for folder in made if not folder.parent.name.endswith(".search"))
    record = json.loads((chosen / "run.json").read_text(encoding="utf-8"))
    test_seconds = (clock.seconds - tested) or record["time"]["test_seconds"]
    return {
        "seconds": seconds - test_seconds,
        "test_seconds": test_seconds,
        "accuracy": record["best"]["value"],
        "test_accuracy": record["test"]["accuracy"],
        "images": record["data"]["sizes"]["train"],
        "epochs": len(record["time"]["epoch_seconds"]),
        "recorded_epoch_seconds": record["time"]["epoch_seconds"],
        "cache_seconds": record["time"]["cache_seconds"],
    }


def marginal(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the seconds of one more epoch, where the last two of three runs differ in nothing but their epochs."""
    if len(runs) != 3 or runs[1]["epochs"] == runs[2]["epochs"]:
        return {}
    more = runs[2]["epochs"] - runs[1]["epochs"]
    return {"epoch_seconds": (runs[2]["seconds"] - runs[1]["seconds"]) / more}


def main() -> None:
    """Run every ``--fit`` in turn and print one line of JSON, with the seconds of all runs together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", action="append", required=True, help="arguments of one `fashion-tl fit`")
    parser.add_argument("--work", type=Path, required=True, help="folder for logs, checkpoints and the cache")
    parser.add_argument("--cold", action="store_true", help="empty the cache first")
    options = parser.parse_args()
    imports = common.imported()
    common.all_threads()
    cache, runs_folder = options.work / "cache", options.work / "runs"
    os.environ["FASHION_TL_CACHE_DIR"] = str(cache.absolute())
    shutil.rmtree(runs_folder, ignore_errors=True)
    if options.cold:
        shutil.rmtree(cache, ignore_errors=True)
    entries = {path.name for path in cache.glob("*.ftl")}
    clock = TestClock()
    runs = [fit(shlex.split(text), runs_folder, clock) for text in options.fit]
    last = runs[-1]
    common.report(
        ("fashion_tl", "lightning", "torchvision", "timm"),
        seconds=sum(run["seconds"] for run in runs),
        test_seconds=sum(run["test_seconds"] for run in runs),
        import_seconds=imports,
        accuracy=last["accuracy"],
        test_accuracy=last["test_accuracy"],
        images=last["images"],
        epochs=last["epochs"],
        runs=len(runs),
        new_entries=len({path.name for path in cache.glob("*.ftl")} - entries),
        cache_seconds=sum(run["cache_seconds"] for run in runs),
        fits=runs,
        **marginal(runs),
    )


if __name__ == "__main__":
    main()
