"""Files and names made to do harm: nothing in them is run, nothing outside the folders that a user gave is touched."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fashion_tl.cli import main
from fashion_tl.data.file_list import find_images
from fashion_tl.records.record import RunPaths, paths_of

from .conftest import Fit

NASTY = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}{% raw %}"
Output = pytest.CaptureFixture[str]


class Harm:
    """Leaves a file where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one small run with all that is computed of it."""
    folder = tmp_path_factory.mktemp("trained")
    for label in ("cat", "dog"):
        (folder / "pets" / label).mkdir(parents=True)
        for number in range(8):
            pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pets" / label / f"{number}.png")
    before = Path.cwd()
    os.chdir(folder)
    flags = ["--name", "run", "--data.source", "ImageFolder", "--data.source.root", str(folder / "pets")]
    flags += ["--data.image_size", "32", "--data.batch_size", "8", "--trainer.max_epochs", "1"]
    flags += ["--model", "TransferClassifier", "--model.backbone", "test_resnet", "--model.pretrained", "false"]
    try:
        assert main(["fit", *flags, "--trainer.enable_progress_bar", "false"]) == 0
        assert main(["diagnose", "run"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def run(trained: Path, workdir: Path) -> RunPaths:
    """A copy of it in a working directory of its own."""
    for name in ("pets", "lightning_logs", "checkpoints"):
        shutil.copytree(trained / name, workdir / name)
    return paths_of(Path("lightning_logs"), Path("checkpoints"), "run", 0)


def refused(capsys: Output, *args: object) -> str:
    """Run a command that has to be refused with one message; returns it."""
    capsys.readouterr()
    assert main([*map(str, args)]) == 2
    message = capsys.readouterr().err
    assert message.count("fashion-tl: error:") == 1
    assert "Traceback" not in message
    return message


# Pickles


def plain_pickle(canary: Path) -> bytes:
    return pickle.dumps({"state_dict": {}, "fashion_tl_module": Harm(canary)}, protocol=2)  # torch's own


def torch_pickle(canary: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": {}, "fashion_tl_module": Harm(canary)}, buffer)
    return buffer.getvalue()


def old_torch_pickle(canary: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": {}, "x": Harm(canary)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize("make", [plain_pickle, torch_pickle, old_torch_pickle])
def test_checkpoints_run_no_code(run: RunPaths, fit: Fit, capsys: Output, make: Callable[[Path], bytes]) -> None:
    canary = Path("canary").absolute()
    for path in (run.best, run.last, Path("other.ckpt")):
        path.write_bytes(make(canary))
    for args in (
        ("predict", run.best, "pets"),
        ("predict", "other.ckpt", "pets"),
        ("export", run.best, "exported"),
        ("explain", "run"),
        ("diagnose", "run"),
        ("robustness", "run"),
    ):
        assert "cannot be read as a checkpoint" in refused(capsys, *args)
    for flag in ("--ckpt_path", "--model.init_from"):
        capsys.readouterr()
        assert fit(flag, str(run.last), name="next") == 2
        assert "cannot be read as a checkpoint" in capsys.readouterr().err
    assert not canary.exists()
    assert not Path("exported").exists()
    assert not Path("lightning_logs/next").exists()


def test_arrays_run_no_code(run: RunPaths, capsys: Output) -> None:
    canary = Path("canary").absolute()
    arrays = [*run.logs.rglob("*.npz"), *Path("lightning_logs").glob("test_sets/*.npz")]
    assert len(arrays) >= 4
    for path in arrays:
        with np.load(path) as file:
            harmful: dict[str, Any] = {name: np.array([Harm(canary)], dtype=object) for name in file}
        np.savez(path, **harmful)
    assert main(["compare"]) == 0
    assert "test_predictions.npz is damaged" in refused(capsys, "diagnose", "run")
    assert main(["explain", "run"]) == 0  # it computes what it cannot read
    assert not canary.exists()


@pytest.mark.parametrize("verb", ["compare", "runs", "diagnose"])
def test_yaml_of_a_record_runs_no_code(run: RunPaths, verb: str) -> None:
    canary = Path("canary").absolute()
    text = f"seed_everything: !!python/object/apply:os.system ['touch {canary}']\n"
    (run.logs / "config.yaml").write_text(text, encoding="utf-8")
    assert main([verb, *(["run"] if verb == "diagnose" else [])]) in (0, 2)
    assert not canary.exists()


def test_costs_and_groups_run_no_code(run: RunPaths, capsys: Output) -> None:
    canary = Path("canary").absolute()
    Path("costs.yaml").write_text(f"!!python/object/apply:os.system ['touch {canary}']\n", encoding="utf-8")
    for flag in ("--costs", "--groups"):
        assert "costs.yaml" in refused(capsys, "diagnose", "run", flag, "costs.yaml")
    assert not canary.exists()


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "builtins.exec", "pathlib.Path", "torch.nn.Linear"])
def test_the_class_of_a_checkpoint_is_a_classifier(run: RunPaths, capsys: Output, path: str) -> None:
    checkpoint = torch.load(run.best, weights_only=True)
    torch.save({**checkpoint, "fashion_tl_module": path}, run.best)
    assert "is no subclass of" in refused(capsys, "predict", run.best, "pets")
    assert "is no subclass of" in refused(capsys, "explain", "run")


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "pathlib.Path"])
def test_the_source_of_a_record_is_a_source(run: RunPaths, capsys: Output, path: str) -> None:
    canary = Path("canary").absolute()
    config = yaml.safe_load((run.logs / "config.yaml").read_text(encoding="utf-8"))
    config["data"]["source"] = {"class_path": path, "init_args": {"args": f"touch {canary}", "shell": True}}
    (run.logs / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    record = json.loads((run.logs / "run.json").read_text(encoding="utf-8"))
    for checksums in ("sha256", "files"):  # who changes a file can change these
        record.pop(checksums, None)
    (run.logs / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert "is no subclass of" in refused(capsys, "diagnose", "run")
    assert not canary.exists()


# HTML


class Elements(HTMLParser):
    """Counts what a browser would run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts = 0
        self.events: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.events += [name for name, _ in attrs if name.startswith("on")]
        self.sources += [value for name, value in attrs if name in ("src", "href") and value]


