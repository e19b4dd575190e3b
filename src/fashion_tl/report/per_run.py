"""The parts of a section that show each run by itself: its classes, its confusions, its calibration, its filters."""

from __future__ import annotations

import numpy as np

from fashion_tl.report.columns import interval_text
from fashion_tl.report.elements import file_links, heads, items, named, number, paragraph, part, row, table
from fashion_tl.report.exports import Compared
from fashion_tl.report.figures import Entry
from fashion_tl.report.html import Child, Html, tag
from fashion_tl.report.multiples import RELIABILITY_COLUMNS
from fashion_tl.report.pictures import data_uri, filter_grid, png_of
from fashion_tl.report.plots import Plot, crops
from fashion_tl.report.run_files import FILTERS

MATRIX_CLASSES = 24  # up to so many classes a confusion matrix is a table of numbers
UNREADABLE = "No test predictions can be read."


def classes(compared: Compared) -> Html:
    """Show precision, recall and F1 of each class, one column a run."""
    scored = [e for e in compared.entries if e.figures is not None]
    support = scored[0].figures.matrix.sum(axis=1) if scored and scored[0].figures else np.zeros(0)
    groups = []
    for key, title in (("f1", "F1"), ("precision", "Precision"), ("recall", "Recall")):
        values = np.array([e.figures.classes[key] for e in scored if e.figures is not None])
        rows = [tag("tr", tag("th", title, scope="rowgroup", colspan=len(scored) + 2))]
        for place, name in enumerate(compared.section.class_names if scored else ()):
            best = values[:, place].max()
            cells = [
                number(
                    f"{value:.4f}",
                    float(value),
                    style=f"--a:{_shade(value):.3f}",
                    **({"data-best": "1"} if value == best and len(scored) > 1 else {}),
                )
                for value in values[:, place]
            ]
            rows.append(row(name, [tag("td", f"{int(support[place]):,}", class_="n"), cells]))
        means = [number(f"{value:.4f}", float(value)) for value in values.mean(axis=1)] if scored else []
        rows.append(row("mean", [tag("td", f"{int(support.sum()):,}", class_="n"), means], class_="mean"))
        groups.append(tag("tbody", rows))
    caption = (
        "Classification reports: F1, precision and recall of each class, the best of each row bold; shaded by the "
        "distance from 1."
    )
    head = heads(["Images", *map(named, scored)], "Class")
    shown: Child = table(caption, [head], groups, "Classification reports", class_="report") if scored else None
    return part(f"{compared.section.slug}-classes", "Class by class", shown or paragraph(UNREADABLE))


def _shade(value: float) -> float:
    return min(1.0, (1 - value) / 0.5) * 0.55


def confusions(compared: Compared, plots: dict[str, Plot]) -> Html:
    """Show the confusion matrices side by side."""
    slug, names = compared.section.slug, compared.section.class_names
    plot = plots.get(f"{slug}_confusion")
    if plot is None:
        return part(f"{slug}-confusion", "Confusion matrices", paragraph(UNREADABLE))
    if len(names) > MATRIX_CLASSES:
        picture = tag("img", src=data_uri(plot.png), alt=plot.alt, class_="wide")
        shown = tag("figure", picture, tag("figcaption", plot.caption))
    else:
        shown = tag("div", [_matrix(e, names) for e in compared.entries if e.figures is not None], class_="matrices")
    about = "Rows true, columns predicted; right in blue, wrong in orange, by the root of the share of the row. "
    return part(f"{slug}-confusion", "Confusion matrices", paragraph(about, file_links(plot)), shown)


def _matrix(entry: Entry, names: list[str]) -> Html | None:
    if entry.figures is None:
        return None
    matrix = entry.figures.matrix
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    rows = []
    for place, (name, counts, parts) in enumerate(zip(names, matrix.tolist(), shares.tolist(), strict=True)):
        kinds = ["zero" if not count else None if i == place else "fewer" for i, count in enumerate(counts)]
        cells = [
            tag("td", str(count), class_=kind, style=f"--a:{0.8 * share**0.5:.3f}" if count else None)
            for count, share, kind in zip(counts, parts, kinds, strict=True)
        ]
        rows.append(row(name, cells))
    caption = named(entry)
    return table(
        caption,
        [heads(names, "true \u2193 predicted \u2192")],
        rows,
        f"Confusion matrix of {entry.label}",
        class_="matrix",
    )


def calibration(compared: Compared, plots: dict[str, Plot]) -> Html:
    """Show reliability diagrams with the calibration error and its interval."""
    slug = compared.section.slug
    plot = plots.get(f"{slug}_reliability")
    scored = [e for e in compared.entries if e.figures is not None]
    if plot is None:
        return part(f"{slug}-calibration", "Calibration", paragraph(UNREADABLE))
    labels = [f"Reliability diagram of {e.label}" for e in scored]
    cells = crops(plot, min(RELIABILITY_COLUMNS, len(scored)), labels)
    shown = [
        tag("figure", cell, tag("figcaption", _calibration_text(entry)))
        for cell, entry in zip(cells, scored, strict=True)
    ]
    told = "Below: the measured error and the 95 % interval of the true one, from 0 where chance explains it."
    about = paragraph(f"{plot.caption}. {told} ", file_links(plot))
    store = tag("div", plot.inline, class_="store", aria_hidden="true")
    return part(f"{slug}-calibration", "Calibration", about, store, tag("div", shown, class_="cards"))


def _calibration_text(entry: Entry) -> Html | None:
    if entry.figures is None:
        return None
    value, interval = entry.figures.values["calibration_error"], interval_text(entry, "calibration_error")
    return tag("span", f"error {value:.4f}", tag("small", interval), title=repr(value))


def filters(compared: Compared, plots: dict[str, Plot]) -> Html:
    """Show the filters of the first convolutions side by side."""
    slug = compared.section.slug
    shown, without = [], []
    for entry in compared.entries:
        weight = entry.run.filters
        if weight is None:
            without.append(f"{entry.label}: {entry.run.gaps.get(FILTERS, 'not recorded')}")
            continue
        alt = f"{min(len(weight), 64)} filters of the first convolution of {entry.label}"
        picture = tag("img", src=data_uri(png_of(filter_grid(weight))), alt=alt, class_="pixels")
        count, inputs, height, width = weight.shape
        size = f"{count} filters, {height} \u00d7 {width}, {inputs} channel{'s' * (inputs > 1)}"
        shown.append(tag("figure", picture, tag("figcaption", named(entry), tag("small", size))))
    plot = plots.get(f"{slug}_filters")
    about = paragraph(
        "Each filter is scaled to its own range; those of neither 1 nor 3 input channels are the mean over them. "
        "At most 64 are shown. ",
        file_links(plot) if plot else None,
    )
    note = tag("details", tag("summary", f"Without filters: {len(without)}"), items(without)) if without else None
    return part(
        f"{slug}-filters", "First-layer filters", about if shown else None, tag("div", shown, class_="cards"), note
    )
