"""The parts of a section that show what each run reached: table, curves, classes, filters, cost, calibration."""

from __future__ import annotations

from fashion_tl.report.columns import COLUMNS, fixed, interval_text, seconds
from fashion_tl.report.elements import (
    heads,
    missing,
    named,
    number,
    paragraph,
    part,
    plot_figure,
    row,
    table,
)
from fashion_tl.report.exports import Compared, spread_text
from fashion_tl.report.html import Child, Html, tag
from fashion_tl.report.plots import Plot

LONG = 40  # letters from which a text has a wider column


def main_table(compared: Compared) -> Html:
    """Show every column for every run, sortable."""
    sorts = [
        tag(
            "th",
            tag("button", column.heading, type="button"),
            scope="col",
            aria_sort="descending" if column.key == "accuracy" else "none",
            class_="study" if column.study else None,
        )
        for column in COLUMNS
    ]
    first = tag("th", tag("button", "Run", type="button"), scope="col", aria_sort="none")
    rows = []
    for entry in compared.entries:
        cells = []
        for column in COLUMNS:
            value = column.value(entry)
            if value is None:
                cells.append(missing(column.missing(entry), column.text(entry)))
            elif isinstance(value, str):
                kind = "study" if column.study else "text long" if len(value) > LONG else "text"
                cells.append(tag("td", value, data_sort=value, class_=kind))
            else:
                interval = interval_text(entry, column.key) if column.interval else None
                cells.append(number(column.shown(value), value, interval, data_key=column.key))
        about = entry.run.text("study", "system")
        version = tag("small", f"version {entry.run.version}", f", {about}" if about else None)
        rows.append(row([named(entry), version], cells, data_run=entry.label))
    caption = (
        "Test figures, computed from the stored predictions, with their 95 % intervals, beside the figures of the "
        "published studies; what was trained, and what it cost. Press a heading to sort."
    )
    shown = table(caption, [tag("tr", first, sorts)], rows, "Main table", class_="main sortable")
    return part(f"{compared.section.slug}-table", "All runs", shown, _care(compared))


def _care(compared: Compared) -> Html | None:
    """Tell where costs cannot be compared."""
    devices = {e.run.text("environment", "device") for e in compared.entries}
    if len(devices) < 2:
        return None
    named = "; ".join(sorted(device or "not recorded" for device in devices))
    return paragraph("Seconds and memory come from different devices: ", named, ".", class_="note")


def curves(compared: Compared, plots: dict[str, Plot]) -> Html:
    """Show loss and accuracy by epoch and by seconds."""
    slug = compared.section.slug
    names = [f"{slug}_{quantity}_by_{axis}" for axis in ("epoch", "seconds") for quantity in ("loss", "accuracy")]
    found = [plot_figure(plots[name]) for name in names if name in plots]
    without = [e.label for e in compared.entries if not e.run.history]
    note = paragraph("No curves are recorded of ", ", ".join(without), ".", class_="note") if without else None
    return part(f"{slug}-curves", "Curves", tag("div", found, class_="figures"), note)


def bars(compared: Compared, plots: dict[str, Plot]) -> Html:
    """Show accuracy and macro F1 as bars."""
    slug = compared.section.slug
    found = [plot_figure(plots[name]) for name in (f"{slug}_accuracy", f"{slug}_macro_f1") if name in plots]
    shown: Child = tag("div", found, class_="figures") if found else paragraph("No test predictions can be read.")
    return part(f"{slug}-bars", "Accuracy and F1", shown)


def cost(compared: Compared, plots: dict[str, Plot]) -> Html:
    """Show accuracy against seconds and parameters."""
    slug = compared.section.slug
    names = [f"{slug}_accuracy_against_{what}" for what in ("seconds", "parameters")]
    found = [plot_figure(plots[name]) for name in names if name in plots]
    note = "A run on the Pareto front is beaten by no other: none is at least as accurate at a lower cost."
    shown: Child = (
        tag("div", found, class_="figures") if found else paragraph("Neither seconds nor parameters are recorded.")
    )
    return part(f"{slug}-cost", "Accuracy and its cost", paragraph(note), shown)


def seeds(compared: Compared) -> Html:
    """Show mean and standard deviation where there are several seeds."""
    slug = compared.section.slug
    if not compared.spreads:
        text = "Every run has one seed: how far the figures depend on it is not known. More are made by "
        shown = paragraph(text, tag("code", "fashion-tl fit ... --seeds 5"), ".")
        return part(f"{slug}-seeds", "Several seeds", shown)
    names = ("accuracy", "macro_f1", "loss", "macro_precision", "macro_recall", "calibration_error", "fit_seconds")
    titles = ("Accuracy", "Macro F1", "Loss", "Precision", "Recall", "Calibration error", "Seconds")
    rows = []
    for spread in compared.spreads:
        cells: list[Child] = [tag("td", ", ".join(map(str, spread.seeds)))]
        for name in names:
            if name in spread.values:
                mean, deviation = spread.values[name]
                text = spread_text(spread, name, 1 if name == "fit_seconds" else 4)
                cells.append(tag("td", text, class_="n", data_mean=repr(mean), data_deviation=repr(deviation)))
            else:
                cells.append(missing("a seed's record does not hold it"))
        rows.append(row(named(spread.entry), cells))
    caption = (
        "Mean \u00b1 standard deviation (divisor n \u2212 1) over the completed versions that differ in the seed alone."
    )
    return part(f"{slug}-seeds", "Several seeds", table(caption, [heads(["Seeds", *titles], "Run")], rows))


def lead(compared: Compared) -> Html:
    """Say in words which run is ahead, and by how much."""
    scored = [e for e in compared.entries if e.figures is not None]
    if not scored:
        return paragraph("No test predictions can be read, so there is nothing to compare.", class_="lead")
    best = scored[0]
    accuracies = [e.figures.values["accuracy"] for e in scored if e.figures is not None]
    level = [e.label for e, accuracy in zip(scored, accuracies, strict=True) if accuracy == accuracies[0]]
    spent = best.run.number("time", "fit_seconds")
    after = f", after {seconds(spent)} s of training" if spent is not None else ""
    reached = f"{fixed(4)(accuracies[0])} ({interval_text(best, 'accuracy')})"
    if len(level) > 1:
        return paragraph(tag("strong", ", ".join(level)), f" are equally accurate: {reached}.", class_="lead")
    if len(scored) == 1:
        return paragraph(tag("strong", best.label), f" has a test accuracy of {reached}{after}.", class_="lead")
    pair = next(p for p in compared.pairs if p.a is best and p.b is scored[1])
    verdict = "a significant difference" if pair.p < 0.05 else "not a significant difference"
    against = (
        f" It is right on {pair.test.only_a:,} images that {scored[1].label}, the next, gets wrong, and wrong on "
        f"{pair.test.only_b:,} that the next gets right: {verdict} (McNemar\u2019s exact test, p {p_text(pair.p)} "
        f"after Holm\u2019s correction for {len(compared.pairs):,} comparison{'s' * (len(compared.pairs) > 1)})."
    )
    return paragraph(tag("strong", best.label), f" is the most accurate: {reached}{after}.", against, class_="lead")


def p_text(p: float) -> str:
    """Return a p-value as text, such as "= 0.031" or "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
