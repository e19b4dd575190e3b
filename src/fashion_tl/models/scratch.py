"""Convolutional networks to train from scratch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fashion_tl.errors import UserError, check_ranges

MOST = 8192  # filters or units of a layer
DEEPEST = 100  # residual blocks at one resolution


def _check(widths: Sequence[int], **counts: int) -> None:
    """Raise one UserError for all layers that are too small or too large."""
    ranges = {name: (count, 1, MOST) for name, count in counts.items()}
    ranges |= {f"widths[{i}]": (width, 1, MOST) for i, width in enumerate(widths)}
    check_ranges(ranges, "model.network_args.")


class PlainCNN(nn.Module):
    """A plain stack of convolution blocks, each halving the image, as introductory studies build them.

    Args:
        in_channels: Channels of the images.
        widths: Filters of each block; there are as many blocks.
        convs: 3x3 convolutions in each block.
        norm: Whether BatchNorm follows each convolution.
        dropout: Dropout after each block and before the head, 0 to 1.
        hidden: Units of a fully connected layer over the flattened features, or None for global average pooling.
        image_size: Height and width of the images in pixels; the flattened features depend on it.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int] = (32, 64, 128),
        convs: int = 1,
        norm: bool = True,
        dropout: float = 0.0,
        hidden: int | None = None,
        image_size: int = 28,
    ) -> None:
        super().__init__()
        _check(widths, convs=convs, hidden=1 if hidden is None else hidden)
        size = image_size >> len(widths)
        if not widths or size < 1:
            raise UserError(
                f"model.network_args.widths has {len(widths)} blocks, each halving the image: {image_size} px allow "
                f"1 to {image_size.bit_length() - 1}."
            )
        channels = in_channels
        for i, width in enumerate(widths):
            layers: list[nn.Module] = []
            for _ in range(convs):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=not norm)]
                layers += [nn.BatchNorm2d(width)] if norm else []
                layers += [nn.ReLU()]
                channels = width
            layers += [nn.MaxPool2d(2)] + ([nn.Dropout(dropout)] if dropout > 0 else [])
            self.add_module(f"block{i + 1}", nn.Sequential(*layers))
        dense: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        if hidden is not None:
            dense = [nn.Flatten(), nn.Linear(channels * size * size, hidden), nn.ReLU()]
        if dropout > 0:
            dense.append(nn.Dropout(dropout))
        self.dense = nn.Sequential(*dense)
        self.features = channels if hidden is None else hidden

    def forward(self, images: Tensor) -> Tensor:
        """Compute features (B, ``features``) of images (B, C, H, W)."""
        for block in self.children():
            images = block(images)
        return images


class LightCNN(nn.Module):
    """A small residual network in the manner of ResNet-9 (Page 2018), below half a million parameters.

    Args:
        in_channels: Channels of the images.
        widths: Filters at full, half and quarter resolution.
        blocks: Residual blocks at full, half and quarter resolution.
        dropout: Dropout before the head, 0 to 1.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int] = (32, 64, 112),
        blocks: Sequence[int] = (0, 1, 1),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check(widths)
        repeats = {f"blocks[{i}]": (count, 0, DEEPEST) for i, count in enumerate(blocks)}
        check_ranges(repeats, "model.network_args.")
        for name, values in (("widths", widths), ("blocks", blocks)):
            if len(values) != 3:
                raise UserError(f"model.network_args.{name} has {len(values)} values; network 'light' needs 3.")
        first, second, third = widths
        stem, middle, top = ([_Residual(w) for _ in range(n)] for w, n in zip(widths, blocks, strict=True))
        self.stem = nn.Sequential(_ConvNorm(in_channels, first), *stem, nn.MaxPool2d(2))
        self.middle = nn.Sequential(_ConvNorm(first, second), *middle, nn.MaxPool2d(2))
        self.top = nn.Sequential(
            _ConvNorm(second, third),
            *top,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            *([nn.Dropout(dropout)] if dropout > 0 else []),
        )
        self.features = third
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Compute features (B, ``features``) of images (B, C, H, W), H and W at least 4."""
        features: Tensor = self.top(self.middle(self.stem(images)))
        return features


class _ConvNorm(nn.Sequential):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_ConvNorm(channels, channels), _ConvNorm(channels, channels))

    def forward(self, features: Tensor) -> Tensor:
        return features + self.body(features)  # type: ignore[no-any-return]
