"""``fashion-tl runs``: a table of the recorded runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fashion_tl.errors import UserError, unknown_name


def runs(*names: str, log_dir: Path = Path("lightning_logs"), newest: bool = False) -> None:
    """List the recorded runs.

    Args:
        names: Names of runs; all if none is given.
        log_dir: Folder of all records.
        newest: Only the newest completed version of each name.

    Raises:
        UserError: If there is no such run.
    """
    from rich.console import Console
    from rich.table import Column, Table

    from fashion_tl.records.record import COMPLETED, all_records

    heads = (
        *("run", "version", "status", "test accuracy", "balanced accuracy", "macro F1"),
        *("trained / all parameters", "epochs", "seconds"),
    )
    table = Table(*(Column(head, overflow="fold") for head in heads))
    rows: dict[str, list[list[str]]] = {}
    known: dict[str, None] = {}
    for folder, record in all_records(log_dir):
        name, number = folder.parent.name, folder.name.removeprefix("version_")
        known[name] = None
        if names and name not in names:
            continue
        if isinstance(record, UserError):
            print(record, file=sys.stderr)
            continue
        if newest and record["status"] != COMPLETED:
            continue
        row = [name, number, *_columns(record)]
        rows[name] = [row] if newest else [*rows.get(name, []), row]
    missing = [name for name in names if name not in rows]
    for name in missing:
        if known and name not in known:
            raise unknown_name("run", name, known, f"These are in {log_dir}.")
    if missing or not rows:
        kind = "completed" if newest else "recorded"
        raise UserError(f"no {kind} run {'of the name ' + ', '.join(missing) if missing else 'at all'} in {log_dir}.")
    for name in names or rows:
        for row in rows[name]:
            table.add_row(*row)
    console = Console()
    if not sys.stdout.isatty():  # the table's own width, however long a name is
        console.width = console.measure(table, options=console.options.update(max_width=sys.maxsize)).maximum
    console.print(table)


def _columns(record: dict[str, Any]) -> list[str]:
    from fashion_tl.records.record import measured

    test, model, time = (measured(record, name) for name in ("test", "model", "time"))
    trained = [phase.get("trained_parameters", 0) for phase in model.get("phases", []) if phase]
    return [
        str(record["status"]),
        *(
            f"{test[name]:.4f}" if name in test else "not recorded"
            for name in ("accuracy", "balanced_accuracy", "macro_f1")
        ),
        f"{max(trained):,} / {model['parameters']:,}" if trained and "parameters" in model else "not recorded",
        str(len(time["epoch_seconds"])) if "epoch_seconds" in time else "not recorded",
        f"{time['fit_seconds']:.0f}" if "fit_seconds" in time else "not recorded",
    ]
