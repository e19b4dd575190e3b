"""Keep records and print the tables of README and docs that come from them: `python -m experiments.kept [NAME ...]`.

Completed versions of the runs that are named are copied from lightning_logs to docs/records, without checkpoints; of an
ablation that is named, its results and all of its runs. Then the tables are printed, from the records alone: that of
README.md, those of recipes and ablations (docs/recipes.md), those of the studies' systems from random weights and with
each backbone (docs/results.md), and those of probes, combinations, ablations, tournaments, stored types and audits
(docs/methods.md), whose records are apart: name them with --methods; those of docs/looking_inside.md with --inside.
Of the many runs of an ablation or a tournament of docs/methods.md the results are kept, and which test images each run
tells; of an audit, its document: name its folder with --audit.
To go on with more seeds on another machine, copy docs/records into lightning_logs first: `make recipe` skips what is
done.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
from experiments import tables
from experiments.tables import AUDIT, FOLDER, INSIDE, KEPT, METHODS, RUNS, TOLD

from fashion_tl.errors import UserError
from fashion_tl.files import read_json, replacing_folder, write_json
from fashion_tl.inspection.verify import verify
from fashion_tl.records.record import CHECKED, COMPLETED, RECORD, read_record, versions, write_record
from fashion_tl.report.exports import RESULTS


def main(args: list[str] | None = None) -> int:
    """Keep what is named and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="runs and ablations to keep")
    parser.add_argument(
        "--methods", action="store_const", const=METHODS, dest="below", help="they are of docs/methods.md"
    )
    parser.add_argument("--inside", action="store_const", const=INSIDE, dest="below", help="of docs/looking_inside.md")
    parser.add_argument("--audit", type=Path, action="append", default=[], help="folder that an audit wrote")
    parser.add_argument("--log_dir", type=Path, default=Path("lightning_logs"))
    parser.add_argument("--kept", type=Path, default=KEPT)
    options = parser.parse_args(args)
    try:
        for name in options.names:
            kind = keep
            if (options.log_dir / FOLDER / name / RESULTS).is_file():
                kind = keep_study if options.below else keep_ablation
            kind(name, options.log_dir, options.kept / (options.below or ""))
        for folder in options.audit:
            keep_audit(folder, options.kept / METHODS)
        print("\n\n".join(tables.all_tables(options.kept)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def keep(name: str, log_dir: Path, kept: Path) -> None:
    """Copy the completed versions of a run whose files hold what their record says, without the folder they ran in.

    Raises:
        UserError: If it has none, a file is damaged, or another run is kept under the same number.
    """
    folders = [log_dir / name / f"version_{number}" for number in versions(log_dir, name)]
    # One that was killed early has no record.
    done = [folder for folder in folders if (folder / RECORD).is_file() and read_record(folder)["status"] == COMPLETED]
    if not done:
        raise UserError(f"no version of the run {name!r} in {log_dir} is completed.")
    for folder in done:
        target, record = kept / name / folder.name, read_record(folder)
        record["command"] = (record["command"] or "").replace(f"{log_dir.resolve().parent}/", "")
        if target.exists() and read_record(target) != record:
            raise UserError(f"{target} is another run than {folder}: give one of them another number.")
        verify(str(folder), quick=True, log_dir=log_dir)
        if target.exists():
            continue
        with replacing_folder(target) as draft:  # whole or not at all
            analyses = (str(path.relative_to(folder)) for path in folder.glob("analysis/*.json"))
            for file in (*CHECKED, *analyses):
                if (folder / file).is_file():
                    (draft / file).parent.mkdir(exist_ok=True)
                    shutil.copyfile(folder / file, draft / file)
            write_record(draft, record)


def keep_ablation(name: str, log_dir: Path, kept: Path) -> None:
    """Copy the results of an ablation and the records of its runs.

    Raises:
        UserError: As ``keep``.
    """
    folder, target = log_dir / FOLDER / name, kept / FOLDER / name
    results = read_json(folder / RESULTS)
    for run in sorted({run.partition("/")[0] for cell in results["cells"] for run in cell["runs"] if run}):
        keep(run, folder / RUNS, target / RUNS)
    write_json(target / RESULTS, results)


def keep_study(name: str, log_dir: Path, kept: Path) -> None:
    """Copy the results of an ablation or a tournament, and which test images each of its runs tells.

    Raises:
        UserError: If a file of a run is damaged.
    """
    folder, target = log_dir / FOLDER / name, kept / FOLDER / name
    results = read_json(folder / RESULTS)
    told = {}
    for run in sorted(run for cell in results["cells"] for run in cell["runs"] if run):
        verify(str(folder / RUNS / run), quick=True, log_dir=folder / RUNS)
        told[run] = np.packbits(tables.right(folder / RUNS / run))
    with replacing_folder(target) as draft:
        write_json(draft / RESULTS, results)
        np.savez_compressed(draft / TOLD, allow_pickle=False, **told)


def keep_audit(folder: Path, kept: Path) -> None:
    """Copy the document of an audit, without its pictures.

    Raises:
        UserError: If it is not there.
    """
    write_json(kept / folder.name / AUDIT, {**read_json(folder / AUDIT), "pictures": []})


if __name__ == "__main__":
    sys.exit(main())
