"""The tables of README and docs, from the records in docs/records alone: `python -m experiments.kept` prints them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fashion_tl.errors import UserError
from fashion_tl.files import read_json
from fashion_tl.metrics.repeated import mean_interval, paired_differences
from fashion_tl.metrics.significance import holm
from fashion_tl.metrics.uncertainty import wilson_interval
from fashion_tl.records.record import PREDICTIONS, all_records, fold_of, read_record
from fashion_tl.report.exports import RESULTS

STUDIES = Path(__file__).parent / "studies"
RECIPES = Path(__file__).parent / "best"
KEPT = Path(__file__).parent.parent / "docs" / "records"
METHODS = "methods"  # below it, the records behind docs/methods.md
PROBE = "analysis/probe.json"
TOLD = "told.npz"  # packed bits of the test images that each run of a study tells, by the run's name
AUDIT = "audit.json"
INSIDE = "inside"  # below it, the two runs behind docs/looking_inside.md with what diagnose and robustness say
STORED = (
    "features_"  # runs on cached features of a type, named after it: the first of TYPES is what others are compared to
)
TYPES = ("float32", "float16", "bfloat16")
FOLDER, RUNS = "tournaments", "runs"  # where ablations lie, and their runs in them
Found = dict[str, list[dict[str, Any]]]
HEADER = (
    "| recipe | network | aim | accuracy, mean of seeds | each seed | minutes of a run on a CPU | GPU |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)
OWN = {  # the package's own experiments: what they are, and the command
    "phase1": ("linear probe", "make phase1 BACKBONE=B SEEDS=5"),
    "phase2": ("fine-tuned from it", "make phase2 BACKBONE=B"),
    "scratch": ("scratch CNN", "make scratch"),
    "cats_vs_dogs": (
        "cats and dogs, 1,000 photographs",
        "fashion-tl fit -c experiments/cats_vs_dogs.yaml --model.backbone B",
    ),
}
OWN_HEADER = (
    "| run | command | test accuracy | macro F1 | calibration error | trained / all parameters | epochs, seconds |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)
ABLATION_HEADER = (
    "| | accuracy, mean of seeds | each seed | difference | 95 % interval | p |\n| --- | --- | --- | --- | --- | --- |"
)
ADDED_HEADER = "| added | test accuracy | difference | 95 % interval | p |\n| --- | --- | --- | --- | --- |"
STUDY_HEADER = (
    "| system | experiment | study's accuracy | ours | loss | calibration error | epochs, seconds |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)


def all_tables(kept: Path) -> list[str]:
    """Return all tables in Markdown, in the order of the pages: README, recipes, studies, methods."""
    found = records_of(kept)
    tables = [own_table(found), table(found), *(study_table(found, each) for each in backbones(found))]
    inside = [inside_table(kept / INSIDE)] if (kept / INSIDE).is_dir() else []
    return [*tables, *map(ablation_table, ablations(kept)), *method_tables(kept / METHODS), *inside]


def ablations(kept: Path) -> list[Path]:
    """Return the results of all ablations that are kept."""
    return sorted(kept.glob(f"{FOLDER}/*/{RESULTS}"))


def ablation_table(path: Path) -> str:
    """Return the table of an ablation in Markdown: its configuration first, then each change and what it is worth.

    Args:
        path: Its ``results.json``, which names its runs; figures are computed from their records.
    """
    cells = read_json(path)["cells"]
    correct = [[right(path.parent / RUNS / run) for run in cell["runs"]] for cell in cells]
    pairs = paired_differences(correct, [(place, 0) for place in range(1, len(cells))])
    told = [f"{each.value:+.4f} | {each.low:+.4f} to {each.high:+.4f}" for each in pairs]
    adjusted = [f"{p:.2g}" for p in holm(each.p for each in pairs)]
    rows = [ABLATION_HEADER]
    for cell, runs, end in zip(
        cells, correct, ["| |", *map(" | ".join, zip(told, adjusted, strict=True))], strict=True
    ):
        accuracies = [sum(each) / len(each) for each in runs]
        each = ", ".join(f"{accuracy:.4f}" for accuracy in accuracies)
        rows.append(f"| {cell['strategy'].replace('_', ' ')} | {_mean(accuracies):.4f} | {each} | {end} |")
    return "\n".join(rows)


def method_tables(kept: Path) -> list[str]:
    """Return the tables of docs/methods.md: probes, combinations, stored types, audits, ablations and tournaments."""
    probes = sorted(kept.glob(f"*/*/{PROBE}"))
    found = {name: max(each, key=lambda record: int(record["version"])) for name, each in records_of(kept).items()}
    combined = [record for record in found.values() if record.get("members")]
    tables = [probe_table(read_json(path)["figures"]["stages"]) for path in probes]
    tables += [combination_table(combined, found, kept)] if combined else []
    tables += [stored_table(kept)] if (kept / f"{STORED}{TYPES[0]}").is_dir() else []
    tables += [audit_tables(read_json(path)) for path in sorted(kept.glob(f"*/{AUDIT}"))]
    return [*tables, *(added_table(path) if of_ablation(path) else tournament_table(path) for path in ablations(kept))]


def of_ablation(path: Path) -> bool:
    """Say whether results are those of an ablation, not of a tournament."""
    return bool(read_json(path)["kind"] == "ablation")


def told_by(path: Path) -> list[list[list[bool]]]:
    """Return which test images each run of each cell of a study tells, beside its results."""
    results = read_json(path)
    count = results["data"]["test_images"]
    with np.load(path.parent / TOLD) as told:
        return [
            [np.unpackbits(told[run], count=count).astype(bool).tolist() for run in cell["runs"] if run]
            for cell in results["cells"]
        ]


def added_table(path: Path) -> str:
    """Return the table of what was added to a configuration in Markdown, from the best to the worst."""
    cells, told = read_json(path)["cells"], told_by(path)
    pairs = paired_differences(told, [(place, 0) for place in range(1, len(cells))])
    accuracies = [", ".join(f"{sum(run) / len(run):.4f}" for run in runs) for runs in told]
    rows = []
    for cell, each, pair, p in zip(cells[1:], accuracies[1:], pairs, holm(each.p for each in pairs), strict=True):
        value = f"**{pair.value:+.4f}**" if p < 0.05 else f"{pair.value:+.4f}"
        end = f"{value} | {pair.low:+.4f} to {pair.high:+.4f} | {p:.2g}"
        rows.append((-pair.value, f"| `{cell['strategy']}` | {each} | {end} |"))
    return "\n".join([ADDED_HEADER, f"| nothing | {accuracies[0]} | | | |", *(row for _, row in sorted(rows))])


def tournament_table(path: Path) -> str:
    """Return the accuracies of a tournament in Markdown, and what its page concludes.

    Strategies by budgets, or with each seed and the seconds of a training if there is one budget.
    """
    results, told = read_json(path), told_by(path)
    cells = {
        (cell["strategy"], cell["budget"]): ([sum(run) / len(run) for run in runs], cell["seconds"])
        for cell, runs in zip(results["cells"], told, strict=True)
    }
    budgets = results["budgets"]
    one = len(budgets) == 1
    rows = [["strategy", "mean", "each seed", "s"] if one else ["strategy", *budgets]]
    rows.append(["---"] * len(rows[0]))
    for strategy in (each["name"] for each in results["strategies"]):
        own = [cells[strategy, budget] for budget in budgets]
        accuracies, seconds = own[0]
        more = [", ".join(f"{accuracy:.4f}" for accuracy in accuracies), f"{seconds:,.0f}"] if one else []
        rows.append([f"`{strategy}`", *(_mean_and_interval(each) for each, _ in own), *more])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    sentences = [each for text in results["conclusion"] for each in re.split(r"(?<=\.) (?=With )", text)]
    return "\n".join([table, "", *(f"- {sentence}" for sentence in sentences)])


def _mean_and_interval(accuracies: Sequence[float]) -> str:
    interval = mean_interval(accuracies)
    return f"{_mean(accuracies):.3f}" + ("" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})")


def probe_table(stages: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of a probe in Markdown: a row a stage, from below."""
    knn = all(stage.get("neighbours") for stage in stages)
    head = ["behind stage", "features", "strength", "train", "validation", "test", "95 % interval"]
    rows = [head + ["neighbours, test"] * knn, ["---"] * (len(head) + knn)]
    for stage in stages:
        accuracy, (low, high) = stage["accuracy"], stage["interval"]
        each = [f"{accuracy[split]:.4f}" for split in ("train", "val", "test")]
        near = [f"{stage['neighbours']['accuracy']:.4f}"] if knn else []
        strength = f"{stage['strength']:.0e}".replace("e-0", "e-").replace("e+00", "")
        rows.append([stage["stage"], f"{stage['features']:,}", strength, *each, f"{low:.4f} to {high:.4f}", *near])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def combination_table(combined: Sequence[Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]], kept: Path) -> str:
    """Return the table of combinations in Markdown, each beside the member that validation says is the best."""
    rows = [
        "| combination | what and of what | test accuracy | loss | best on validation | difference |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for record in combined:
        members = [found[member["name"]] for member in record["members"]]
        best = max(members, key=lambda member: member["best"]["value"])
        (pair,) = paired_differences(
            [[right(kept / one["name"] / f"version_{one['version']}")] for one in (record, best)], [(0, 1)]
        )
        test = record["test"]
        rows.append(
            f"| `{record['name']}` | {record['model']['strategy']} | {test['accuracy']:.4f} | {test['loss']:.3f} | "
            f"{best['name']}, {best['test']['accuracy']:.4f} | "
            f"{pair.value:+.3f} ({pair.low:+.3f} to {pair.high:+.3f}) |"
        )
    return "\n".join(rows)


def stored_table(kept: Path) -> str:
    """Return the table of what the type of cached features changes in Markdown, beside float32."""
    folders = {kind: kept / f"{STORED}{kind}" / "version_0" for kind in TYPES}
    logits = {}
    for kind, folder in folders.items():
        with np.load(folder / PREDICTIONS) as arrays:
            logits[kind] = arrays["logits"].astype(np.float64)
    reference = logits[TYPES[0]]
    rows = [
        "| stored as | test accuracy | largest difference of a logit | other predictions |",
        "| --- | --- | --- | --- |",
    ]
    for kind, own in logits.items():
        accuracy = read_record(folders[kind])["test"]["accuracy"]
        end = "| |"
        if kind != TYPES[0]:
            others = int((own.argmax(1) != reference.argmax(1)).sum())
            end = f"{np.abs(own - reference).max():.2g}, of logits up to {np.abs(reference).max():.0f} | {others} |"
        rows.append(f"| {kind} | {accuracy:.4f} | {end}")
    return "\n".join(rows)


def inside_table(kept: Path) -> str:
    """Return the table of docs/looking_inside.md in Markdown: what diagnose and robustness say, a column a run."""
    columns = {path.parent.name: _inside(path) for path in sorted(kept.glob("*/version_0"))}
    rows = [[what, *(column[what] for column in columns.values())] for what in next(iter(columns.values()))]
    return _markdown(["", *columns], rows)


def _inside(folder: Path) -> dict[str, str]:
    told = read_json(folder / "analysis" / "diagnose.json")["figures"]
    calibration, groups = told["calibration"], told["errors"]["groups"]
    robust = read_json(folder / "analysis" / "robustness.json")["figures"]
    chosen = calibration["chosen"]
    scalings, kept = calibration["test"], calibration["selective"]["as trained"]["accuracy_at"]
    rows = {
        "accuracy": f"{scalings['as trained']['accuracy']:.4f}",
        "scaling that cross-validation chose": chosen,
        "temperature": f"{calibration['temperature']:.2f}",
    }
    for what, key in (("expected calibration error", "ece"), ("negative log likelihood", "nll")):
        rows |= {f"{what}, {name}": f"{scaling[key]:.4f}" for name, scaling in scalings.items()}
    rows |= {f"accuracy on the most confident {share} %": f"{kept[f'0.{share}']:.4f}" for share in (90, 80)}
    rows["right group (tops, trousers, shoes, bags)"] = f"{groups['all']['group_accuracy']:.4f}"
    rows["right within tops"] = f"{groups['tops']['within']:.4f}"
    rows["likely label errors among the test images"] = str(told["errors"]["label_errors"]["images"])
    rows["accuracy on the images of robustness"] = f"{robust['clean']['accuracy']:.3f}"
    rows["mean over 16 corruptions at 5 strengths"] = f"{1 - robust['corruption_error']['error']:.3f}"
    detection = robust["out_of_distribution"]
    for name, best in detection["best"].items():
        scores = detection["sets"][name]
        rows[f"AUROC against {name}, best score"] = f"{scores[best]['auroc']:.3f} ({best})"
    return rows


def audit_tables(document: Mapping[str, Any]) -> str:
    """Return the tables of an audit in Markdown: exact and near duplicates by splits, altered copies, runs."""
    exact, near, *others = document["tables"]
    counted: dict[str, dict[str, str]] = {}
    for where, pairs, _, other_label, _ in near["rows"]:
        level, _, splits = where.partition(", ")
        counted.setdefault(level, {})[splits] = f"{pairs:,}, {other_label:,}" if pairs else "0"
    columns = ["correlation of at least", *next(iter(counted.values()))]
    rows = [[level, *cells.values()] for level, cells in counted.items()]
    found = sum(row[1] for row in exact["rows"])
    tables = [f"Exact duplicates: {found:,} pairs. Near ones, pairs and those of them with another label:"]
    tables.append(_markdown(columns, rows))
    for table in others:
        tables += [f"{table['caption']}:", _markdown(table["columns"], table["rows"])]
    return "\n\n".join(tables)


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def right(folder: Path) -> list[bool]:
    """Say of each test image whether the run in a folder tells its class."""
    with np.load(folder / PREDICTIONS) as arrays:
        found: list[bool] = (arrays["logits"].argmax(1) == arrays["label"]).tolist()
    return found


def records_of(kept: Path) -> Found:
    """Read all that are kept, by the names of their runs."""
    found: Found = {}
    for _, record in all_records(kept):
        if isinstance(record, UserError):
            raise record
        found.setdefault(record["name"], []).append(record)
    return found


def repeats(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the newest record of each seed, of each fold: the same seed again is no other observation."""
    newest = {}
    for record in sorted(records, key=lambda record: int(record["version"])):
        seed = record["version"] if record["seed"] is None else record["seed"]
        newest[record["seed"] is None, seed, fold_of(record)] = record
    return list(newest.values())


def own_table(found: Found) -> str:
    """Return README's table in Markdown: the package's own experiments, means over their seeds."""
    return "\n".join([OWN_HEADER, *(_own_row(name, *told, repeats(found.get(name, []))) for name, told in OWN.items())])


def _own_row(name: str, what: str, command: str, records: Sequence[Mapping[str, Any]]) -> str:
    if not records:
        return f"| {what} | `{command}` | not measured | | | | |"
    model, pixels = records[0]["model"], records[0]["data"]["image_size"]
    f1, error = (_mean([record["test"][key] for record in records]) for key in ("macro_f1", "calibration_error"))
    trained = f"{model['phases'][-1]['trained_parameters']:,} / {model['parameters']:,}"
    epochs = _range([len(record["time"]["epoch_seconds"]) for record in records])
    seconds = _range([record["time"]["fit_seconds"] for record in records])
    return (
        f"| {what}, {pixels} px | `{command}` | {_accuracy(records)} | {f1:.4f} | {error:.3f} | {trained} | "
        f"{epochs}, {seconds} |"
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _accuracy(records: Sequence[Mapping[str, Any]]) -> str:
    """Say the mean accuracy over seeds, with Student's 95 % interval if there are several."""
    accuracies = [record["test"]["accuracy"] for record in records]
    interval = mean_interval(accuracies)
    mean = f"{_mean(accuracies):.4f}"
    if len(records) == 1:
        return f"{mean}, one seed"
    return f"{mean}, no interval" if interval is None else f"{mean} ({interval[0]:.4f} to {interval[1]:.4f})"


def _range(values: Sequence[float]) -> str:
    """Say the least and the largest of values in whole numbers, once if they are the same."""
    return " to ".join(dict.fromkeys(f"{value:,.0f}" for value in (min(values), max(values))))


def table(found: Found) -> str:
    """Return the table of all recipes in Markdown, from the records and from what the experiments say of themselves."""
    rows = []
    for path in sorted(RECIPES.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        (name,) = re.findall(r"^name: (\S+)$", text, re.MULTILINE)
        (aim,) = re.findall(r"^# Aim: +(.+)$", text, re.MULTILINE)
        rows.append(_row(path.stem, aim, repeats(found.get(name, []))))
    combined = [record for records in found.values() for record in records if record.get("members")]
    return "\n".join([HEADER, *rows, *(_combined_row(record, found) for record in combined)])


def backbones(found: Found) -> list[str]:
    """Return the backbones that `make study BACKBONE=...` has put behind names of experiments; "" is for none."""
    known = {path.stem for path in STUDIES.glob("*.yaml")}
    return sorted({name.partition(".")[2] for name in found if name.partition(".")[0] in known})


def study_table(found: Found, backbone: str) -> str:
    """Return the table of the studies' systems with a backbone, or with none, by their numbers: the newest of each."""
    rows = {}
    for path in STUDIES.glob("*.yaml"):
        if records := found.get(f"{path.stem}.{backbone}" if backbone else path.stem):
            record = max(records, key=lambda record: int(record["version"]))
            system = record["study"]["system"].removeprefix("system ")
            rows[int(system.partition(",")[0]), path.stem] = _study_row(path.stem, system, record)
    return "\n".join([STUDY_HEADER, *(rows[key] for key in sorted(rows))])


def _study_row(experiment: str, system: str, record: Mapping[str, Any]) -> str:
    test, theirs = record["test"], record["study"].get("accuracy", "not said")
    low, high = wilson_interval(round(test["accuracy"] * test["images"]), test["images"])
    epochs = len(record["time"]["epoch_seconds"])
    ours = f"{test['accuracy']:.4f} ({low:.3f} to {high:.3f})"
    return (
        f"| {system} | `{experiment}` | {theirs} | {ours} | {test['loss']:.3f} | "
        f"{test['calibration_error']:.3f} | {epochs}, {record['time']['fit_seconds']:,.0f} |"
    )


def _combined_row(record: dict[str, Any], found: Found) -> str:
    """Return the row of an ensemble: what it gains over the best of its members, whose records are kept, too."""
    kept = {(each["name"], each["version"]): each for records in found.values() for each in records}
    wanted = [(member["name"], member["version"]) for member in record["members"]]
    if missing := [f"{name} version {version}" for name, version in wanted if (name, version) not in kept]:
        raise UserError(f"{record['name']} is made of {', '.join(missing)}, which are not kept: name them, too.")
    members = [kept[each] for each in wanted]
    accuracy, best = record["test"]["accuracy"], max(member["test"]["accuracy"] for member in members)
    used = [member for member, how in zip(members, record["members"], strict=True) if how.get("weight") != 0]
    names = ", ".join(f"{member['name'].removeprefix('best_')} (seed {member['seed']})" for member in used)
    views = " with flips" if any(member.get("views") for member in record["members"]) else ""
    return (
        f"| `{record['name'].removeprefix('best_')}` | {record['kind']} of {names}{views} | best single + 0.4 points | "
        f"{accuracy:.4f}, {100 * (accuracy - best):+.2f} points | | | |"
    )


def _row(recipe: str, aim: str, records: list[dict[str, Any]]) -> str:
    if not records:
        return f"| `{recipe}` | | {aim} | not measured | | | |"
    records = sorted(records, key=lambda record: record["seed"] or 0)
    model, data = records[0]["model"], records[0]["data"]
    minutes = sorted(record["time"]["fit_seconds"] / 60 for record in records)
    spread = " / ".join(f"{value:.{0 if value >= 10 else 1}f}" for value in dict.fromkeys([minutes[0], minutes[-1]]))
    threads = sorted({record["environment"]["threads"] for record in records})
    devices = " or ".join(f"{count} thread{'s' * (count > 1)}" for count in threads)
    network = f"{model['architecture']}, {model['parameters']:,} parameters, {data['image_size']} px"
    each = ", ".join(f"{record['test']['accuracy']:.4f}" for record in records)
    epochs = [seconds for record in records for seconds in record["time"].get("epoch_seconds") or ()]
    epochs = epochs if len(model.get("phases") or ()) == 1 else []
    fastest = f", fastest epoch {min(epochs):.0f} s" if epochs else ""
    return f"| `{recipe}` | {network} | {aim} | {_accuracy(records)} | {each} | {spread} ({devices}{fastest}) | |"
