"""Reading checkpoints: plain values only, and a clear message when that fails."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from fashion_tl.errors import UserError


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint that this package wrote.

    Raises:
        UserError: If there is none at that path, it cannot be read, or something else wrote it.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(
            f"there is no checkpoint {path}. A run writes its own as checkpoints/NAME/version_N/best.ckpt."
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, LookupError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or "fashion_tl_module" not in checkpoint:
        raise UserError(f"{path} was not written by fashion_tl; give a best.ckpt or last.ckpt of one of its runs.")
    return checkpoint
