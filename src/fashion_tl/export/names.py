"""Names of the files of an export."""

from __future__ import annotations

LABELS, CARD = "labels.txt", "README.md"
ONNX, INT8, PROGRAM, WEIGHTS, CONFIG = (
    "model.onnx",
    "model.int8.onnx",
    "model.pt2",
    "model.safetensors",
    "config.json",
)
NETWORKS = (ONNX, INT8, PROGRAM, WEIGHTS)
