"""The verbs over records, checkpoints and backbones; each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fashion_tl.errors import UserError, unknown_name
from fashion_tl.inspection import diagnose as diagnose_verb
from fashion_tl.inspection import explain as explain_verb
from fashion_tl.inspection import robustness as robustness_verb

if TYPE_CHECKING:
    from torch import Tensor

    from fashion_tl.training.classifier import ImageClassifier


def run(args: list[str]) -> None:
    """Run one of the verbs that do not train, with command-line arguments."""
    parser = argparse.ArgumentParser(prog="fashion-tl")
    verbs = parser.add_subparsers(dest="verb", required=True)

    verb = verbs.add_parser("predict", help="classify image files with a checkpoint")
    verb.add_argument("checkpoint", type=Path, help="best.ckpt of a run")
    verb.add_argument("images", type=Path, nargs="+", help="image files, or folders that are searched for images")
    verb.add_argument("--output", type=Path, help="CSV file to write; standard output if not given")
    verb.add_argument("--batch_size", type=int, default=64, help="images in a batch")
    verb.add_argument("--invert", action="store_true", help="invert first: for dark objects on white, as photographed")
    verb.add_argument("--skip_unreadable", action="store_true", help="leave out files that cannot be read")
    verb.add_argument("--calibrated", action="store_true", help="apply what `fashion-tl diagnose` fitted")
    verb.set_defaults(do=predict)

    verb = verbs.add_parser("export", help="write a trained backbone as a local-dir: backbone of timm")
    verb.add_argument("checkpoint", type=Path, help="best.ckpt of a run")
    verb.add_argument("folder", type=Path, help="new folder to write config.json and model.safetensors into")
    verb.set_defaults(do=export)

    verb = verbs.add_parser("stages", help="list the stages of a backbone, which are the boundaries it can train from")
    verb.add_argument("backbone", help="any name that timm knows")
    verb.add_argument("--image_size", type=int, default=224, help="height and width of the images in pixels")
    verb.set_defaults(do=stages)

    verb = verbs.add_parser("runs", help="list the recorded runs")
    verb.add_argument("names", nargs="*", help="names of runs; all if none is given")
    verb.add_argument("--log_dir", type=Path, default=Path("lightning_logs"), help="folder of all records")
    verb.add_argument("--newest", action="store_true", help="only the newest completed version of each name")
    verb.set_defaults(do=runs)

    verb = verbs.add_parser("compare", help="write one report over recorded runs")
    verb.add_argument("runs", nargs="*", metavar="RUN", help="name, glob over names, or version folder; all if none")
    verb.add_argument("--log_dir", type=Path, default=Path("lightning_logs"), help="folder of all records")
    verb.add_argument("--output", type=Path, default=Path("reports"), help="folder of the report")
    verb.set_defaults(do=compare)

    for module in (diagnose_verb, explain_verb, robustness_verb):
        verb = verbs.add_parser(module.NAME, help=module.HELP)
        module.add_arguments(verb)
        verb.set_defaults(do=module.run)

    verb = verbs.add_parser("cache", help="list or clear the cached activations of frozen stages")
    verb.add_argument("action", choices=("list", "clear"))
    verb.set_defaults(do=cache)

    options = vars(parser.parse_args(args))
    options.pop("verb")
    do: Callable[..., None] = options.pop("do")
    do(**options)


def predict(
    checkpoint: Path,
    images: list[Path],
    output: Path | None,
    batch_size: int,
    invert: bool,
    skip_unreadable: bool,
    calibrated: bool = False,
) -> None:
    """Write one row an image: path, predicted class, and the probability of every class."""
    from fashion_tl.data.files import decoded, image_files
    from fashion_tl.data.transforms import to_float
    from fashion_tl.inspection.scaling import load_calibration
    from fashion_tl.metrics.metrics import softmax
    from fashion_tl.records.record import write_text
    from fashion_tl.training.loading import load_classifier

    if batch_size < 1:
        raise UserError(f"--batch_size is {batch_size}, it must be at least 1.")
    files = image_files(images)
    probabilities_of = load_calibration(checkpoint) if calibrated else softmax
    module = load_classifier(checkpoint)
    rows = [["path", "class", *module.class_names]]
    for names, batch in decoded(files, module.input_spec, batch_size, skip_unreadable):
        probabilities = probabilities_of(logits_of(module, 1 - to_float(batch) if invert else batch).numpy())
        for name, row in zip(names, probabilities.tolist(), strict=True):
            best = max(range(len(row)), key=row.__getitem__)
            rows.append([str(name), module.class_names[best], *(f"{p:.6f}" for p in row)])
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    if output is None:
        sys.stdout.write(text.getvalue())
    else:
        try:
            write_text(output, text.getvalue())
        except (IsADirectoryError, NotADirectoryError, FileExistsError, PermissionError) as error:
            raise UserError(f"--output {output} cannot be written: {error.strerror}.") from error
        print(f"{len(rows) - 1} images: {output}")


def logits_of(module: ImageClassifier, images: Tensor) -> Tensor:
    """Classify images as a run holds them.

    Args:
        module: A classifier; it is used in eval mode.
        images: Images (B, 1 or 3, H, W), uint8 or float in 0 to 1.

    Returns:
        Logits (B, K), on the CPU.
    """
    import torch

    module.eval()
    with torch.inference_mode():
        prepared = module.preprocess(images.to(module.device))
        return cast("Tensor", module(prepared).cpu())


def export(checkpoint: Path, folder: Path) -> None:
    """Write the backbone of a TransferClassifier so that ``--model.backbone local-dir:FOLDER`` loads it."""
    from safetensors.torch import save_file

    from fashion_tl.training.loading import load_classifier
    from fashion_tl.training.transfer import TransferClassifier

    module = load_classifier(checkpoint)
    if not isinstance(module, TransferClassifier):
        raise UserError(f"{checkpoint} holds no timm backbone: only a TransferClassifier can be exported.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; name a new one.")
    made, size = module.backbone_info, module.input_spec.image_size
    config: dict[str, Any] = {
        "architecture": made.architecture,
        "num_classes": 0,
        "num_features": made.features,
        "model_args": {k: v for k, v in made.arguments.items() if k != "img_size"},
        "pretrained_cfg": {
            **{k: made.module.pretrained_cfg[k] for k in ("first_conv", "classifier", "pool_size")},  # type: ignore[index]
            "num_classes": 0,
            "input_size": [made.channels, size, size],
            "fixed_input_size": "img_size" in made.arguments,
            "interpolation": module.input_spec.interpolation,
            "mean": module.preprocess.mean.flatten().tolist(),
            "std": module.preprocess.std.flatten().tolist(),
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in made.module.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    print(f"local-dir:{folder}")


def stages(backbone: str, image_size: int) -> None:
    """Print the stages of a backbone with their parameters."""
    from torch import nn

    from fashion_tl.models.backbones import create_backbone
    from fashion_tl.models.staged import StagedNetwork, divide_timm

    made = create_backbone(backbone, pretrained=False, image_size=image_size)
    network = StagedNetwork(made.module, nn.Identity(), divide_timm(made.module))
    counts = [0] * len(network.stage_names)
    for _, stage, parameter in network.staged_parameters():
        counts[stage] += parameter.numel()
    width = max(len(name) for name in network.stage_names)
    for name, count in zip(network.stage_names, counts, strict=True):
        print(f"{name:{width}} {count:>12,} parameters")
    print(f"{made.features} features, images of {made.channels} channels, mean {made.mean}, std {made.std}")


def compare(runs: list[str], log_dir: Path, output: Path) -> None:
    """Write one report over recorded runs."""
    from fashion_tl.report.compare import compare

    compare(runs, log_dir, output)


def cache(action: str) -> None:
    """List the files of cached activations with their sizes, or remove them all."""
    from fashion_tl.features.store import cache_dir, clear, entries

    folder = cache_dir()
    if action == "clear":
        count, size = clear(folder)
        print(f"removed {count} files, {size / 2**20:,.1f} MiB, from {folder}")
        return
    found = entries(folder)
    for entry in found:
        about = entry.description
        what = (
            f"{about.get('architecture')} at {about.get('boundary')}, {about.get('part')}, {about.get('image_size')} px"
        )
        print(f"{entry.key[:12]}  {entry.bytes / 2**20:10,.1f} MiB  {'damaged' if entry.damaged else what}")
    print(f"{len(found)} files, {sum(entry.bytes for entry in found) / 2**20:,.1f} MiB in {folder}")


def runs(names: list[str], log_dir: Path, newest: bool) -> None:
    """Print a table of the recorded runs."""
    from rich.console import Console
    from rich.table import Table

    from fashion_tl.records.record import COMPLETED, all_records

    table = Table(
        "run", "version", "status", "test accuracy", "macro F1", "trained / all parameters", "epochs", "seconds"
    )
    rows: dict[str, list[list[str]]] = {}
    known: dict[str, None] = {}
    for folder, record in all_records(log_dir):
        name, number = folder.parent.name, folder.name.removeprefix("version_")
        known[name] = None
        if names and name not in names:
            continue
        if isinstance(record, UserError):
            print(record, file=sys.stderr)
            continue
        if newest and record["status"] != COMPLETED:
            continue
        row = [name, number, *_columns(record)]
        rows[name] = [row] if newest else [*rows.get(name, []), row]
    missing = [name for name in names if name not in rows]
    for name in missing:
        if known and name not in known:
            raise unknown_name("run", name, known, f"These are in {log_dir}.")
    if missing or not rows:
        kind = "completed" if newest else "recorded"
        raise UserError(f"no {kind} run {'of the name ' + ', '.join(missing) if missing else 'at all'} in {log_dir}.")
    for name in names or rows:
        for row in rows[name]:
            table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _columns(record: dict[str, Any]) -> list[str]:
    test, model, time = record.get("test") or {}, record.get("model") or {}, record.get("time") or {}
    trained = [phase["trained_parameters"] for phase in model.get("phases", [])]
    return [
        str(record["status"]),
        f"{test['accuracy']:.4f}" if "accuracy" in test else "not recorded",
        f"{test['macro_f1']:.4f}" if "macro_f1" in test else "not recorded",
        f"{max(trained):,} / {model['parameters']:,}" if trained and "parameters" in model else "not recorded",
        str(len(time["epoch_seconds"])) if "epoch_seconds" in time else "not recorded",
        f"{time['fit_seconds']:.0f}" if "fit_seconds" in time else "not recorded",
    ]
