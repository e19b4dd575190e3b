"""Every input that makes no sense: exit status 2, one message, nothing done and nothing left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fashion_tl.cli import main

from . import bad_input

SMALL = (
    *("--data.source", "SyntheticGarments", "--data.source.num_train", "120", "--data.batch_size", "32"),
    *("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"),
)
SCRATCH = (*SMALL, "--model", "ScratchClassifier", "--model.network", "plain", "--model.network_args={widths: [3, 4]}")
BACKBONE = ("--model", "TransferClassifier", "--model.backbone", "test_resnet", "--model.pretrained", "false")
TRANSFER = (*SMALL, *BACKBONE, "--data.image_size", "32")
INTERNALS = ("Traceback", "Parser key", "jsonargparse", "<class ", "Namespace(", "NestedArg", "usage:", "typing.")

pytestmark = pytest.mark.slow

FLAGS, FILES, OTHERS = (dict(cases()) for cases in (bad_input.flag_cases, bad_input.file_cases, bad_input.other_cases))
SOURCES = dict(bad_input.source_cases())
BACKBONES = [(name, value) for name, values in bad_input.TRANSFER.items() for value in values]


@pytest.fixture
def refused(workdir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Run a case and return its message, having seen that it is one and that nothing was left."""
    bad_input.make_files(workdir)
    monkeypatch.setenv("FASHION_TL_CACHE_DIR", str(workdir / "cache"))

    def run(verb: str, *args: str) -> str:
        before = found(workdir)
        status = main([verb, *args])
        out, err = capfd.readouterr()
        assert status == 2, (out, err)
        assert err.startswith("fashion-tl: error: ")
        assert 1 <= len(err.splitlines()) <= 3, err
        assert len(err) < 1500, err
        assert [word for word in INTERNALS if word in err] == [], err
        assert out == ""
        assert found(workdir) == before
        return err

    return run


def found(folder: Path) -> dict[str, int]:
    """Tell names and sizes of all that lies below a folder."""
    paths = [Path(top, name) for top, folders, files in os.walk(folder) for name in (*folders, *files)]
    return {str(path): path.lstat().st_size for path in paths}


def test_there_are_at_least_700_inputs() -> None:
    assert len(FLAGS) + len(FILES) + len(OTHERS) + len(BACKBONES) >= 700


@pytest.mark.parametrize("case", FLAGS.values(), ids=FLAGS)
@pytest.mark.thorough(keep=128)
def test_a_flag(refused, case: bad_input.Case) -> None:
    refused("fit", *SCRATCH, *case[1:])


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
@pytest.mark.thorough(keep=60)
def test_a_configuration(refused, workdir: Path, content: str) -> None:
    (workdir / "a_config.yaml").write_text(content)
    message = refused("fit", *SCRATCH, "-c", "a_config.yaml")
    assert len(message.split()) > 5
    assert not (workdir / "canary").exists()


@pytest.mark.parametrize("case", OTHERS.values(), ids=OTHERS)
def test_arguments_and_verbs(refused, case: bad_input.Case) -> None:
    given = SCRATCH if case[0] in ("fit", "test", "validate") else ()
    refused(case[0], *given, *case[1:])


@pytest.mark.parametrize("case", SOURCES.values(), ids=SOURCES)
@pytest.mark.thorough(keep=30)
def test_a_source(refused, workdir: Path, case: bad_input.Case) -> None:
    bad_input.make_sources(workdir)
    network = ("--model", "ScratchClassifier", "--model.network", "plain", "--model.network_args={widths: [3, 4]}")
    refused(*case, *network, "--trainer.max_epochs", "1")


@pytest.mark.parametrize(("name", "value"), BACKBONES, ids=[f"{name} {value}" for name, value in BACKBONES])
def test_a_backbone(refused, name: str, value: str) -> None:
    refused("fit", *TRANSFER, f"--{name}={value}")
