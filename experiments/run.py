"""Run the experiments of a folder one after the other: `make studies QUICK=1`, `make study STUDY=...`, `make recipes`.

What is already done is skipped, and a failure does not stop the rest; the last lines say what became of each.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from fashion_tl.errors import UserError, unknown_name
from fashion_tl.records.record import newest_completed

FOLDERS = ("studies", "best", "best/gpu")
PROBES = ("lite0_probe",)  # solved, not trained
STOPPED = 130  # status of what Ctrl-C has stopped


def main(args: list[str] | None = None) -> int:
    """Run them; returns 0 when all are done, 1 when some failed, 2 for a wrong argument, 130 when stopped by Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", choices=FOLDERS, help="a folder beside this file")
    parser.add_argument("--only", dest="names", action="append", default=[], help="an experiment in the folder")
    parser.add_argument("--backbone", help="weights for everything that is pretrained, instead of its own")
    parser.add_argument("--weights", type=Path, help="a folder with the weights, in folders of the backbones' names")
    parser.add_argument("--root", help="folder with the data")
    parser.add_argument("--seeds", type=int, help="runs of each that is trained, from its own seed on")
    parser.add_argument("--processes", type=int, help="processes that share them")
    parser.add_argument("--quick", action="store_true", help="a few images and epochs, into lightning_logs/quick")
    options, flags = parser.parse_known_args(args)
    known = {path.stem: path for path in sorted((Path(__file__).parent / options.folder).glob("*.yaml"))}
    for name in options.names:
        if name not in known:
            print(f"error: {unknown_name('experiment', name, known)}", file=sys.stderr)
            return 2
    outcomes = dict.fromkeys(options.names or known, "not begun")
    stopped = False
    for name in outcomes:
        try:
            outcomes[name] = _run(known[name], options, flags)
        except KeyboardInterrupt:
            outcomes[name], stopped = "stopped", True
            break
    print("\n" + "\n".join(f"{name:28} {outcome}" for name, outcome in outcomes.items()))
    return STOPPED if stopped else int(any(outcome.startswith("failed") for outcome in outcomes.values()))


def _run(path: Path, options: argparse.Namespace, flags: list[str]) -> str:
    below = "quick" if options.quick else ""
    folders = Path("lightning_logs", below), Path("checkpoints", below)
    experiment = settings(path)
    name, verb = experiment["name"], "probe" if path.stem in PROBES else "fit"
    backbone = _backbone(experiment, options)
    if options.backbone and backbone:  # the experiment is named after its own
        name = f"{name}.{Path(backbone.removeprefix('local-dir:')).name.partition('.')[0]}"
    several = [f"--{flag}={value}" for flag in ("seeds", "processes") if (value := getattr(options, flag)) is not None]
    if verb == "fit" and several:
        several.append("--resume=true")  # which of them are done only the run itself knows
    elif not options.names:
        try:
            done = newest_completed(*folders, name)
        except UserError:
            pass
        else:
            return f"already done: {done.logs}"
    print(f"\n== {path.stem}", flush=True)
    command = [sys.executable, "-m", "fashion_tl", verb, "-c", os.path.relpath(path), "--name", name]
    command += ["--log_dir", str(folders[0]), "--checkpoint_dir", str(folders[1])]
    command += ["--data.source.root", options.root] if options.root else []
    command += ["--model.backbone", backbone] if backbone else []
    command += _precision(experiment, flags)
    command += _quick(experiment, backbone) if options.quick else []
    command += (several if verb == "fit" else []) + flags
    with _ctrl_c_left_to_it():
        status = subprocess.run(command, check=False).returncode  # noqa: S603 - our own command line
    if status in (STOPPED, -signal.SIGINT):
        raise KeyboardInterrupt
    return "done" if status == 0 else f"failed with status {status}"


@contextmanager
def _ctrl_c_left_to_it() -> Iterator[None]:
    """Leave Ctrl-C to the run, which ends in order; whoever waits for it would kill it a quarter of a second later."""
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def settings(path: Path) -> dict[str, Any]:
    """Read an experiment with all that it extends."""
    own: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    base = own.pop("extends", None)
    return _merged(settings(path.parent / base), own) if base else own


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        # A schedule of phases is one value.
        both = key != "train" and isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _backbone(experiment: dict[str, Any], options: argparse.Namespace) -> str | None:
    """Return the backbone that is asked for instead of the experiment's own; None if there is none to ask for."""
    if experiment["model"]["class_path"] != "TransferClassifier":
        return None
    if options.backbone:
        return str(options.backbone)
    own = experiment["model"]["init_args"]["backbone"]
    return f"local-dir:{options.weights / own}" if options.weights else None


def _precision(experiment: dict[str, Any], flags: list[str]) -> list[str]:
    """Return the flags that give up half precision where the processor is slower by it than in 32 bits."""
    own = experiment.get("trainer", {}).get("precision")
    if own is None or any(flag.partition("=")[0] == "--trainer.precision" for flag in flags):
        return []
    from fashion_tl.process import on_cpu, slow_precision  # torch, which takes seconds

    slow = slow_precision(str(own)) if on_cpu() else None
    if slow is None:
        return []
    print(f"{slow}: 32-true in its place", flush=True)
    return ["--trainer.precision", "32-true"]


def _quick(experiment: dict[str, Any], backbone: str | None) -> list[str]:
    """Return the flags of a quick run."""
    untrained = experiment["model"]["class_path"] == "TransferClassifier" and not backbone
    train = experiment["model"]["init_args"].get("train")
    last = max(train) if isinstance(train, dict) else 0
    return [
        *(("--model.pretrained", "false") if untrained else ()),
        *("--data.per_class", "16", "--trainer.max_epochs", str(max(2, last + 1))),
    ]


if __name__ == "__main__":
    sys.exit(main())
