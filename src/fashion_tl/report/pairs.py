"""The parts of a section that set runs against each other: significance, differences, images, configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fashion_tl.report.columns import NOT_RECORDED
from fashion_tl.report.elements import heads, missing, named, paragraph, part, row, run_heads, sign, table
from fashion_tl.report.exports import Compared
from fashion_tl.report.figures import Entry, Pair
from fashion_tl.report.html import Child, Html, script_data, tag
from fashion_tl.report.per_run import MATRIX_CLASSES
from fashion_tl.report.pictures import gallery, test_images
from fashion_tl.report.run_files import CONFIG
from fashion_tl.report.views import p_text

IDENTITY = ("name", "log_dir", "checkpoint_dir", "study")  # what a run is called, not what it does
LARGEST = 20  # differences listed where a matrix of all classes would be too large


def significance(compared: Compared) -> Html:
    """Show McNemar's test of every two runs."""
    anchor = f"{compared.section.slug}-significance"
    if not compared.pairs:
        return part(anchor, "Is the difference real?", paragraph("A test needs two runs with readable predictions."))
    scored = [e for e in compared.entries if e.figures is not None]
    by_pair = {(p.a.number, p.b.number): p for p in compared.pairs}
    rows = []
    for place, entry in enumerate(scored[1:], start=1):
        cells = [_test_cell(by_pair[other.number, entry.number]) for other in scored[:place]]
        rows.append(row(named(entry), [*cells, *[tag("td")] * (len(scored) - 1 - place)]))
    caption = (
        "McNemar\u2019s exact test of every two runs on the same images; p after Holm\u2019s correction for all "
        f"{len(compared.pairs):,} pairs. Below: images that only the run of the column gets right, and only the run of "
        "the row. Bold and shaded: significant at 0.05."
    )
    shown = table(caption, [run_heads(scored[:-1], "Run")], rows, "McNemar's tests", class_="tests")
    return part(anchor, "Is the difference real?", shown)


def _test_cell(pair: Pair) -> Html:
    counts = tag("small", f"{pair.test.only_a:,} : {pair.test.only_b:,}")
    return tag(
        "td",
        p_text(pair.p).removeprefix("= "),
        counts,
        class_="significant" if pair.p < 0.05 else None,
        data_sort=repr(pair.p),
        title=f"{pair.a.label} against {pair.b.label}: p {pair.test.p!r}, adjusted {pair.p!r}",
    )


def two_models(compared: Compared, log_dir: Path) -> Html:
    """Show two runs against each other: the best and the second best, or any two with a little JavaScript."""
    slug, names = compared.section.slug, compared.section.class_names
    anchor, title = f"{slug}-pair", "Two runs against each other"
    scored = [e for e in compared.entries if e.figures is not None]
    if len(scored) < 2:
        return part(anchor, title, paragraph("This needs two runs with readable predictions."))
    labels = next(e.run.predictions.labels for e in scored if e.run.predictions is not None)
    folders = list(dict.fromkeys([log_dir, *(e.run.folder.parent.parent for e in scored)]))
    source = test_images(folders, compared.section.test_set, labels)
    positions, shown, pictures = gallery(compared.pairs, source)
    index = next(e.run.predictions.index for e in scored if e.run.predictions is not None)
    pool: list[dict[str, Any]] = [
        {
            "index": int(index[p]),
            "label": int(labels[p]),
            "predicted": [int(e.figures.predicted[p]) for e in scored if e.figures is not None],
            "picture": pictures.get(p),
        }
        for p in positions
    ]
    data = {
        "runs": [e.label for e in scored],
        "classes": names,
        "matrices": [e.figures.matrix.tolist() for e in scored if e.figures is not None],
        "tests": {f"{p.a.number}-{p.b.number}": [p.test.only_a, p.test.only_b, p_text(p.p)] for p in compared.pairs},
        "shown": shown,
        "pool": pool,
        "largest": 0 if len(names) <= MATRIX_CLASSES else LARGEST,
    }
    chooser = tag(
        "p",
        tag("label", "First run ", _select(scored, 0)),
        " ",
        tag("label", "second run ", _select(scored, 1)),
        class_="chooser",
    )
    missing_pictures = (
        paragraph("There are no pictures of the test images: ", source.why, ".", class_="note") if source.why else None
    )
    a, b = scored[:2]
    test = compared.pairs[0].test
    return part(
        anchor,
        title,
        chooser,
        paragraph(verdict(compared.pairs[0]), class_="verdict"),
        _difference(a, b, names),
        tag("h4", "Images that one gets right and the other wrong"),
        paragraph("The few on whose true class the two differ most."),
        missing_pictures,
        _shots(f"Only {a.label} is right: {test.only_a:,}", pool, shown.get("0-1", []), (a, b), data),
        _shots(f"Only {b.label} is right: {test.only_b:,}", pool, shown.get("1-0", []), (a, b), data),
        script_data(f"{slug}-data", data),
    )


