"""Backbones by name: from a folder, from a hub, and what is said when one cannot be had."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fashion_tl.errors import UserError
from fashion_tl.models.backbones import create_backbone, weights_hash

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


def write_backbone(
    folder: Path, num_classes: int = 0, architecture: str = "test_resnet", **arguments: Any
) -> nn.Module:
    """Write config.json and model.safetensors of a tiny network, as timm saves them; returns the network."""
    module: nn.Module = timm.create_model(architecture, num_classes=num_classes, **arguments)
    config: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": num_classes,
        "model_args": arguments,
        "pretrained_cfg": {
            **{key: module.pretrained_cfg[key] for key in ("first_conv", "classifier")},  # type: ignore[index]
            "input_size": [arguments.get("in_chans", 3), 160, 160],
            "fixed_input_size": architecture == "test_vit",
            "mean": MEAN[: arguments.get("in_chans", 3)],
            "std": STD[: arguments.get("in_chans", 3)],
        },
    }
    folder.mkdir(parents=True)
    save_file(module.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return module


def same(module: nn.Module, state: dict[str, Tensor]) -> bool:
    own = module.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], state[name]) for name in own)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", r"unknown backbone 'resnet81'; did you mean .*'resnet18'.*timm\.list_models\(\)"),
        ("resnet18.tv_in1", r"unknown weights of resnet18 'tv_in1'; did you mean 'tv_in1k'"),
        ("resnet18.tv_in1k.x", r"unknown weights of resnet18 'tv_in1k\.x'"),
        ("owner/name", r"'owner/name' needs a prefix: write 'hf-hub:owner/name' .* or 'local-dir:owner/name'"),
    ],
)
def test_a_wrong_name_tells_the_right_one(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_backbone(name, pretrained=False, image_size=32)


@pytest.mark.parametrize(
    ("backbone", "size", "message"),
    [
        ("inception_v3", 32, r"images of 32 px do not fit .*'inception_v3'.* trained at 299 px; .*--data\.image_size"),
        ("test_vit", 40, r"images of 40 px do not fit .*divisible by patch size.*--data\.image_size"),
    ],
)
def test_images_that_do_not_fit_name_the_setting(backbone: str, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_backbone(backbone, pretrained=False, image_size=size)


def test_an_unknown_argument_is_an_error() -> None:
    with pytest.raises(UserError, match=r"cannot build backbone 'test_resnet': .*'drop_pth'"):
        create_backbone("test_resnet", pretrained=False, image_size=32, arguments={"drop_pth": 0.1})


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_and_statistics_follow_an_argument(channels: int) -> None:
    made = create_backbone("resnet18", pretrained=False, image_size=32, arguments={"in_chans": channels})
    assert (made.channels, len(made.mean), len(made.std)) == (channels, channels, channels)
    assert sum(made.mean) / channels == pytest.approx((0.485 + 0.456 + 0.406) / 3)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (None, "config.json is missing .no such folder"),
        ({}, "config.json is missing .the folder is empty"),
        ({"weights.pth": ""}, "config.json is missing .weights.pth"),
        ({"config.json": "{"}, "config.json is not JSON"),
        ({"config.json": '{"num_classes": 0}'}, "names no 'architecture'"),
        ({"config.json": '["architecture"]'}, "names no 'architecture'"),
        ({"config.json": '{"architecture": "test_resne"}'}, r"cannot load .*Unknown model \(test_resne\)"),
    ],
)
def test_a_folder_that_is_no_backbone_says_what_is_missing(
    write: dict[str, str] | None, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "backbone"
    if write is not None:
        folder.mkdir()
        for name, text in write.items():
            (folder / name).write_text(text)
    with pytest.raises(UserError, match=message):
        create_backbone(f"local-dir:{folder}", pretrained=True, image_size=32)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), "No suitable checkpoints"),
        (lambda file: file.write_bytes(b"x" * 100), "deserializing header"),
        (lambda file: save_file({"other": torch.zeros(1)}, file), "loading state_dict.*Missing key"),
    ],
    ids=["missing", "corrupt", "other"],
)
def test_weights_that_cannot_be_read_are_an_error(spoil: Any, message: str, tmp_path: Path) -> None:
    write_backbone(tmp_path / "tiny")
    spoil(tmp_path / "tiny" / "model.safetensors")
    with pytest.raises(UserError, match=f"cannot load backbone .*{message}.*must hold config.json and its weights"):
        create_backbone(f"local-dir:{tmp_path / 'tiny'}", pretrained=True, image_size=32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pretrained", [True, False])
def test_a_folder_gives_weights_and_statistics(pretrained: bool, channels: int, tmp_path: Path) -> None:
    """Random weights come with the same statistics, for a run that goes on from a checkpoint asks for them."""
    saved = write_backbone(tmp_path / "tiny", in_chans=channels)
    name = f"local-dir:{tmp_path / 'tiny'}"
    made = create_backbone(name, pretrained, image_size=32)
    assert same(made.module, saved.state_dict()) == pretrained
    assert (weights_hash(made.module) == weights_hash(saved)) == pretrained
    assert made.weights == (name if pretrained else "random")
    assert (made.channels, made.mean, made.std) == (channels, MEAN[:channels], STD[:channels])
    assert (made.architecture, made.arguments, made.features) == ("test_resnet", {"in_chans": channels}, 96)

    rebuilt = create_backbone(made.architecture, pretrained=False, image_size=32, arguments=made.arguments)
    assert (rebuilt.channels, rebuilt.features) == (made.channels, made.features)
    rebuilt.module.load_state_dict(saved.state_dict())


def test_colour_filters_serve_grey_images(tmp_path: Path) -> None:
    saved = write_backbone(tmp_path / "tiny")
    made = create_backbone(f"local-dir:{tmp_path / 'tiny'}", True, 32, arguments={"in_chans": 1})
    first = "conv1.0.weight"
    torch.testing.assert_close(made.module.state_dict()[first], saved.state_dict()[first].sum(1, keepdim=True))
    assert (made.channels, *made.mean, *made.std) == pytest.approx((1, 0.2, 0.5))


def test_a_transformer_takes_another_image_size(tmp_path: Path) -> None:
    saved = write_backbone(tmp_path / "tiny", architecture="test_vit")
    made = create_backbone(f"local-dir:{tmp_path / 'tiny'}", pretrained=True, image_size=48)
    state, own = saved.state_dict(), made.module.state_dict()
    assert {name for name in own if own[name].shape != state[name].shape} == {"pos_embed"}
    assert own["pos_embed"].shape[1] - state["pos_embed"].shape[1] == 3 * 3 - 10 * 10
    assert made.arguments == {"img_size": 48}


def test_real_weights_load(real_backbone: str) -> None:
    made = create_backbone(real_backbone, pretrained=True, image_size=64)
    assert same(made.module, load_file(f"{real_backbone.removeprefix('local-dir:')}/model.safetensors"))
    assert (made.architecture, made.features, made.mean) == ("mobilenetv2_035", 1280, (0.5, 0.5, 0.5))
    assert made.arguments == {"pad_type": "same", "bn_eps": 0.001}


def point_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process use another hub, as HF_ENDPOINT (read at import) would."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub client without cache, token, proxy or any setting of the user."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_cache: None) -> Iterator[Path]:
    """A hub on this machine: what lies in this folder under OWNER/NAME is served."""
    served = tmp_path / "hub"
    served.mkdir()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            repository, _, file = self.path.partition("/resolve/main/")
            path = served / repository.strip("/") / file
            found = bool(file) and path.is_file()
            body = path.read_bytes() if found else b""
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", "0" * 40)
            etag = file if file.endswith(".json") else hashlib.sha256(body).hexdigest()  # as a hub has it
            self.send_header("ETag", f'"{etag}"') if found else self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server asks for

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        point_to(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        yield served
        huggingface_hub.close_session()
        server.shutdown()
        thread.join()


@pytest.fixture
def closed() -> str:
    """An address at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_hub_gives_weights_and_statistics(hub: Path, closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = write_backbone(hub / "owner" / "tiny", in_chans=1)
    made = create_backbone("hf-hub:owner/tiny", pretrained=True, image_size=32)
    assert same(made.module, saved.state_dict())
    assert (made.architecture, made.arguments) == ("test_resnet", {"in_chans": 1})
    assert (made.channels, made.mean, made.std, made.weights) == (1, MEAN[:1], STD[:1], "hf-hub:owner/tiny")

    point_to(closed, monkeypatch)  # what is in the cache needs no hub
    assert same(create_backbone("hf-hub:owner/tiny", pretrained=True, image_size=32).module, saved.state_dict())


@pytest.mark.parametrize("name", ["hf-hub:owner/tiny", "test_resnet.r160_in1k"])
def test_weights_that_are_not_those_of_the_hub_are_refused(hub: Path, tmp_path: Path, name: str) -> None:
    write_backbone(hub / "owner" / "tiny")
    write_backbone(hub / "timm" / "test_resnet.r160_in1k", num_classes=1000)
    create_backbone(name, pretrained=True, image_size=32)
    (kept,) = (path for path in (tmp_path / "cache").glob("*/blobs/*") if len(path.name) == 64)
    content = bytearray(kept.read_bytes())
    content[-3] ^= 1
    kept.write_bytes(content)
    with pytest.raises(UserError, match=rf"{kept.name} is damaged: .*Remove it to have it downloaded again"):
        create_backbone(name, pretrained=True, image_size=32)
    kept.unlink()
    create_backbone(name, pretrained=True, image_size=32)


def test_a_hub_gives_the_weights_of_a_tag_without_their_head(hub: Path) -> None:
    saved = write_backbone(hub / "timm" / "test_resnet.r160_in1k", num_classes=1000)
    made = create_backbone("test_resnet.r160_in1k", pretrained=True, image_size=32)
    assert same(made.module, {k: v for k, v in saved.state_dict().items() if not k.startswith("fc.")})
    assert (made.mean, made.weights) == ((0.5, 0.5, 0.5), "test_resnet.r160_in1k")


def test_a_transformer_of_a_hub_takes_another_image_size(hub: Path) -> None:
    write_backbone(hub / "owner" / "vit", architecture="test_vit")
    assert create_backbone("hf-hub:owner/vit", pretrained=True, image_size=32).arguments == {"img_size": 32}


def test_what_a_hub_does_not_have_is_an_error(hub: Path) -> None:
    with pytest.raises(UserError, match=r"cannot fetch backbone 'hf-hub:owner/tiny': .*404.*local-dir:FOLDER"):
        create_backbone("hf-hub:owner/tiny", pretrained=True, image_size=32)


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize(
    ("name", "pretrained", "way_out"),
    [
        ("hf-hub:owner/tiny", True, r"--model\.pretrained false"),
        ("hf-hub:owner/tiny", False, "an architecture's name alone"),
        ("test_resnet.r160_in1k", True, r"--model\.pretrained false"),
    ],
)
def test_without_a_hub_the_message_says_what_to_do(
    name: str, pretrained: bool, way_out: str, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_to(closed, monkeypatch)
    began = time.monotonic()
    with pytest.raises(UserError, match=f"cannot fetch backbone '{name}'.*local-dir:FOLDER.*HF_ENDPOINT.*{way_out}"):
        create_backbone(name, pretrained, image_size=32)
    assert time.monotonic() - began < 5
