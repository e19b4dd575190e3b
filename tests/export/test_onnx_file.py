"""Networks as ONNX files; skipped without onnx, onnxruntime and onnxscript."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fashion_tl.cli import main
from fashion_tl.export.network import plain_network
from fashion_tl.export.onnx_file import OnnxSession, largest_difference, onnx_model, quantised
from fashion_tl.inspection.inference import classify
from fashion_tl.training.scratch import ScratchClassifier
from fashion_tl.training.transfer import TransferClassifier

from .conftest import SIZES, Save
from .test_network import ensemble, images

for _name in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(_name)

pytestmark = pytest.mark.slow

# With arguments that make them small, where they have some.
FAMILIES: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "mobilenetv2_035": {},
    "efficientnet_lite0": {},
    "test_convnext": {},
    "test_vit": {},
    "regnetx_002": {},
    "densenet121": {"growth_rate": 8, "block_config": [1, 1, 1, 1]},
    "mixer_s32_224": {},
}


@pytest.mark.parametrize("backbone", FAMILIES)
@pytest.mark.thorough(keep=2)
def test_logits_of_a_family_of_backbones(backbone: str) -> None:
    torch.manual_seed(0)
    spec = {**SIZES, "image_size": 64}
    arguments = FAMILIES[backbone] or None
    module = TransferClassifier(
        ["a", "b", "c"], backbone, pretrained=False, backbone_args=arguments, input_spec=spec
    ).eval()
    pairs = [(batch, classify(module, batch)) for batch in (images(count=1), images(count=6))]
    model = onnx_model(plain_network(module, True), images(count=2), {})
    assert model.kept_float
    largest, count = largest_difference(OnnxSession(model.content), pairs)
    assert count == 7
    assert largest <= 1e-4


def test_an_ensemble(capsys: pytest.CaptureFixture[str], save: Save) -> None:
    assert main(["export", str(save(ensemble())), "out", "--format", "onnx"]) == 0
    assert "on 1,000 generated images" in capsys.readouterr().out


@pytest.mark.thorough
def test_adapters(adapted: TransferClassifier, save: Save) -> None:
    path, expected = save(adapted), classify(adapted, images())
    assert main(["export", str(path), "out", "--format", "onnx", "--input_type", "float32"]) == 0
    found = OnnxSession(Path("out/model.onnx").read_bytes())(images().float() / 255)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_a_file_runs_without_this_package_and_without_torch(scratch: ScratchClassifier, save: Save) -> None:
    path, expected = save(scratch), classify(scratch, images())
    assert main(["export", str(path), "out", "--format", "onnx"]) == 0
    np.save("images.npy", images().numpy())
    script = """
import sys
sys.modules["fashion_tl"] = sys.modules["torch"] = sys.modules["timm"] = None
import numpy, onnxruntime
session = onnxruntime.InferenceSession("out/model.onnx", providers=["CPUExecutionProvider"])
numpy.save("logits.npy", session.run(["logits"], {"images": numpy.load("images.npy")})[0])
print(session.get_modelmeta().custom_metadata_map["class_names"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["a", "b, c", "d|e"]
    np.testing.assert_allclose(np.load("logits.npy"), expected.numpy(), atol=1e-4)


def test_a_file_says_what_it_takes_and_nothing_of_this_machine(scratch: ScratchClassifier) -> None:
    import onnx

    model = onnx_model(plain_network(scratch, True), images(count=2), {"class_names": "[]"})
    found = onnx.load_from_string(model.content)
    onnx.checker.check_model(found)
    assert {entry.key: entry.value for entry in found.metadata_props} == {"class_names": "[]"}
    shape = [dim.dim_param or dim.dim_value for dim in found.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 1, 28, 28]
    assert found.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    for secret in (b"site-packages", b".py", b"fashion_tl"):
        assert secret not in model.content


def test_without_preprocessing_it_takes_what_the_network_sees(scratch: ScratchClassifier, save: Save) -> None:
    path, seen, expected = save(scratch), scratch.preprocess(images()), classify(scratch, images())
    assert main(["export", str(path), "out", "--format", "onnx", "--preprocessing", "false"]) == 0
    found = OnnxSession(Path("out/model.onnx").read_bytes())(seen.contiguous())
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_quantising_leaves_the_preprocessing_alone(scratch: ScratchClassifier) -> None:
    import onnx

    model = onnx_model(plain_network(scratch, True), images(count=2), {})
    small = quantised(model, [images(count=40), images(count=24)])
    graph = onnx.load_from_string(small).graph
    kinds = {node.op_type for node in graph.node}
    scales = {tuple(one.dims) for one in graph.initializer if one.name.endswith("weight_scale")}
    assert {(3,), (4,)} <= scales  # one for each channel of a convolution
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert "MatMul" in kinds  # of the resize
    expected, found = (OnnxSession(content)(images()) for content in (model.content, small))
    assert np.abs(expected - found).max() < 0.1 * np.abs(expected).max()
