"""Writing and reading checkpoints: whole and with a checksum, plain values only, a clear message when that fails."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from fashion_tl.errors import UserError, wrong_types
from fashion_tl.files import write_bytes

# torch does not compare the checksums of an archive's members when it loads them, and they do not cover its directory:
# there a changed bit may exchange one tensor for another. So the archive's comment, at its end, covers the whole file.
_MARK, _DIGITS = b"fashion_tl crc32 ", 8
_TAIL = len(_MARK) + _DIGITS
_ARCHIVE = b"PK\3\4"  # how one begins
_OWN = "A run writes its own as checkpoints/NAME/version_N/best.ckpt."
_BROKEN = (OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, NotImplementedError)
BROKEN = (*_BROKEN, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error)
TYPES: dict[str, type] = {
    "fashion_tl_module": str,
    "fashion_tl_build": dict,
    "fashion_tl_figures": list,
    "fashion_tl_seen": dict,
    "fashion_tl_seen.trained": dict,
    "fashion_tl_seen.chosen": dict,
    "fashion_tl_seen.contents": dict,
    "fashion_tl_averaging": dict,
    "fashion_tl_averaging.weights": dict,
    "fashion_tl_averaging.average": dict,
    "state_dict": dict,
    "hyper_parameters": dict,
    "callbacks": dict,
    "loops": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "epoch": int,
    "global_step": int,
}
REQUIRED = ("state_dict", "hyper_parameters", "epoch", "global_step")


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints as ``write_bytes`` does, with a checksum that is compared when they are loaded."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write a checkpoint; where it is not a file of this machine, as Lightning does."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_bytes(Path(path), packed(checkpoint))

    def load_checkpoint(self, path: Any, *args: Any, **settings: Any) -> dict[str, Any]:  # noqa: ANN401
        """Load a checkpoint.

        Raises:
            UserError: If it is damaged.
        """
        with reading(path):
            verify(path)
            return super().load_checkpoint(path, *args, **settings)


def packed(checkpoint: dict[str, Any]) -> memoryview:
    """Return the content of a checkpoint file: torch's archive, and a checksum of all of it as its comment."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    buffer.seek(-2, io.SEEK_END)  # the length of the comment
    buffer.write(struct.pack("<H", _TAIL) + _MARK)
    buffer.write(b"%0*x" % (_DIGITS, zlib.crc32(buffer.getbuffer())))
    return buffer.getbuffer()


def verify(path: Any) -> None:  # noqa: ANN401 - whatever names a checkpoint for torch or Lightning
    """Compare a checkpoint file with its checksum; one of something else with those of its members.

    Raises:
        UserError: If it is damaged.
        FileNotFoundError: If there is none.
    """
    if not isinstance(path, str | Path) or "://" in str(path):
        return
    with reading(path), Path(path).open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
        if tail.startswith(_MARK):
            file.seek(0)
            left, found = size - _DIGITS, 0
            while left and (block := file.read(min(left, 2**20))):
                left, found = left - len(block), zlib.crc32(block, found)
            if b"%0*x" % (_DIGITS, found) != tail[len(_MARK) :]:
                raise ValueError("it is damaged, its checksum is wrong")
        elif zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if (member := archive.testzip()) is not None:
                    raise ValueError(f"it is damaged, the checksum of {member} is wrong")
        else:
            file.seek(0)
            cut = file.read(len(_ARCHIVE)) == _ARCHIVE
            raise ValueError("it is damaged, its end is missing" if cut else f"it is no archive of torch. {_OWN}")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint that this package wrote.

    Raises:
        UserError: If there is none at that path, it cannot be read, or something else wrote it.
    """
    try:
        with reading(path):
            verify(path)
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {path}. {_OWN}") from error
    if not isinstance(checkpoint, dict) or "fashion_tl_module" not in checkpoint:
        raise UserError(f"{path} was not written by fashion_tl; give a best.ckpt or last.ckpt of one of its runs.")
    wrong = [f"it has no {name}" for name in REQUIRED if checkpoint.get(name) is None] + wrong_types(checkpoint, TYPES)
    wrong += [f"{name} is no tensor" for name, value in _items(checkpoint) if not isinstance(value, torch.Tensor)][:1]
    if wrong:
        raise UserError(f"{path} is not as fashion_tl writes checkpoints: {'; '.join(wrong)}.")
    return checkpoint


@contextmanager
def reading(path: Any) -> Iterator[None]:  # noqa: ANN401 - as ``verify``
    """Have what goes wrong with a file that is there say in one line why it cannot be read as a checkpoint."""
    try:
        yield
    except FileNotFoundError:
        raise
    except BROKEN as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, pickle.UnpicklingError):  # torch advises to load it all the same
            reason = f"it holds more than tensors and plain values. {_OWN}"
        raise UserError(f"{path} cannot be read as a checkpoint: {reason}") from error


def _items(checkpoint: dict[str, Any]) -> list[tuple[Any, Any]]:
    """List what must be tensors: weights and buffers, and which images they have seen."""
    seen = checkpoint.get("fashion_tl_seen")
    found = [checkpoint.get("state_dict"), *(seen.values() if isinstance(seen, dict) else ())]
    return [item for each in found if isinstance(each, dict) for item in each.items()]
