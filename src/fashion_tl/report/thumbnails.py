"""Thumbnails of the test images: which are shown, and their pixels as data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fashion_tl.errors import UserError
from fashion_tl.records.predictions import read_arrays
from fashion_tl.report.figures import Entry, Pair

Pixels = npt.NDArray[np.uint8]
SHOWN = 8  # images for each direction of a pair
BUDGET = 6_000_000  # bytes of pixels that the page takes; pairs of distant ranks go without pictures beyond it


def data_uri(png: bytes) -> str:
    """Turn a PNG file into a data URI."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def png_of(pixels: Pixels) -> bytes:
    """Encode pixels (H, W), (H, W, 3) or (H, W, 4)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Thumbnails of the test images, or why there are none.

    Attributes:
        images: Pixels (N, H, W) or (N, H, W, 3) in the order of the predictions; None if they cannot be shown.
        why: What is missing and what to do about it.
    """

    images: Pixels | None
    why: str = ""


def test_images(folders: list[Path], test_set: str | None, labels: npt.NDArray[np.int64]) -> Thumbnails:
    """Read the thumbnails that the runs on a test set share, from the first of some log folders that has them."""
    if test_set is None:
        return Thumbnails(None, "these records name no test set, as those of older versions; run one of them again")
    again = "`fashion-tl fit` writes it: run one of these experiments again, or copy the file from where they ran"
    paths = [folder / "test_sets" / f"{test_set}.npz" for folder in folders if test_set.isalnum()]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        return Thumbnails(None, f"{folders[0] / 'test_sets' / test_set}.npz is missing; {again}")
    try:
        images, truth = read_arrays(path, "images", "label")
    except UserError as error:
        return Thumbnails(None, f"{path} cannot be read: {error}; delete it; {again}")
    fits = images.dtype == np.uint8 and (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3))
    if not fits or not images.size or not np.array_equal(truth, labels):
        return Thumbnails(None, f"{path} does not hold the images of these predictions; delete it; {again}")
    return Thumbnails(images)


def exclusive(better: Entry, worse: Entry) -> npt.NDArray[np.int64]:
    """Choose images that one run alone classifies correctly: those whose true class the two rate most differently."""
    if better.figures is None or worse.figures is None:
        return np.zeros(0, dtype=np.int64)
    places = np.flatnonzero(better.figures.correct & ~worse.figures.correct)
    gap = better.figures.true_class_probability[places] - worse.figures.true_class_probability[places]
    return places[np.argsort(-gap, kind="stable")[:SHOWN]]


def gallery(pairs: list[Pair], source: Thumbnails) -> tuple[list[int], dict[str, list[int]], dict[int, str]]:
    """Choose the images for every pair of runs, neighbouring ranks first.

    Returns:
        The positions of all images, the places in that list for each direction ("0-1": run 0 alone is correct), and
        a data URI by position, as far as ``BUDGET`` goes.
    """
    chosen: dict[int, int] = {}
    shown: dict[str, list[int]] = {}
    pictures: dict[int, str] = {}
    spent = 0
    for pair in sorted(pairs, key=lambda p: (abs(p.b.number - p.a.number), p.a.number)):
        for better, worse in ((pair.a, pair.b), (pair.b, pair.a)):
            positions = exclusive(better, worse).tolist()
            shown[f"{better.number}-{worse.number}"] = [chosen.setdefault(p, len(chosen)) for p in positions]
            for position in positions:
                if source.images is None or position in pictures:
                    continue
                spent += source.images[position].nbytes
                if spent <= BUDGET:
                    pictures[position] = data_uri(png_of(source.images[position]))
    return list(chosen), shown, pictures
