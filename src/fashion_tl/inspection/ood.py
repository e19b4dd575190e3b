"""Detection of out-of-distribution (OOD) images: sets of them, and several scores on each."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fashion_tl.data.file_list import image_files
from fashion_tl.data.files import decoded
from fashion_tl.data.garments import SyntheticGarments
from fashion_tl.data.idx import find_idx, read_idx
from fashion_tl.data.transforms import InputSpec, resize_images, to_bytes, to_float, to_grey
from fashion_tl.errors import UserError
from fashion_tl.inspection.corruption_error import Subset
from fashion_tl.inspection.inference import infer, tracked
from fashion_tl.inspection.mahalanobis import Distances, Features, fit_distances, stage_readers
from fashion_tl.inspection.random_numbers import RandomNumbers
from fashion_tl.metrics.detection import detection, energy_score, max_softmax_score
from fashion_tl.metrics.metrics import Floats
from fashion_tl.training.classifier import ImageClassifier

IN_DISTRIBUTION = "in-distribution"  # how the run's own test images are called among the sets
SOFTMAX, ENERGY = "maximum softmax", "energy"
HEAD_DISTANCE, ALL_DISTANCES = "Mahalanobis, input of the head", "Mahalanobis, all stages"
SCALED = ", temperature-scaled"
MNIST = Path("MNIST", "raw", "t10k-images-idx3-ubyte")
DRAWN = 2000


def ood_sets(
    spec: InputSpec, root: Path, source: str, folders: list[Path], count: int, seed: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Collect sets of images of other kinds than a run was trained on.

    Args:
        spec: How the run stores its images.
        root: Folder with the data; MNIST's test images are read from ``root/MNIST/raw``.
        source: The run's own source, which is not OOD.
        folders: Folders of image files, searched at any depth.
        count: Most images of each set, drawn by seed.
        seed: The same seed takes the same images.

    Returns:
        Images (at most ``count``, C, H, W), uint8, as the run stores its own, of each set by name, and a line for each
        set that was left out.

    Raises:
        UserError: If a folder holds no images or one that cannot be read, or MNIST's file is damaged.
    """
    sets: dict[str, Tensor] = {}
    left_out: list[str] = []
    side = spec.stored
    path = find_idx(root / MNIST)
    if path is None:
        left_out.append(f"MNIST's test images are not in {(root / MNIST).parent} ({MNIST.name}[.gz]): left out")
    else:
        digits = read_idx(path)
        if digits.ndim != 3 or not len(digits):
            raise UserError(f"{path} is damaged: it does not hold images. Replace or remove it.")
        sets["MNIST"] = as_stored(digits[_choose(len(digits), count, seed)].unsqueeze(1), spec)
    if source == "SyntheticGarments":
        left_out.append("SyntheticGarments are what the run was trained on: left out as OOD images")
    else:
        sets["SyntheticGarments"] = as_stored(SyntheticGarments().draw(min(count, DRAWN), seed, 28)[0], spec)
    noise = RandomNumbers(seed, 0, torch.arange(min(count, DRAWN))).uniform(spec.channels, side, side)
    sets["uniform noise"] = to_bytes(noise)
    for folder in folders:
        name = folder.resolve().name
        while name in (*sets, IN_DISTRIBUTION):
            name += "'"
        sets[name] = _read_folder(folder, spec, count, seed)
    return sets, left_out


def as_stored(images: Tensor, spec: InputSpec) -> Tensor:
    """Bring images (N, C, H, W), uint8, to the size and channels in which a run stores its own."""
    values = resize_images(to_float(images), spec.stored, "bilinear")
    if spec.channels == 1 and values.shape[1] == 3:
        values = to_grey(values)
    return to_bytes(values.expand(-1, spec.channels, -1, -1))


def _read_folder(folder: Path, spec: InputSpec, count: int, seed: int) -> Tensor:
    if not folder.is_dir():
        raise UserError(f"--ood {folder} is not a folder: give a folder of images.")
    files = image_files([folder])
    chosen = [files[i] for i in _choose(len(files), count, seed).tolist()]
    ((_, images),) = decoded(chosen, spec, len(chosen), skip=False)
    return to_bytes(images)


def _choose(available: int, count: int, seed: int) -> Tensor:
    order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))
    return order[:count].sort().values


def detect(
    module: ImageClassifier,
    train: Subset,
    validation: Subset,
    test: Subset,
    ood: dict[str, Tensor],
    batch_size: int,
    temperature: float | None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Score test images and OOD images, and measure how well each score separates them.

    Args:
        module: The classifier.
        train: Training images that the Gaussians are fitted to, without augmentation.
        validation: Validation images that choose their ridges and scales.
        test: Test images.
        ood: OOD images (N, C, H, W), uint8, as stored, by name of their set.
        batch_size: Images in a batch.
        temperature: The checkpoint's temperature, which gives two more scores; None for none.

    Returns:
        Plain values: "sets" of figures by set and score (see ``Detection``), the "best" score of each set, "ridges" and
        numbers of images; and all scores, float64, as "<set>/<score>", the test images' set being "in-distribution".
    """
    readers = stage_readers(module.network)

    def read(images: Tensor, what: str) -> tuple[np.ndarray, Features]:
        return infer(module, tracked(torch.split(images, batch_size), what, len(images)), readers)

    distances = fit_distances(
        read(train.images, "training features")[1],
        train.labels,
        read(validation.images, "validation features")[1],
    )
    scores = {
        name: _scores(*read(images, f"scores of {name}"), distances, temperature)
        for name, images in {IN_DISTRIBUTION: test.images, **ood}.items()
    }
    known = scores[IN_DISTRIBUTION]
    sets = {name: {score: asdict(detection(known[score], own)) for score, own in scores[name].items()} for name in ood}
    figures = {
        "images": {name: len(own[ENERGY]) for name, own in scores.items()},
        "training_images": len(train.labels),
        "stages": list(distances.gaussians),
        "ridges": distances.ridges,
        "temperature": temperature,
        "sets": sets,
        "best": {name: max(own, key=lambda score, own=own: own[score]["auroc"]) for name, own in sets.items()},  # type: ignore[misc]
    }
    return figures, {f"{name}/{score}": v for name, own in scores.items() for score, v in own.items()}


def _scores(
    logits: np.ndarray, features: Features, distances: Distances, temperature: float | None
) -> dict[str, Floats]:
    scores = {
        SOFTMAX: max_softmax_score(logits),
        ENERGY: energy_score(logits),
        HEAD_DISTANCE: distances.head(features),
        ALL_DISTANCES: distances.ensemble(features),
    }
    if temperature is not None:
        scores[SOFTMAX + SCALED] = max_softmax_score(np.asarray(logits, dtype=np.float64) / temperature)
        scores[ENERGY + SCALED] = energy_score(logits, temperature)
    return scores
