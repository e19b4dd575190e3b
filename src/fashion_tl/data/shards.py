"""Tar archives in WebDataset's layout: where each file of each sample lies, and which archives a pattern names."""

from __future__ import annotations

import glob
import itertools
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fashion_tl.data.files import PackedImage
from fashion_tl.data.rows import first
from fashion_tl.errors import UserError, one_line

_MOST_SHARDS = 100_000
_BLOCK = tarfile.BLOCKSIZE
# A sample's key is the path up to the first dot of the file's name, as WebDataset has it; hidden files have none.
_KEY_AND_EXTENSION = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, slots=True)
class TarMember(PackedImage):
    """A file within an uncompressed tar archive.

    Attributes:
        archive: The archive.
        name: The file's path within it.
        offset: Where its content begins, in bytes.
        size: Its length, in bytes.
    """

    archive: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        """Name file and archive."""
        return f"{self.name} of {self.archive}"

    def read_bytes(self) -> bytes:
        """Read the file; the archive is opened for it, so that threads and processes share nothing.

        Raises:
            OSError: If the archive cannot be read.
            ValueError: If it ends before the file does.
        """
        with self.archive.open("rb") as archive:
            archive.seek(self.offset)
            content = archive.read(self.size)
        if len(content) < self.size:
            raise ValueError("the archive is cut off")
        return content


Sample = dict[str, TarMember]


def read_shard(archive: Path) -> dict[str, Sample]:
    """Return the files of each sample by extension, by the sample's key, reading nothing but the archive's headers.

    Raises:
        UserError: If it is no uncompressed tar archive, is cut off or damaged, or has a file twice.
    """
    samples: dict[str, Sample] = {}
    try:
        with archive.open("rb") as file:
            begin = file.read(8)
            for magic, name in _COMPRESSED.items():
                if begin.startswith(magic):
                    raise UserError(
                        f"{archive} is compressed ({name}): its images cannot be read one by one. Unpack it to a .tar; "
                        "JPEG and PNG files hardly get smaller by it."
                    )
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    _add(samples, archive, member)
                file.seek(tar.offset)
                ended = file.read(_BLOCK) == bytes(_BLOCK)
    except tarfile.TarError as error:
        raise UserError(
            f"{archive} is damaged, or no tar archive: {one_line(error)}. Copy it anew, or leave it out."
        ) from error
    except OSError as error:
        raise UserError(f"{archive} cannot be read: {error.strerror}. Allow it, or leave it out.") from error
    if not ended:  # tarfile takes a header that it cannot read for the end
        raise UserError(
            f"{archive} is damaged: it lacks the mark of its end, after {sum(map(len, samples.values()))} files. It "
            "was cut off, or not closed when it was written. Copy or write it anew, or leave it out."
        )
    return samples


def _add(samples: dict[str, Sample], archive: Path, member: tarfile.TarInfo) -> None:
    matched = _KEY_AND_EXTENSION.fullmatch(member.name.removeprefix("./"))
    if member.isdir() or matched is None:
        return
    if not member.isreg() or member.issparse():
        raise UserError(f"{archive} has {member.name!r}, a link or a sparse file. Write the files themselves into it.")
    key, extension = matched[1], matched[2].lower()
    sample = samples.setdefault(key, {})
    if extension in sample:
        raise UserError(
            f"{archive} has two files {extension!r} of the sample {key!r}. A sample is named by its path up to the "
            "first dot of its file's name: give each a name of its own."
        )
    sample[extension] = TarMember(archive, member.name, member.offset_data, member.size)


def find_shards(root: Path, pattern: str, flag: str) -> list[Path]:
    """List the archives that a pattern names, in the order of their paths.

    Args:
        root: Folder that a relative pattern starts from.
        pattern: A path with ``{000..012}``, ``{a,b}``, ``*``, ``?`` or ``[...]``; or that of one file.
        flag: The flag that gave it, for messages.

    Raises:
        UserError: If it names no file, or one that does not exist.
    """
    if not pattern.strip():
        raise UserError(f"{flag} is empty: give a pattern such as 'shards/train-{{000..012}}.tar'.")
    whole = root / Path(pattern).expanduser()
    if os.path.isfile(whole):  # noqa: PTH113 - no error for a long name
        return [whole]
    found: set[Path] = set()
    missing: list[str] = []
    for each in itertools.islice(_expanded(str(Path(pattern).expanduser()), flag), _MOST_SHARDS + 1):
        # Not Path.glob, which takes no absolute pattern.
        matches = [root / match for match in glob.iglob(each, root_dir=root, recursive=True)]  # noqa: PTH207
        files = {path for path in matches if path.is_file()}
        missing += [] if files else [str(root / each)]
        found |= files
    if len(found) + len(missing) > _MOST_SHARDS:
        raise UserError(f"{flag} {pattern!r} names more than {_MOST_SHARDS} files. Give a narrower pattern.")
    if missing:
        raise UserError(
            f"{flag} {pattern!r} names {first(missing)}: no such files. Patterns are such as 'train-{{000..012}}.tar' "
            "or 'train-*.tar', absolute or below --data.source.root."
        )
    return sorted(found)


def _expanded(pattern: str, flag: str) -> Iterator[str]:
    """Yield what braces stand for: numbers from first to last, as wide as written, or what commas separate."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        yield pattern
        return
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", braces[1])
    if numbers is None and "," not in braces[1]:
        raise UserError(
            f"{flag} has {braces[0]!r}. Allowed are numbers, such as {{000..012}}, and lists, such as {{a,b}}."
        )
    if numbers is not None:
        low, high = numbers.groups()
        width = max(len(low), len(high)) if "0" in (low[0] * (len(low) > 1), high[0] * (len(high) > 1)) else 0
        values: Iterator[str] = (f"{number:0{width}}" for number in range(int(low), int(high) + 1))
    else:
        values = iter(braces[1].split(","))
    for value in values:
        yield from _expanded(pattern[: braces.start()] + value + pattern[braces.end() :], flag)
