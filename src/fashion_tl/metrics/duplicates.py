"""Finding images that are the same, or nearly so: exact copies, nearest neighbours, correlation under a shift."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from fashion_tl.errors import UserError
from fashion_tl.metrics.metrics import Floats, Ints

Singles = npt.NDArray[np.float32]
_ROWS, _PAIRS = 128, 4096  # of a block: what is computed at once


def exact_groups(keys: Sequence[Hashable]) -> list[list[int]]:
    """Return the positions of equal keys, in order, for each key that comes more than once."""
    found: dict[Hashable, list[int]] = {}
    for position, key in enumerate(keys):
        found.setdefault(key, []).append(position)
    return [positions for positions in found.values() if len(positions) > 1]


def unit_rows(values: npt.ArrayLike, centred: bool = True) -> Singles:
    """Flatten each of N items and bring it to length 1, so that products of rows are cosines.

    Args:
        values: Items (N, ...).
        centred: Whether to take the mean of each row away first: products are then correlations.

    Returns:
        Rows (N, D); an item without contrast becomes zeros.
    """
    array = np.asarray(values, dtype=np.float32)
    rows = array.reshape(len(array), math.prod(array.shape[1:]))
    if centred:
        rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    unit: Singles = np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-6)
    return unit


def nearest(queries: Singles, references: Singles, count: int) -> Ints:
    """Find the references with the largest products with each query.

    The products are computed in blocks of rows, so that Q x R of them never lie in memory together.

    Args:
        queries: Rows (Q, D).
        references: Rows (R, D).
        count: References to find, at least 1; all if there are no more.

    Returns:
        Indices (Q, count) of references, the largest product first.

    Raises:
        UserError: If there is no reference, or the count is below 1.
    """
    if count < 1 or not len(references):
        raise UserError(f"{count} neighbours among {len(references)} images: both must be at least 1.")
    count = min(count, len(references))
    found = np.empty((len(queries), count), dtype=np.int64)
    for start in range(0, len(queries), _ROWS):
        products = queries[start : start + _ROWS] @ references.T
        rows = np.arange(len(products))
        for rank in range(count):  # cheaper than a partition while few are wanted
            best = products.argmax(axis=1)
            found[start : start + _ROWS, rank] = best
            products[rows, best] = -np.inf
    return found


def aligned_correlation(
    one: Singles, two: Singles, shift: int, query: Ints | None = None, reference: Ints | None = None
) -> Floats:
    """Compute the correlation of the pixels of pairs of images, the largest one over small shifts.

    Normalised cross-correlation (Lewis 1995): 1 where the images are the same up to brightness, contrast and a shift
    by whole pixels, over the area that both cover.

    Args:
        one: Images (N, H, W).
        two: Images (M, H, W).
        shift: Largest shift along each side in pixels, at least 0, below H and W.
        query: Indices (P,) into the one images; all of them in order if None. Pairs are gathered block by block.
        reference: Indices (P,) into the others, likewise.

    Returns:
        Correlations (P,), -1 to 1; 0 where an image has no contrast.
    """
    query = np.arange(len(one)) if query is None else query
    reference = np.arange(len(two)) if reference is None else reference
    best = np.full(len(query), -1.0)
    for start in range(0, len(query), _PAIRS):
        block = slice(start, start + _PAIRS)
        ones, twos = one[query[block]], two[reference[block]]
        for down in range(-shift, shift + 1):
            for right in range(-shift, shift + 1):
                first = _window(ones, down, right)
                second = _window(twos, -down, -right)
                best[block] = np.maximum(best[block], _correlation(first, second))
    return best


def _window(images: Singles, down: int, right: int) -> Singles:
    """Return what of images (P, H, W) is covered by the same images moved by (down, right)."""
    height, width = images.shape[1:]
    rows = slice(max(0, down), height + min(0, down))
    return images[:, rows, max(0, right) : width + min(0, right)]


def _correlation(one: Singles, two: Singles) -> Floats:
    one, two = (part - part.mean(axis=(1, 2), keepdims=True) for part in (one, two))
    product, first, second = (
        np.einsum("phw,phw->p", a, b).astype(np.float64) for a, b in ((one, two), (one, one), (two, two))
    )
    scale = np.sqrt(first * second)
    found: Floats = np.divide(product, scale, out=np.zeros_like(product), where=scale > 1e-9).clip(-1, 1)
    return found
