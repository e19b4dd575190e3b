"""``fashion-tl export``: a trained backbone as files of timm."""

from __future__ import annotations

import json
from pathlib import Path

from fashion_tl.errors import UserError
from fashion_tl.files import replacing_folder, write_bytes, write_text


def export(checkpoint: Path, folder: Path) -> None:
    """Write a trained backbone so that `--model.backbone local-dir:FOLDER` loads it.

    Args:
        checkpoint: The best.ckpt of a run.
        folder: New folder to write config.json and model.safetensors into.

    Raises:
        UserError: If the checkpoint holds no timm backbone, or the folder holds files.
    """
    from safetensors.torch import save

    from fashion_tl.models.lora import merge_adapters
    from fashion_tl.training.loading import load_classifier
    from fashion_tl.training.transfer import TransferClassifier

    module = load_classifier(checkpoint)
    if not isinstance(module, TransferClassifier):
        raise UserError(f"{checkpoint} holds no timm backbone: only a TransferClassifier can be exported.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; name a new one.")
    info, size = module.backbone_info, module.input_spec.image_size
    merge_adapters(info.module)
    config = {
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
    with replacing_folder(folder) as draft:
        write_bytes(draft / "model.safetensors", save({k: v.contiguous() for k, v in info.module.state_dict().items()}))
        write_text(draft / "config.json", json.dumps(config, indent=2) + "\n")
    print(f"local-dir:{folder}")
