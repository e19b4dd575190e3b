"""Measuring several runs in the same way, relative to a baseline."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fashion_tl import __version__
from fashion_tl.data.batches import Split
from fashion_tl.data.sources import data_root
from fashion_tl.data.splits import stratified_split
from fashion_tl.errors import UserError
from fashion_tl.inspection.ood import Fitting, detect
from fashion_tl.inspection.ood_images import outside_sets
from fashion_tl.inspection.opened import OpenedRun, open_run
from fashion_tl.inspection.predictions import digest, to_best_device
from fashion_tl.inspection.robustness_findings import robustness_findings
from fashion_tl.inspection.scaling import read_calibration
from fashion_tl.inspection.sweep import Subset, mean_corruption_error, sweep
from fashion_tl.records.findings import FOLDER, Findings

TRAIN_IMAGES, VAL_IMAGES = 10_000, 2000


@dataclass(frozen=True)
class Options:
    """How to measure; the fields are arguments of ``verb.run``."""

    images: int
    seed: int
    batch_size: int
    log_dir: Path
    checkpoint_dir: Path
    root: str | None
    ood: list[Path]


@dataclass(frozen=True)
class Measured:
    """What was found of one run, before anything is written."""

    opened: OpenedRun
    findings: Findings
    scores: dict[str, np.ndarray]

    def scalars(self) -> dict[str, float | None]:
        """Return what TensorBoard shows as numbers."""
        figures = self.findings.figures
        found: dict[str, float | None] = {"clean_accuracy": figures["clean"]["accuracy"]}
        found["mean_corrupted_error"] = figures["corruption_error"]["error"]
        found["mean_corruption_error"] = figures["corruption_error"]["mce"]
        outside = figures["out_of_distribution"]
        for name, score in outside["best"].items():
            found[f"auroc_{name.replace(' ', '_')}"] = outside["sets"][name][score]["auroc"]
        return found

    def lines(self) -> list[str]:
        """Say in a few lines what was found."""
        figures, paths = self.findings.figures, self.opened.paths
        errors, outside = figures["corruption_error"], figures["out_of_distribution"]
        lines = [
            f"{paths.name} version {paths.version}: accuracy {figures['clean']['accuracy']:.4f}, under corruption "
            f"{1 - errors['error']:.4f}, on {figures['settings']['images']:,} test images"
        ]
        if errors["mce"] is not None:
            lines.append(f"  mean corruption error relative to {errors['baseline']}: {errors['mce']:.4f}")
        for name, score in outside["best"].items():
            lines.append(f"  told from {name}: AUROC {outside['sets'][name][score]['auroc']:.4f} ({score})")
        return lines + [f"  {line}" for line in figures["left_out"]]


def _seen(opened: OpenedRun) -> list[Any]:
    """List what decides which images are corrupted: the test set, and how its images are stored."""
    described = opened.data.describe()
    return [described[name] for name in ("test_set", "channels", "storage_size", "resize", "crop")]


@dataclass
class Measuring:
    """Measures runs with the same options; a run is measured once.

    Attributes:
        options: How to measure.
    """

    options: Options
    _opened: dict[str, OpenedRun] = field(default_factory=dict)
    _swept: dict[Path, dict[str, Any]] = field(default_factory=dict)
    _subsets: dict[Path, Subset] = field(default_factory=dict)

    def all(self, runs: list[str], baseline: str | None) -> list[Measured]:
        """Measure runs; all are opened and compared before the first is measured.

        Raises:
            UserError: If a run is missing, or the baseline was tested on other images.
        """
        opened = [self._open(name) for name in dict.fromkeys(runs)]
        base = None if baseline is None else self._open(baseline)
        for one in opened if base is not None else []:
            if base is not None and _seen(one) != _seen(base):
                raise UserError(
                    f"--baseline {baseline} was tested on other images than {one.paths.logs}, or stores them at "
                    "another size: their errors cannot be compared. Choose a baseline of the same data."
                )
        reference = None if base is None else self._stored(base) or self._sweep(base)
        label = None if base is None else f"{base.paths.name} version {base.paths.version}"
        return [self._measure(one, reference, label) for one in opened]

    def _open(self, name: str) -> OpenedRun:
        if name not in self._opened:
            opened = open_run(name, self.options.log_dir, self.options.checkpoint_dir, self.options.root)
            to_best_device(opened.module)
            self._opened[name] = opened
        return self._opened[name]

    def _measure(self, opened: OpenedRun, reference: dict[str, Any] | None, label: str | None) -> Measured:
        options, data = self.options, opened.data
        calibration = read_calibration(opened.paths.best)
        root = getattr(data.source, "root", data_root(options.root))
        outside, skipped = outside_sets(
            opened.module.input_spec, root, data.source_name, options.ood, options.images, options.seed
        )
        measured = self._sweep(opened)
        errors = mean_corruption_error(measured["cells"], measured["clean"], reference)
        train = self._subset(data.splits["train"], TRAIN_IMAGES)
        val = self._subset(data.splits["val"], VAL_IMAGES)
        subset = self._test_subset(opened)
        fitting = Fitting(train.images, train.labels, val.images)
        detected, scores = detect(opened.module, fitting, subset.images, outside, options.batch_size, calibration)
        if calibration is None:
            skipped.append(
                f"{opened.paths.name} has no calibration (`fashion-tl diagnose` makes one): no calibrated figures"
            )
        settings = self._settings(opened)
        findings = robustness_findings(measured, errors, label, detected, scores, skipped, subset, settings)
        return Measured(opened, findings, scores)

    def _sweep(self, opened: OpenedRun) -> dict[str, Any]:
        if opened.paths.logs not in self._swept:
            subset = self._test_subset(opened)
            calibration = read_calibration(opened.paths.best)
            found = sweep(opened.module, subset, self.options.seed, self.options.batch_size, calibration)
            self._swept[opened.paths.logs] = found
        return self._swept[opened.paths.logs]

    def _subset(self, split: Split, count: int) -> Subset:
        index = self._choose(split, count)
        images, labels = split.images.__getitems__(split.indices[index])
        return Subset(images, labels.numpy(), index)

    def _choose(self, split: Split, count: int) -> torch.Tensor:
        if count >= len(split):
            return torch.arange(len(split))
        return stratified_split(split.labels, count / len(split), self.options.seed)[1]

    def _test_subset(self, opened: OpenedRun) -> Subset:
        if opened.paths.logs not in self._subsets:
            self._subsets[opened.paths.logs] = self._subset(opened.data.splits["test"], self.options.images)
        return self._subsets[opened.paths.logs]

    def _settings(self, opened: OpenedRun) -> dict[str, Any]:
        test = opened.data.splits["test"]
        return {
            "seed": self.options.seed,
            "images": len(self._choose(test, self.options.images)),
            "test_images": len(test),
            "checkpoint": digest(opened.paths.best),
            "fashion_tl": __version__,
        }

    def _stored(self, opened: OpenedRun) -> dict[str, Any] | None:
        """Take the baseline's figures from its own record, if they were measured in the same way."""
        try:
            path = opened.paths.logs / FOLDER / "robustness.json"
            figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["figures"]
            same = figures["settings"] == self._settings(opened)
            return {"cells": figures["cells"], "clean": figures["clean"]} if same else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
