"""Datasets opened by the library `datasets`: on disk, of the Hub, or its copies of those where no Hub answers."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fashion_tl.data.files import SUFFIXES
from fashion_tl.errors import UserError, one_line

if TYPE_CHECKING:
    from datasets import Dataset


@contextmanager
def library() -> Iterator[None]:
    """Import the library `datasets`; its progress bars are for terminals, and what it logs of errors is in messages.

    Raises:
        UserError: If it is not installed.
    """
    try:
        from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
        from datasets.utils import logging
    except ImportError as error:
        raise UserError(
            f"--data.source HuggingFace needs the library `datasets` ({error}): pip install 'fashion-tl[hub]'."
        ) from error
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    hide = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if hide:
            enable_progress_bars()


def open_dataset(root: Path, name: str, config: str | None, revision: str | None) -> tuple[dict[str, Dataset], str]:
    """Open a dataset on disk or of the Hub; returns its splits, and what it is called in messages."""
    from datasets import Dataset

    if not name.strip():
        raise UserError("data.source.name is empty: name a dataset of the Hub, or a file or folder below the root.")
    place = root / Path(name).expanduser()
    if os.path.exists(place):  # noqa: PTH110 - no error for a long name
        if revision is not None:
            raise UserError(f"--data.source.revision is of datasets of the Hub, but {place} is on disk. Leave it out.")
        found, told = _on_disk(place, config), str(place)
    elif not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) or name.endswith(".parquet") or os.path.exists(name):  # noqa: PTH110
        # The library would take a name without an owner for a format, and look in the working directory too.
        raise UserError(
            f"{place} does not exist. Name a file or folder with --data.source.name, absolute or below "
            "--data.source.root, or a dataset of the Hub by owner and name, such as ylecun/mnist."
        )
    else:
        found, told = _of_hub(root, name, config, revision), name
    return {"train": found} if isinstance(found, Dataset) else dict(found), told


def _on_disk(place: Path, config: str | None) -> Any:  # noqa: ANN401 - Dataset or DatasetDict
    """Open a Parquet file, a folder of such files, a folder of images, or a saved dataset."""
    from datasets import load_dataset, load_from_disk

    hint = "Give a .parquet file, a folder of such files or of images, or a dataset saved by save_to_disk."
    try:
        if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
            return load_from_disk(str(place))
        if odd := " ".join(sorted(set("*?[]{}") & set(str(place.absolute())))):
            raise UserError(
                f"{place} has {odd} in its path: a pattern, to `datasets`. Rename it, or name a link to it."
            )
        if place.is_file() and place.suffix.lower() == ".parquet":
            return load_dataset("parquet", data_files=str(place))
        if place.is_dir() and _has(place, (".parquet",)):
            return load_dataset(str(place.absolute()), config)
        if place.is_dir() and _has(place, SUFFIXES):
            return load_dataset("imagefolder", data_dir=str(place))
    except _failures() as error:
        raise UserError(f"{place} cannot be read as a dataset: {_reason(error)}. {hint}") from error
    raise UserError(f"{place} is no dataset. {hint} One of the Hub of the same name needs another --data.source.root.")


def _has(folder: Path, suffixes: tuple[str, ...]) -> bool:
    """Say whether a folder holds a file with one of some suffixes, at any depth."""
    return any(name.lower().endswith(suffixes) for _, _, names in os.walk(folder) for name in names)


def _of_hub(root: Path, name: str, config: str | None, revision: str | None) -> Any:  # noqa: ANN401
    """Download a dataset of the Hub, or take the library's copy of it where no Hub answers."""
    import datasets

    before, unreachable = datasets.config.HF_HUB_OFFLINE, _unreachable(name, revision)
    try:
        # Else the library asks again for half a minute before it looks at its copies.
        datasets.config.HF_HUB_OFFLINE = before or unreachable is not None
        found = datasets.load_dataset(name, config, revision=revision)
    except _failures() as error:
        reason = f"it does not answer: {unreachable}" if unreachable else _reason(error)
        raise UserError(
            f"the dataset {name} cannot be had from the Hub ({reason}); no copy of it is in the cache of the library "
            f"`datasets`, and {root / name} does not exist. Correct --data.source.name, config or revision; with no "
            "connection, download the dataset elsewhere and name its folder, or point HF_ENDPOINT at a mirror."
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = before
    files = [Path(each["filename"]) for dataset in found.values() for each in dataset.cache_files]
    if unreachable and revision is not None and not all(revision in file.parts for file in files):
        raise UserError(
            f"the Hub does not answer ({unreachable}), and the copy of {name} in the cache is not known to be "
            f"{revision}. Give the whole hash of a commit as --data.source.revision, or leave it out."
        )
    return found


def _unreachable(name: str, revision: str | None) -> str | None:
    """Ask the Hub for a dataset, once; returns why no answer came, None if one came, be it a refusal."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError  # type: ignore[attr-defined]

    try:
        HfApi().dataset_info(name, revision=revision, timeout=4)
    except (HfHubHTTPError, HFValidationError):
        return None
    except (HTTPError, OSError) as error:
        return _reason(error)
    return None


def _failures() -> tuple[type[Exception], ...]:
    """List what `datasets` and the libraries below it raise when a dataset cannot be had."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined] # of httpx or httpx2, by version
    from pyarrow import ArrowException

    raised = (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError)
    return (*raised, DatasetsError, HTTPError, ArrowException)


def _reason(error: BaseException) -> str:
    """Say what was wrong at first: "an error occurred" is the last that `datasets` says of it."""
    told = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
    return one_line(told).rstrip(".") or type(told).__name__