@pytest.fixture
def nasty(run: RunPaths) -> RunPaths:
    """The run with HTML and templates in every text of its record, its configuration, figures and analyses."""

    def soiled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: soiled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [soiled(item) for item in value]
        return f"{value} {NASTY}" if isinstance(value, str) else value

    path = run.logs / "run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    kept = {name: record[name] for name in ("status", "sha256") if name in record}
    test_set = record["data"]["test_set"]
    record = soiled({**record, "study": {"system": "x", NASTY: "y"}}) | {"status": kept["status"]}
    record["data"]["test_set"] = test_set
    record.pop("sha256", None)
    path.write_text(json.dumps(record), encoding="utf-8")
    for analysis in (run.logs / "analysis").glob("*.json"):
        whole = json.loads(analysis.read_text(encoding="utf-8"))
        whole.pop("sha256", None)
        analysis.write_text(json.dumps({**soiled(whole), "pictures": whole.get("pictures", [])}), encoding="utf-8")
    (run.logs / "config.yaml").write_text(json.dumps({NASTY: NASTY, "name": NASTY}), encoding="utf-8")
    for name in ("lightning_logs", "checkpoints"):
        shutil.move(Path(name, "run"), Path(name, NASTY.replace("/", "\u2215")))
    return run


def test_html_stays_text_in_the_page(nasty: RunPaths) -> None:
    assert main(["compare"]) == 0
    text = Path("reports/index.html").read_text(encoding="utf-8")
    found = Elements(text)
    assert "alert(1)" in text
    assert "{{ 7*7 }}{% raw %}" in text
    assert found.scripts == 1
    assert found.events == []
    assert all(source.startswith(("#", "data:", "plots/", "comparison.")) for source in found.sources)
    for path in Path("reports/plots").glob("*.svg"):
        drawn = Elements(path.read_text(encoding="utf-8"))
        assert (drawn.scripts, drawn.events) == (0, [])
    assert "<script>alert" not in Path("reports/comparison.md").read_text(encoding="utf-8")


# Paths


@pytest.mark.parametrize("name", ["../x", "..", ".", "/x", "a/b", "a\\b", "-x", ".x", "x\n", "x\0", "~", "$HOME"])
def test_names_stay_in_their_folder(fit: Fit, capsys: Output, name: str) -> None:
    before = sorted(Path("..").iterdir())
    capsys.readouterr()
    assert fit(name=name) == 2
    assert "name" in capsys.readouterr().err
    assert sorted(Path("..").iterdir()) == before
    assert list(Path().iterdir()) == []


@pytest.mark.thorough
def test_pictures_of_an_analysis_are_files_beside_it(run: RunPaths) -> None:
    secret = Path("secret.png").absolute()
    shutil.copy("pets/cat/0.png", secret)
    for analysis in (run.logs / "analysis").glob("*.json"):
        whole = json.loads(analysis.read_text(encoding="utf-8"))
        whole.pop("sha256", None)
        for picture in (str(secret), "../../../../secret.png", "../../../../pets/cat/0.png"):
            whole["pictures"] = [{"file": picture, "alt": "a secret"}]
            analysis.write_text(json.dumps(whole), encoding="utf-8")
            assert main(["compare"]) == 0
            assert "is not a file beside it" in Path("reports/index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", ["explain", "diagnose", "robustness"])
@pytest.mark.parametrize("name", ["..", "../..", "/", "../run/../../pets", "version_0"])
def test_runs_lie_in_their_folder(run: RunPaths, capsys: Output, verb: str, name: str) -> None:
    before = sorted(Path().rglob("*"))
    refused(capsys, verb, name)
    assert sorted(Path().rglob("*")) == before


def test_links_that_lead_back_up_or_to_nothing_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "set/cat").mkdir(parents=True)
    (tmp_path / "set/cat/a.png").touch()
    (tmp_path / "set/cat/up").symlink_to("..")
    (tmp_path / "set/cat/loop").symlink_to("loop")
    (tmp_path / "set/cat/self").symlink_to(".")
    assert find_images(tmp_path / "set") == [tmp_path / "set/cat/a.png"]


def test_members_of_archives_are_never_unpacked(run: RunPaths, capsys: Output) -> None:
    path = run.logs / "test_predictions.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../../../../escaped.npy", str(Path("escaped.npy").absolute())):
            archive.writestr(name, b"x")
    assert "test_predictions.npz" in refused(capsys, "diagnose", "run")
    assert not Path("escaped.npy").exists()
    assert not list(Path("..").glob("escaped.npy"))


# Texts for a terminal


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names of files are text there")
def test_a_name_that_the_terminal_cannot_show(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9\x1b[31m")
    odd.mkdir()
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "FASHION_TL_CACHE_DIR": str(odd)}
    command = [sys.executable, "-m", "fashion_tl", "cache", "list"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"caf\udce9" in done.stdout
