"""A classifier as one plain network: adapters merged, preprocessing as matrix products where it is wanted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fashion_tl.data.transforms import InputSpec, Preprocess, interpolate, to_float, to_grey
from fashion_tl.errors import UserError
from fashion_tl.models.lora import merge_adapters
from fashion_tl.training.classifier import ImageClassifier


def resize_matrix(stored: int, size: int, interpolation: str) -> Tensor:
    """Compute the matrix (size, stored), float32, that resizes one axis: a resize at fixed sizes is a linear map.

    Runtimes differ in how they resize, with antialias above all; in matrix products they do not.

    Args:
        stored: Pixels before.
        size: Pixels after.
        interpolation: One of ``data.transforms.INTERPOLATIONS``.
    """
    # The identity as an image whose height alone is resized; columns of one pixel come out wrong from torch.
    identity = torch.eye(stored, dtype=torch.float64)[None, None]
    return interpolate(identity, (size, stored), interpolation)[0, 0].float().contiguous()


class MatrixPreprocess(nn.Module):
    """What ``Preprocess`` does, for images of one size, in operations that every runtime has.

    Args:
        preprocess: The preprocessing.
        stored: Height and width of the images that come, in pixels.
    """

    mean: Tensor
    std: Tensor
    matrix: Tensor | None

    def __init__(self, preprocess: Preprocess, stored: int) -> None:
        super().__init__()
        spec: InputSpec = preprocess.spec
        self.channels, self.clamps = preprocess.channels, spec.interpolation == "bicubic"
        self.register_buffer("mean", preprocess.mean.detach().clone())
        self.register_buffer("std", preprocess.std.detach().clone())
        resizes = stored != spec.image_size
        matrix = resize_matrix(stored, spec.image_size, spec.interpolation) if resizes else None
        self.register_buffer("matrix", matrix)

    def forward(self, images: Tensor) -> Tensor:
        """Prepare images (B, C, stored, stored), uint8 or float in 0 to 1; returns (B, channels, size, size)."""
        images = to_float(images)
        if images.shape[1] == 3 and self.channels == 1:
            images = to_grey(images)
        if self.matrix is not None:
            images = self.matrix @ images @ self.matrix.T
            images = images.clamp(0, 1) if self.clamps else images
        if images.shape[1] == 1 and self.channels > 1:
            images = images.expand(-1, self.channels, -1, -1)
        return (images - self.mean) / self.std


class PlainNetwork(nn.Module):
    """Maps images to logits (B, K), float32.

    Args:
        network: What computes logits of prepared images.
        preprocess: What prepares images, or None if they come prepared.
    """

    def __init__(self, network: nn.Module, preprocess: MatrixPreprocess | None) -> None:
        super().__init__()
        self.preprocess, self.network = preprocess, network

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits."""
        logits: Tensor = self.network(images if self.preprocess is None else self.preprocess(images))
        return logits.float()


def plain_network(module: ImageClassifier, preprocessing: bool) -> PlainNetwork:
    """Turn a classifier into a plain network in eval mode, float32, on the CPU; the classifier is used up.

    Args:
        module: The classifier. Its adapters are merged; members of an ensemble prepare their images by matrices.
        preprocessing: Whether it takes images as stored, else as the network sees them.

    Raises:
        UserError: If its class computes logits in a way of its own.
    """
    if not module.is_plain:
        raise UserError(
            f"{type(module).__name__} computes its logits in a way of its own (forward, logits, a hook), which is not "
            "exported: export it yourself, by torch.export."
        )
    network, stored = module.network.cpu().float(), module.input_spec.stored
    merge_adapters(network)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Preprocess):
                setattr(parent, name, MatrixPreprocess(child, stored))
    prepare = MatrixPreprocess(module.preprocess.cpu(), stored) if preprocessing else None
    return PlainNetwork(network.to(memory_format=torch.contiguous_format), prepare).eval().requires_grad_(False)


def input_shape(module: ImageClassifier, preprocessing: bool) -> tuple[int, int, int]:
    """Return channels, height and width of an image that the plain network takes."""
    spec = module.input_spec
    if preprocessing:
        return spec.channels, spec.stored, spec.stored
    return module.preprocess.channels, spec.image_size, spec.image_size
