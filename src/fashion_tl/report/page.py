"""The page: sections, what was left out, how figures were made; one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from fashion_tl import __version__
from fashion_tl.report import pairs, per_run, views
from fashion_tl.report.analyses import analyses
from fashion_tl.report.elements import items, paragraph, part, row, sign, table
from fashion_tl.report.exports import Compared
from fashion_tl.report.html import Child, Html, join, script_data, tag
from fashion_tl.report.plots import Plot
from fashion_tl.report.selection import LeftOut

METHODS = (
    "Every figure is computed from the stored test predictions, metrics and records; nothing is typed in. The "
    "checkpoint that was tested is the one that validation chose.",
    "Interval of an accuracy: Wilson\u2019s score interval, 95 % (Wilson 1927). Of loss, precision, recall and F1: "
    "percentile bootstrap over the test images, 1,000 resamples, 95 % (Efron 1979). They tell how much the choice of "
    "test images matters, not how much the seed does.",
    "Precision, recall and F1 are means over the classes (macro). A class that is never predicted counts as 0.",
    "Loss: mean negative log likelihood in nats. Calibration error: expected calibration error over 15 bins of equal "
    "width (Naeini 2015, Guo 2017), as measured on these images. Chance opens gaps of confidence and accuracy in the "
    "bins and so raises it above the true error, most with few images (Br\u00f6cker and Smith 2007, Kumar 2019). Its "
    "95 % interval is of the true error over these bins: the errors that tests of the measured one do not reject, "
    "however they divide among the bins. It begins at 0 where chance alone explains what was measured.",
    "Significance: McNemar\u2019s exact two-sided test on the same images (McNemar 1947), adjusted over all pairs of a "
    "section (Holm 1979).",
    "Trained parameters: of the phase that trains most. Wall-clock: seconds of fitting, validation included, and of "
    "computing frozen activations where the cache had none. Peak memory: of the process, or of the GPU in use.",
    "Runs on other test images, with other classes or from another version of fashion_tl have sections of their own; "
    "nothing is compared or averaged across sections.",
)


def page(sections: Sequence[Compared], plots: dict[str, Plot], left_out: Sequence[LeftOut], log_dir: Path) -> str:
    """Write the whole page.

    Args:
        sections: Sections with their numbers.
        plots: Plots of all sections by name.
        left_out: Runs that are not compared.
        log_dir: Folder of the records, to find the test images in.
    """
    room = files("fashion_tl.report")
    bodies = [_section(compared, plots, log_dir) for compared in sections]
    count = sum(len(compared.entries) for compared in sections)
    newest = max((e.run.text("finished") or "" for c in sections for e in c.entries), default="")
    when = f" The newest of them finished {newest[:16].replace('T', ' ')} UTC." if newest else ""
    title = f"Comparison of {count} run{'s' * (count != 1)}"
    written = Template((room / "page.html").read_text(encoding="utf-8")).substitute(
        title=join([title]),
        about=join([f"Computed by fashion_tl {__version__} from the records in {log_dir}.{when}"]),
        style=(room / "page.css").read_text(encoding="utf-8"),
        script=(room / "page.js").read_text(encoding="utf-8"),
        contents=_contents(sections, bodies, bool(left_out)),
        alarms=_alarms(sections, left_out),
        sections=join([body for body, _ in bodies]),
        left_out=_left_out(left_out) or "",
        methods=part("methods", "How the figures are made", items(METHODS)),
        files=script_data("files", sorted(f"plots/{name}.{kind}" for name in plots for kind in ("png", "svg"))),
    )
    return "\n".join(line.rstrip() for line in written.splitlines()) + "\n"


def _section(compared: Compared, plots: dict[str, Plot], log_dir: Path) -> tuple[Html, list[tuple[str, str]]]:
    slug = compared.section.slug
    parts = [
        views.main_table(compared),
        views.bars(compared, plots),
        views.curves(compared, plots),
        views.cost(compared, plots),
        pairs.significance(compared),
        views.seeds(compared),
        per_run.classes(compared),
        per_run.confusions(compared, plots),
        pairs.two_models(compared, log_dir),
        per_run.calibration(compared, plots),
        per_run.filters(compared, plots),
        analyses(compared),
        pairs.configurations(compared),
        _gaps(compared),
    ]
    shown = [p for p in parts if p is not None]
    keys = [
        tag(
            "button",
            sign(e),
            e.label,
            type="button",
            aria_pressed="true",
            data_run=e.number,
            title="show or hide in the plots",
        )
        for e in compared.entries
    ]
    body = tag(
        "section",
        tag("h2", compared.title, id=slug),
        paragraph(compared.what, ".", class_="what"),
        views.lead(compared),
        tag("div", keys, class_="keys", role="group", aria_label="Runs in the plots"),
        shown,
        aria_labelledby=slug,
        class_="compared",
        data_slug=slug,
    )
    return body, [_heading(p) for p in shown]


def _heading(shown: Html) -> tuple[str, str]:
    """Find anchor and title of a part, both escaped already."""
    start = shown.index('<h3 id="') + len('<h3 id="')
    anchor, _, rest = shown[start:].partition('">')
    return anchor, rest.partition("</h3>")[0]


def _contents(sections: Sequence[Compared], bodies: Sequence[tuple[Html, list[tuple[str, str]]]], more: bool) -> Html:
    entries: list[Child] = []
    for compared, (_, headings) in zip(sections, bodies, strict=True):
        inner = [tag("li", tag("a", Html(title), href=Html(f"#{anchor}"))) for anchor, title in headings]
        entries.append(tag("li", tag("a", compared.title, href=f"#{compared.section.slug}"), tag("ul", inner)))
    if more:
        entries.append(tag("li", tag("a", "Left out", href="#left-out")))
    entries.append(tag("li", tag("a", "How the figures are made", href="#methods")))
    return tag("ul", entries)


def _alarms(sections: Sequence[Compared], left_out: Sequence[LeftOut]) -> Html:
    """Say at the top what contradicts itself, and that something was left out or is shown apart."""
    alarms = [f"{e.label}: {text}." for c in sections for e in c.entries for text in e.run.alarms]
    said: list[Child] = []
    if alarms:
        said.append(
            tag("div", tag("strong", "Records that contradict themselves"), items(alarms), class_="alarm", role="alert")
        )
    if len(sections) > 1:
        kinds = [
            tag(
                "li",
                tag("a", c.title, href=f"#{c.section.slug}"),
                f": {', '.join(e.label for e in c.entries)} ({c.what})",
            )
            for c in sections
        ]
        why = "These runs differ in test images, classes or version of fashion_tl, so they are shown apart:"
        said.append(tag("div", paragraph(why), tag("ul", kinds), class_="note"))
    if left_out:
        link = tag("a", f"{len(left_out)} left out", href="#left-out")
        said.append(tag("div", paragraph("Not every run could be compared: ", link, "."), class_="note"))
    return join(said)


def _left_out(left_out: Sequence[LeftOut]) -> Html | None:
    if not left_out:
        return None
    rows = [row(item.run, [tag("td", item.why)]) for item in left_out]
    head = tag("tr", tag("th", "Run", scope="col"), tag("th", "Why", scope="col"))
    return part(
        "left-out",
        "Left out",
        table("Runs and versions that are part of no comparison above.", [head], rows, class_="words"),
    )


def _gaps(compared: Compared) -> Html | None:
    found = [(e, text) for e in compared.entries for text in (*e.run.notes, *e.run.gaps.values())]
    if not found:
        return None
    texts = [tag("span", tag("strong", e.label), ": ", text, ".") for e, text in found]
    about = "What these records do not hold, or hold in part. Nothing was put in its place."
    return part(f"{compared.section.slug}-gaps", "Gaps in the records", paragraph(about), items(texts))
