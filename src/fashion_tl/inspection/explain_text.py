"""What pictures and documents say about a run, in words and plain values."""

from __future__ import annotations

from typing import Any

from fashion_tl.inspection.explained_run import Subject
from fashion_tl.inspection.heatmaps import METHODS
from fashion_tl.inspection.panels import SCALE_NOTE, Explained


def stem(method: str) -> str:
    """Return what the files of a method's documents begin with."""
    return "explain" if method == "grad_cam" else f"explain_{method}"


def layer_words(subject: Subject) -> str:
    """Say which layer is looked at."""
    target = subject.target
    return f"Stage {target.stage} (layer {target.name}): {target.channels} channels of {target.side} x {target.side}"


def place_words(subject: Subject, method: str) -> str:
    """Say where the maps are taken from."""
    target = subject.target
    return f"stage {target.stage}, {target.side} x {target.side}" if method == "grad_cam" else "at the image itself"


def method_words(subject: Subject, method: str) -> str:
    """Say what a map is."""
    layer = f" {layer_words(subject)}." if method == "grad_cam" else ""
    return f"{METHODS[method]} of the predicted class.{layer} {SCALE_NOTE}"


def target_figures(subject: Subject) -> dict[str, Any]:
    """Return the layer as plain values."""
    target = subject.target
    return {"stage": target.stage, "layer": target.name, "channels": target.channels, "side": target.side}


def item_figures(item: Explained) -> dict[str, Any]:
    """Return an explained image as plain values."""
    return {
        "test image": item.index,
        "true": item.truth,
        "predicted": item.predicted,
        "confidence": item.confidence,
        "map": bool(item.heat.any()),
    }
