"""Small networks of every kind, with random weights from one seed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fashion_tl.models.backbones import create_backbone
from fashion_tl.models.scratch import LightCNN, PlainCNN
from fashion_tl.models.staged import StagedNetwork, divide_by_children, divide_timm
from fashion_tl.training.scratch import ScratchClassifier

SWIN = {"embed_dim": 12, "depths": (1, 1, 1), "num_heads": (1, 2, 2)}


def scratch(body: LightCNN | PlainCNN) -> StagedNetwork:
    torch.manual_seed(0)
    return StagedNetwork(body, nn.Linear(body.features, 3), divide_by_children(body)).eval()


def transfer(name: str, size: int, arguments: dict[str, Any] | None = None) -> StagedNetwork:
    torch.manual_seed(0)
    made = create_backbone(name, False, size, SWIN if name.startswith("swin_") else arguments)
    return StagedNetwork(made.module, nn.Linear(made.features, 3), divide_timm(made.module)).eval()


def classifier() -> ScratchClassifier:
    torch.manual_seed(0)
    spec = {"channels": 1, "storage_size": 28, "image_size": 28}
    return ScratchClassifier(["a", "b", "c"], input_spec=spec, network_args={"widths": [4, 8, 8]}).eval()
