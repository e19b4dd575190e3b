"""``fashion-tl stages``: the stages of a backbone."""

from __future__ import annotations


def stages(backbone: str, image_size: int = 224) -> None:
    """List the stages of a backbone, which are the boundaries it can train from, with their parameters.

    Args:
        backbone: Any name that timm knows.
        image_size: Height and width of the images in pixels.
    """
    from torch import nn

    from fashion_tl.models.backbones import create_backbone
    from fashion_tl.models.staged import StagedNetwork, divide_timm

    info = create_backbone(backbone, pretrained=False, image_size=image_size)
    network = StagedNetwork(info.module, nn.Identity(), divide_timm(info.module))
    counts = [0] * len(network.stage_names)
    for _, stage, parameter in network.staged_parameters():
        counts[stage] += parameter.numel()
    width = max(len(name) for name in network.stage_names)
    for name, count in zip(network.stage_names, counts, strict=True):
        print(f"{name:{width}} {count:>12,} parameters")
    print(f"{info.features} features, images of {info.channels} channels, mean {info.mean}, std {info.std}")
