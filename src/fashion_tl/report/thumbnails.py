"""Thumbnails of the test images: which are shown, and their pixels as data URIs."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fashion_tl.errors import UserError
from fashion_tl.records.thumbnails import Pixels, read_thumbnails, thumbnails_path
from fashion_tl.report.figures import Entry, Pair

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


def exclusive(better: Entry, worse: Entry) -> npt.NDArray[np.int64]:
    """Choose images that one run alone classifies correctly: those whose true class the two rate most differently."""
    if better.figures is None or worse.figures is None:
        return np.zeros(0, dtype=np.int64)
    places = np.flatnonzero(better.figures.correct & ~worse.figures.correct)
    gap = better.figures.true_class_probability[places] - worse.figures.true_class_probability[places]
    return places[np.argsort(-gap, kind="stable")[:SHOWN]]


def gallery(pairs: list[Pair]) -> tuple[list[int], dict[str, list[int]]]:
    """Choose the images for every pair of runs, neighbouring ranks first.

    Returns:
        The positions of all images, and the places in that list for each direction ("0-1": run 0 alone is correct).
    """
    chosen: dict[int, int] = {}
    shown: dict[str, list[int]] = {}
    for pair in sorted(pairs, key=lambda p: (abs(p.b.number - p.a.number), p.a.number)):
        for better, worse in ((pair.a, pair.b), (pair.b, pair.a)):
            positions = exclusive(better, worse).tolist()
            shown[f"{better.number}-{worse.number}"] = [chosen.setdefault(p, len(chosen)) for p in positions]
    return list(chosen), shown


def pictures(
    folders: list[Path], test_set: str | None, labels: npt.NDArray[np.int64], positions: list[int]
) -> tuple[dict[int, str], str]:
    """Read test images from the first of some log folders that has them.

    Args:
        folders: Folders of all records.
        test_set: What records call their test set.
        labels: Classes (N,) of the test images.
        positions: Which images; the first ones, as far as ``BUDGET`` goes.

    Returns:
        A data URI by position; and what is missing and what to do about it, if there are none.
    """
    if test_set is None:
        return {}, "these records name no test set, as those of older versions; run one of them again"
    again = "`fashion-tl fit` writes it: run one of these experiments again, or copy the file from where they ran"
    paths = [thumbnails_path(folder, test_set) for folder in folders if test_set.isalnum()]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        return {}, f"{thumbnails_path(folders[0], test_set)} is missing; {again}"
    try:
        images = read_thumbnails(path, labels, positions, BUDGET)
    except UserError as error:
        return {}, f"{path.parent / str(error)}; delete it; {again}"
    return {position: data_uri(png_of(image)) for position, image in images.items()}, ""
