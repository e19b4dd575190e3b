"""Fashion-MNIST (Xiao et al. 2017): its files, read in place or downloaded, and checked."""

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
ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
# SHA-256 of the four files, decompressed.
CONTENTS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


class FashionMNIST(Source):
    """Fashion-MNIST's official training and test sets: 60,000 and 10,000 grey images of 28 pixels.

    Missing files are downloaded. Compressed or not they are read in place, so that a folder that cannot be written to
    is enough, and their content is checked: images or labels of your own need a source of your own.

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

    def is_at_hand(self) -> bool:
        """Say whether all four files are there."""
        return all(find_idx(self.root / "FashionMNIST" / "raw" / name) for name in CONTENTS)

    def _read(self, part: str) -> InMemoryImages:
        raw = self.root / "FashionMNIST" / "raw"
        tensors = []
        for name, sha256 in CONTENTS.items():
            if name.startswith(part):
                path = find_idx(raw / name) or self._download(raw / f"{name}.gz", sha256)
                try:
                    tensors.append(read_idx(path, sha256))
                except UserError as error:
                    raise UserError(
                        f"{error} Run the same command again to have it downloaded, or set --data.source.root (or "
                        "FASHION_TL_DATA_DIR) to a folder with good files. For images or labels of your own: "
                        "--data.source ImageFolder."
                    ) from error
        images, labels = tensors
        return InMemoryImages(images.unsqueeze(1), labels.long())

    def _download(self, path: Path, sha256: str) -> Path:
        from fashion_tl.data.download import download  # with urllib, which a run with its data can do without

        raw = path.parent
        try:
            download(ADDRESS + path.name, path, lambda draft: read_idx(draft, sha256))
        except OSError as error:
            for made in (raw, raw.parent, self.root):
                with suppress(OSError):  # not empty, or never made
                    made.rmdir()
            raise UserError(
                f"Fashion-MNIST is not in {raw} and cannot be downloaded ({error}). Put the four files *-ubyte.gz "
                "there, or name the folder that holds FashionMNIST/raw with --data.source.root, DATA_DIR (make) or "
                "FASHION_TL_DATA_DIR. `--data.source SyntheticGarments` needs no download."
            ) from error
        return path
