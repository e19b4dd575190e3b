"""Image files that a user names, decoded as a run's own images were."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from fashion_tl.data.image_folder import SUFFIXES
from fashion_tl.data.images import UnreadableImageError, decode_image
from fashion_tl.data.transforms import InputSpec, to_grey
from fashion_tl.errors import UserError


def image_files(paths: list[Path]) -> list[Path]:
    """List files as given, and the images below each folder, hidden ones left out.

    Raises:
        UserError: If a path does not exist, or a folder holds no images.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(
                p
                for p in path.rglob("*")
                if p.suffix.lower() in SUFFIXES
                and p.is_file()
                and not any(part.startswith(".") for part in p.relative_to(path).parts)
            )
            if not found:
                raise UserError(f"the folder {path} holds no images ({' '.join(SUFFIXES)}).")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise UserError(f"{path} does not exist: give image files, or folders of them.")
    return files


def decoded(files: list[Path], spec: InputSpec, batch_size: int, skip: bool) -> Iterator[tuple[list[Path], Tensor]]:
    """Decode files as the training images were: to the size and channels that they were held in.

    Args:
        files: Image files.
        spec: How the run held its images.
        batch_size: Files in a batch, at least 1.
        skip: Whether to go on without files that cannot be read, and name them.

    Yields:
        The files of a batch and their images, uint8 (B, 1 or 3, H, W).

    Raises:
        UserError: If a file cannot be read and is not to be skipped.
    """
    size = spec.held_size or spec.image_size
    for start in range(0, len(files), batch_size):
        names, tensors = [], []
        for path in files[start : start + batch_size]:
            try:
                tensors.append(decode_image(path, size, "squash" if spec.resize == "squash" else "crop", spec.crop))
                names.append(path)
            except UnreadableImageError as error:
                if not skip:
                    raise UserError(f"{path} cannot be read: {error.reason}. --skip_unreadable goes on.") from error
                print(f"skipped {path}: {error.reason}", file=sys.stderr)
        if tensors:
            batch = torch.stack(tensors)
            yield names, to_grey(batch) if spec.channels == 1 else batch
