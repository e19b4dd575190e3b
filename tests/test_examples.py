"""The scripts in examples/ do what they say."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training:UserWarning"),  # frozen
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),  # between torch and Lightning
    pytest.mark.filterwarnings("ignore:The .*dataloader.* does not have many workers"),  # tiny data
    pytest.mark.filterwarnings("ignore:The number of training batches"),  # tiny data
]


@pytest.mark.parametrize("name", [path.stem for path in sorted(FOLDER.glob("*.py"))])
def test_example(name: str, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("FASHION_TL_CACHE_DIR", str(workdir / "cache"))
    accuracy = importlib.import_module(name).main()
    assert accuracy > (0.25 if name == "new_objective" else 0.9)  # of 10 classes; of 2
