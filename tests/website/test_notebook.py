"""The notebook's cells run, one after the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from website.check import ROOT


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training:UserWarning")  # frozen, on purpose
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")  # between torch and Lightning
def test_cells_run(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((ROOT / "examples" / "notebook.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5
    names: dict[str, object] = {"__name__": "notebook"}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"cell {number}", "exec"), names)  # noqa: S102 - our own notebook
    told = capsys.readouterr().out
    assert "True" in told  # the certificate
    assert "model.lr" in told
    assert "taken for" in told
    assert Path("reports/index.html").is_file()
    assert all(not cell.get("outputs") for cell in content["cells"])
