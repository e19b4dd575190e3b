"""Single faults of a disk: a run ends with the same weights, or stops with one message and goes on to them."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from fashion_tl.files import write_text

from .faults import KINDS, count_faults, every_fault, faults

pytestmark = pytest.mark.filterwarnings("ignore:.*`lr_scheduler.step\\(\\)`.*:UserWarning")


def test_a_fault_is_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "in" / "a"
    write_text(path, "old")
    for kind in ("write", "fsync", "rename"):
        with faults(tmp_path / "in", kind, 1) as found:
            if kind != "fsync":
                write_text(tmp_path / "b", "elsewhere")
            with pytest.raises(OSError, match="in/a") as caught:
                write_text(path, "new")
        assert caught.value.errno == KINDS[kind]
        assert found.failed
        assert path.read_text(encoding="utf-8") == "old"
    with faults(tmp_path, "read", 1), pytest.raises(OSError, match=str(errno.EIO)):
        path.read_text(encoding="utf-8")
    with faults(tmp_path, "write", 2) as found:
        write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "new"
    assert found.counts == {"write": 1, "fsync": 2, "rename": 1, "read": 0}


@pytest.mark.slow
@pytest.mark.thorough
def test_some_single_faults_end_in_the_same_weights_or_a_clear_stop(tmp_path: Path) -> None:
    counts = count_faults(tmp_path)
    assert min(counts.values()) > 8
    outcomes = list(every_fault(tmp_path, counts, lambda kind, n: n % (counts[kind] // 3) == 1))
    assert len(outcomes) >= 12
    assert [outcome for outcome in outcomes if outcome.what.startswith("WRONG")] == []
    assert {"stopped, resumed: same", "same"} <= {outcome.what for outcome in outcomes}
