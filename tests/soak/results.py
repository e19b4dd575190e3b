"""What a case of the soak has shown, and the folder of its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

IDENTICAL, REFUSED, TOLD, IN_TIME, SKIPPED = "identical", "refused", "told", "in time", "skipped"
DIFFERENT, SILENT, HANG, SLOW = "different", "silent", "hang", "slow"
TRACEBACK, LEFTOVERS, STATUS = "traceback", "leftovers", "wrong end"
GOOD = (IDENTICAL, REFUSED, TOLD, IN_TIME, SKIPPED)


@dataclass(frozen=True)
class Result:
    """One case.

    Attributes:
        row: The row of the table that it counts in.
        case: What was done, so that it can be done again.
        outcome: One of ``GOOD``, else what is wrong.
        detail: The message of a refusal, or what is wrong.
        commands: Command lines, in order.
        figures: Measurements, such as the seconds from a signal to the end.
    """

    row: str
    case: str
    outcome: str
    detail: str = ""
    commands: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return self.outcome in GOOD

    def line(self) -> str:
        """Return it as a line of JSON."""
        return json.dumps(asdict(self))


Case = Callable[[Path], Result]
