"""Files from the network: whole and checked, or not there at all."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock

from fashion_tl.errors import UserError

PAUSES = (1.0, 2.0, 4.0)  # seconds before the second attempt and those after it
STALLED = 30.0  # seconds without a byte
LONGEST = 1800.0  # seconds for a file in all
_LATER = (408, 416, 429)  # answers below 500 that another attempt may better


class DownloadError(OSError):
    """A file could not be fetched; the message says why, in one line."""


def download(address: str, path: Path, check: Callable[[Path], object]) -> None:
    """Fetch a file, unless another process has done so meanwhile.

    The file gets its name when it is whole, checked and on the disk. Failed attempts are repeated after a pause and go
    on where they ended, as does a download after one that was killed.

    Args:
        address: Where the file is, by HTTP.
        path: Where it goes; the folder is made if absent.
        check: Raises a UserError if the file that it is given is not the right one.

    Raises:
        DownloadError: If the server cannot be reached, stalls, breaks off, or has no such file.
        OSError: If the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft, ends = path.with_name(f".{path.stem}.partial{path.suffix}"), time.monotonic() + LONGEST
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with lock:
        try:
            for pause in (*PAUSES, None):
                if path.is_file():
                    return
                try:
                    _fetch(address, draft, ends)
                    check(draft)
                    draft.replace(path)
                except (URLError, HTTPException, ConnectionError, TimeoutError, UserError) as error:
                    if isinstance(error, HTTPError | UserError):
                        draft.unlink(missing_ok=True)  # not a part of the file
                    if isinstance(error, HTTPError):
                        error.close()
                    final = isinstance(error, HTTPError) and error.code < 500 and error.code not in _LATER
                    if final or pause is None or time.monotonic() + pause > ends:
                        raise DownloadError(f"{address}: {_reason(error)}") from error
                    print(f"{address}: {_reason(error)}; once more in {pause:g} s", file=sys.stderr)
                    time.sleep(pause)
        finally:
            draft.unlink(missing_ok=True)
            with suppress(OSError):  # Windows keeps a file that is open
                Path(lock.lock_file).unlink()


def _fetch(address: str, draft: Path, ends: float) -> None:
    """Fetch what a draft lacks."""
    have = draft.stat().st_size if draft.exists() else 0
    request = Request(address, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 - of a source, by HTTP
    with urlopen(request, timeout=STALLED) as answer:  # noqa: S310 - the same
        length = answer.headers.get("Content-Length", "")
        if answer.status != 206:
            have = 0
        whole = have + int(length) if length.isdigit() else None
        with draft.open("ab" if have else "wb") as file:
            while block := answer.read1(2**16):
                file.write(block)
                if time.monotonic() > ends:
                    raise ConnectionError(f"only {file.tell():,} bytes of {whole} came in {LONGEST / 60:g} min")
            file.flush()
            os.fsync(file.fileno())
            if whole is not None and file.tell() != whole:
                raise ConnectionError(f"the server broke off after {file.tell():,} of {whole:,} bytes")


def _reason(error: BaseException) -> str:
    cause = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
    if isinstance(cause, TimeoutError):
        return f"the server sent nothing for {STALLED:g} s"
    reason = cause.strerror if isinstance(cause, OSError) and not isinstance(cause, HTTPError) else None
    return " ".join(str(reason or cause).split()).rstrip(":") or type(cause).__name__