def verdict(pair: Pair) -> str:
    """Say what McNemar's test found, as the page's script says it for other pairs."""
    counts = (
        f"{pair.a.label} alone is right on {pair.test.only_a:,} images, {pair.b.label} alone on {pair.test.only_b:,}"
    )
    return f"{counts}: McNemar\u2019s test gives p {p_text(pair.p)}, adjusted for all pairs."


def _select(scored: list[Entry], chosen: int) -> Html:
    options = [tag("option", e.label, value=i, selected=i == chosen) for i, e in enumerate(scored)]
    return tag("select", options, data_place=chosen)


def _difference(a: Entry, b: Entry, names: list[str]) -> Html | None:
    """Show how often two runs predict each class for each: the first minus the second."""
    if a.figures is None or b.figures is None:
        return None
    first, second = a.figures.matrix, b.figures.matrix
    change = first - second
    caption = tag(
        "span",
        tag("span", f"Confusions of {a.label} minus those of {b.label}", class_="which"),
        ": blue where the first has more, orange where the second has.",
    )
    if len(names) > MATRIX_CLASSES:
        flat = np.argsort(-np.abs(change), axis=None, kind="stable")[:LARGEST]
        rows = [
            row(
                names[i],
                [
                    tag("td", text)
                    for text in (names[j], int(first[i, j]), int(second[i, j]), signed(int(change[i, j])))
                ],
            )
            for i, j in (divmod(int(place), len(names)) for place in flat)
            if change[i, j]
        ]
        return table(
            caption,
            [heads(["predicted", "first", "second", "difference"], "true")],
            rows,
            "Difference",
            class_="difference",
        )
    top = max(1, int(np.abs(change).max()))
    rows = [
        row(name, [_change_cell(v, top) for v in values]) for name, values in zip(names, change.tolist(), strict=True)
    ]
    head = [heads(names, "true \u2193 predicted \u2192")]
    return table(caption, head, rows, "Difference of two confusion matrices", class_="matrix difference")


def _change_cell(value: int, top: int) -> Html:
    kind = "more" if value > 0 else "fewer" if value < 0 else "zero"
    return tag("td", signed(value), class_=kind, style=f"--a:{0.8 * abs(value) / top:.3f}" if value else None)


def signed(value: int) -> str:
    """Return a whole number with its sign, 0 without one."""
    return f"{value:+d}".replace("-", "\u2212") if value else "0"


def _shots(
    title: str, pool: list[dict[str, Any]], places: list[int], pair: tuple[Entry, Entry], data: dict[str, Any]
) -> Html:
    shown = []
    for place in places:
        image = pool[place]
        true = data["classes"][image["label"]]
        said = [(e, data["classes"][image["predicted"][e.number]]) for e in pair]
        picture = (
            tag("img", src=image["picture"], alt=f"Test image {image['index']}, {true}", class_="pixels")
            if image["picture"]
            else None
        )
        caption = tag(
            "figcaption",
            tag("strong", true),
            [tag("small", sign(e), tag("span", f"{e.label}: ", class_="heard"), text) for e, text in said],
            tag("small", f"image {image['index']}"),
        )
        shown.append(tag("li", tag("figure", picture, caption)))
    return tag("div", tag("h5", title), tag("ul", shown, class_="shots"), class_="direction")


def configurations(compared: Compared) -> Html:
    """Show every setting in which the runs differ."""
    anchor, title = f"{compared.section.slug}-configuration", "What differs in the configurations"
    known = [e.run.config for e in compared.entries if e.run.config is not None]
    keys = list(dict.fromkeys(key for config in known for key in config))
    differing = [
        k for k in keys if k.partition(".")[0] not in IDENTITY and len({config.get(k) for config in known}) > 1
    ]
    if not differing:
        text = (
            "The configurations do not differ."
            if len(known) > 1
            else "This needs two runs with readable configurations."
        )
        return part(anchor, title, paragraph(text))
    rows = [row(tag("code", key), [_setting(entry, key) for entry in compared.entries]) for key in differing]
    caption = (
        f"The {len(differing)} settings that are not the same in every run; a dash where a run has no such setting."
    )
    return part(anchor, title, table(caption, [run_heads(compared.entries, "Setting")], rows, title, class_="settings"))


def _setting(entry: Entry, key: str) -> Child:
    if entry.run.config is None:
        return missing(entry.run.gaps.get(CONFIG, NOT_RECORDED))
    value = entry.run.config.get(key)
    return missing("no such setting", "\u2013") if value is None else tag("td", tag("code", value))
