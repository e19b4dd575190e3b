"""Fashion-MNIST (Xiao et al. 2017), by torchvision's addresses, download and checksums."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from fashion_tl.data.batches import fingerprint
from fashion_tl.data.idx import find_idx, read_idx
from fashion_tl.data.images import InMemoryImages
from fashion_tl.data.sources import Loaded, Source, data_root
from fashion_tl.errors import UserError

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class FashionMNIST(Source):
    """Fashion-MNIST's official training and test sets: 60,000 and 10,000 grey images of 28 pixels.

    Missing files are downloaded. Compressed ones are checked against torchvision's checksums and read in place, so a
    folder that cannot be written to is enough.

    Args:
        root: Folder that holds ``FashionMNIST/raw``; else FASHION_TL_DATA_DIR, else "data".
    """

    class_names = CLASS_NAMES
    channels = 1
    storage_size = 28

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = data_root(root)

    def load(self) -> Loaded:
        """Read the four files, downloading what is missing.

        Raises:
            UserError: If a file is damaged, or missing and cannot be downloaded.
        """
        train, test = self._read("train"), self._read("t10k")
        prints = fingerprint(train.images, train.labels, test.images, test.labels)
        return Loaded(train, test, prints)

    def _read(self, part: str) -> InMemoryImages:
        from torchvision import datasets
        from torchvision.datasets.utils import check_integrity

        raw = self.root / "FashionMNIST" / "raw"
        sums = {name: md5 for name, md5 in datasets.FashionMNIST.resources if name.startswith(part)}
        if not all(find_idx((raw / name).with_suffix("")) for name in sums):
            self._download(raw)
        tensors = []
        for name, md5 in sorted(sums.items()):
            path = raw / name
            if path.is_file() and not check_integrity(str(path), md5):
                raise UserError(
                    f"{path} is damaged: its MD5 is not {md5}. Delete it and run the same command again to download "
                    "it, or set --data.source.root (or FASHION_TL_DATA_DIR) to a folder with good files."
                )
            tensors.append(read_idx(path if path.is_file() else path.with_suffix("")))
        images, labels = tensors
        top = max(labels.flatten().tolist(), default=0)
        if labels.ndim != 1 or images.shape != (len(labels), 28, 28) or top >= len(CLASS_NAMES):
            raise UserError(
                f"the {part} files in {raw} are damaged or do not belong together: images of shape "
                f"{tuple(images.shape)}, labels of shape {tuple(labels.shape)} up to {top}. Delete them to have them "
                "downloaded again."
            )
        return InMemoryImages(images.unsqueeze(1), labels.long())

    def _download(self, raw: Path) -> None:
        from torchvision import datasets

        try:
            datasets.FashionMNIST(str(self.root), download=True)
        except (OSError, RuntimeError) as error:
            for made in (raw, raw.parent, self.root):
                with suppress(OSError):  # not empty, or never made
                    made.rmdir()
            reason = " ".join(str(error).split()).rstrip(":")
            raise UserError(
                f"Fashion-MNIST is not in {raw} and cannot be downloaded ({reason}). Put the four files *-ubyte.gz "
                "there, or name the folder that holds FashionMNIST/raw with --data.source.root, DATA_DIR (make) or "
                "FASHION_TL_DATA_DIR. `--data.source SyntheticGarments` needs no download."
            ) from error
