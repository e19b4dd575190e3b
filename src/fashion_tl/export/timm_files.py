"""A trained backbone as the files that timm loads: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
from typing import Any

from fashion_tl.training.transfer import TransferClassifier


def backbone_files(module: TransferClassifier) -> dict[str, bytes]:
    """Return the files of a backbone by name; its adapters are merged.

    Args:
        module: The classifier, whose head is left out.
    """
    from safetensors.torch import save

    from fashion_tl.models.lora import merge_adapters

    info, size = module.backbone_info, module.input_spec.image_size
    merge_adapters(info.module)
    config: dict[str, Any] = {
        "architecture": info.architecture,
        "num_classes": 0,
        "num_features": info.features,
        "model_args": {k: v for k, v in info.arguments.items() if k != "img_size"},
        "pretrained_cfg": {
            **{k: info.module.pretrained_cfg[k] for k in ("first_conv", "classifier", "pool_size")},  # type: ignore[index]
            "num_classes": 0,
            "input_size": [info.channels, size, size],
            "fixed_input_size": "img_size" in info.arguments,
            "interpolation": module.input_spec.interpolation,
            "mean": module.preprocess.mean.flatten().tolist(),
            "std": module.preprocess.std.flatten().tolist(),
        },
    }
    weights = save({k: v.contiguous() for k, v in info.module.state_dict().items()})
    return {"model.safetensors": weights, "config.json": (json.dumps(config, indent=2) + "\n").encode()}
