"""Lays out what the sides read: images, split, weights, activations. Each is made once and kept."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.fashion_mnist import FashionMNIST

FILES = tuple(f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
STATISTICS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def images(source: Path, target: Path) -> None:
    """Lay Fashion-MNIST out as torchvision's download leaves it."""
    raw = target / "FashionMNIST" / "raw"
    if all((raw / name).is_file() for name in FILES):
        return
    raw.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        packed = source / "FashionMNIST" / "raw" / f"{name}.gz"
        if packed.is_file():
            shutil.copyfile(packed, raw / packed.name)
            (raw / name).write_bytes(gzip.decompress(packed.read_bytes()))
        else:
            shutil.copyfile(packed.with_suffix(""), raw / name)


def weights(folder: Path) -> None:
    """Save randomly initialised weights of ResNet-18 as timm does, so that all sides start from the same."""
    if (folder / "model.safetensors").is_file():
        return
    torch.manual_seed(0)
    network: Any = timm.create_model("resnet18", pretrained=False, num_classes=0)
    config = {
        "architecture": "resnet18",
        "num_classes": 0,
        "num_features": network.num_features,
        "pretrained_cfg": {
            **{key: network.pretrained_cfg[key] for key in ("input_size", "pool_size", "first_conv", "classifier")},
            "num_classes": 0,
            "interpolation": "bilinear",
            **STATISTICS,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(network.state_dict(), folder / "model.safetensors")


def split(data: ImageDataModule, file: Path) -> None:
    """Write the indices that ``fashion-tl fit`` trains on and validates with."""
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, train=data.splits["train"].indices.numpy(), val=data.splits["val"].indices.numpy())


def activations(data: ImageDataModule, backbone: Path, folder: Path, top: bool) -> None:
    """Store what the frozen part of ResNet-18 gives: below layer4 as (N, H, W, C), or the pooled features (N, F)."""
    if (folder / "done").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    network: Any = timm.create_model(f"local-dir:{backbone}", pretrained=True, num_classes=0).eval()
    network.to(memory_format=torch.channels_last)
    if top:
        network.layer4 = network.global_pool = torch.nn.Identity()
    for part, chosen in data.splits.items():
        rows = torch.cat(list(_forward(network, data, part)))
        np.save(folder / f"{part}-rows.npy", rows.numpy())
        np.save(folder / f"{part}-labels.npy", chosen.labels.numpy())
    (folder / "done").touch()


@torch.inference_mode()
def _forward(network: Any, data: ImageDataModule, part: str) -> Iterator[Tensor]:  # noqa: ANN401 - a timm network
    mean, std = (torch.tensor(STATISTICS[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    for batch in data.in_order(part, 256):
        found = network(((data.prepare(batch) - mean) / std).contiguous(memory_format=torch.channels_last))
        yield found.permute(0, 2, 3, 1).contiguous() if found.ndim == 4 else found


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder to write to")
    parser.add_argument("--images", type=int, nargs="+", default=[], help="training images; 0 for all of them")
    parser.add_argument("--top", type=int, help="training images whose activations below layer4 are needed")
    parser.add_argument("--head", type=int, help="training images whose features are needed")
    options = parser.parse_args()
    source = Path(os.environ.get("FASHION_TL_DATA_DIR") or "data").expanduser()
    root, backbone = options.work / "data", options.work / "weights" / "resnet18"
    images(source, root)
    weights(backbone)
    for count in {*options.images, options.top, options.head} - {None}:
        per_class = count // 10 if count else None
        data = ImageDataModule(FashionMNIST(root), image_size=64, per_class=per_class)
        data.setup()
        split(data, options.work / f"split-{count}.npz")
        for name, wanted in (("top", options.top), ("head", options.head)):
            if wanted == count:
                activations(data, backbone, options.work / f"{name}-{count}", name == "top")


if __name__ == "__main__":
    main()
