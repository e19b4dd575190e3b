"""The page: every number in it from the predictions, everything escaped, every gap named, usable by everyone."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fashion_tl.metrics.metrics import summarise

from .conftest import CLASSES

EXACT = 1e-9
NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture
def folders(make: Any) -> dict[str, Path]:
    """Write three runs, the best first, and two more seeds of the second."""
    made = {"a": make.run("a", draw=1, skill=2.5)}
    for version in range(3):
        made["b"] = make.run("b", version, draw=5 + version, skill=1.5, filters=(70, 2, 3, 3))
    made["c"] = make.run("c", draw=3, skill=0.3, filters=None, classes=None)
    return made


def correct_of(make: Any, folder: Path) -> Any:
    labels, logits = make.logits(folder)
    return logits.argmax(axis=1) == labels


def data_rows(table: Any) -> dict[str, list[Any]]:
    """Return the cells of each row by the text of its heading."""
    rows = {}
    for body in table.all("tbody"):
        for row in body.all("tr"):
            cells = [c for c in row.children if c.tag in ("td", "th")]
            rows[cells[0].text] = cells[1:]
    return rows


# Numbers


def test_confusion_matrices(folders: dict[str, Path], make: Any, report: Callable[..., Any]) -> None:
    import sklearn.metrics as sklearn

    built = report()
    for name, folder in folders.items():
        labels, logits = make.logits(folder)
        expected = sklearn.confusion_matrix(labels, logits.argmax(axis=1), labels=range(4)).tolist()
        embedded = json.loads(built.root.one("script", id="fashion_mnist-data").text)
        assert embedded["matrices"][embedded["runs"].index(name)] == expected


@pytest.mark.slow
def test_the_confusion_tables(folders: dict[str, Path], make: Any, report: Callable[..., Any]) -> None:
    from sklearn.metrics import confusion_matrix

    built = report()
    for name, folder in folders.items():
        labels, logits = make.logits(folder)
        expected = confusion_matrix(labels, logits.argmax(axis=1), labels=range(4)).tolist()
        (table,) = [t for t in built.root.all("table", class_="matrix") if t.one("caption").text == name]
        assert [[int(c.text) for c in row] for row in data_rows(table).values()] == expected


@pytest.mark.slow
def test_calibration_errors_beside_the_diagrams(
    folders: dict[str, Path], make: Any, parse: Any, tmp_path: Path
) -> None:
    from fashion_tl.report.compare import compare

    compare(log_dir=make.logs, output=tmp_path / "out")
    root = parse((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    part = root.one("section", aria_labelledby="fashion_mnist-calibration")
    errors = [float(s.get("title")) for s in part.all("span") if "title" in s.attributes]
    table = next(t for t in root.all("table", class_="main"))
    shown = [float(c.get("data-sort")) for c in table.all("td", data_key="calibration_error")]
    assert errors == shown
    ids = [n.get("id") for n in _all(root) if "id" in n.attributes]
    assert len(ids) == len(set(ids))
    assert [s.get("aria-label") for s in part.all("svg", role="img")] == [f"Reliability diagram of {n}" for n in "abc"]


def test_classification_reports(folders: dict[str, Path], make: Any, report: Callable[..., Any]) -> None:
    import sklearn.metrics as sklearn

    built = report()
    table = built.table("Classification reports")
    runs = [h.text for h in table.one("thead").all("th")][2:]
    groups = {body.children[0].text: body for body in table.all("tbody")}
    assert sorted(groups) == ["F1", "Precision", "Recall"]
    for column, name in enumerate(runs):
        labels, logits = make.logits(folders[name])
        predicted = logits.argmax(axis=1)
        figures = sklearn.precision_recall_fscore_support(labels, predicted, labels=range(4), zero_division=0)
        for title, expected in zip(("Precision", "Recall", "F1"), figures, strict=False):
            rows = [[c for c in row.children if c.tag == "td"] for row in groups[title].children[1:]]
            shown = [float(row[1 + column].get("data-sort")) for row in rows]
            assert shown == pytest.approx([*expected, expected.mean()], abs=EXACT)
            assert [int(row[0].text) for row in rows] == [*figures[3], len(labels)]


def test_the_means_of_a_classification_report_are_the_runs_figures_where_a_class_does_not_occur(
    make: Any, report: Callable[..., Any]
) -> None:
    """Class 3 occurs nowhere, and one of the runs predicts it."""
    for name, bias in (("a", -50.0), ("b", 9.0)):
        folder = make.run(name, images=40)
        labels = np.arange(40) % 3
        logits = 4 * np.eye(4, dtype=np.float32)[np.where(np.arange(40) < 6, (labels + 1) % 3, labels)]
        logits[0, 3] += bias
        np.savez_compressed(folder / "test_predictions.npz", index=np.arange(40), label=labels, logits=logits)
        make.change(folder, test=summarise(logits, labels, CLASSES))
    built = report()
    table, figures = built.table("Classification reports"), built.sections[0].entries
    bodies = {body.children[0].text: body for body in table.all("tbody")}
    for title, mean in (("F1", "macro_f1"), ("Precision", "macro_precision"), ("Recall", "balanced_accuracy")):
        *_, absent, means = [list(row.all("td"))[1:] for row in bodies[title].children[1:]]
        assert [float(cell.get("data-sort")) for cell in means] == [each.figures.values[mean] for each in figures]
        unknown = {each.label for each, cell in zip(figures, absent, strict=True) if cell.text == "\u2013"}
        assert unknown == ({"a", "b"} if title == "Recall" else {"a"})


def test_significance(folders: dict[str, Path], make: Any, report: Callable[..., Any]) -> None:
    import scipy.stats as scipy

    table = report().table("McNemar")
    columns = [h.text for h in table.one("thead").all("th")][1:]
    p_values, shown = [], []
    for row, cells in data_rows(table).items():
        for column, cell in zip(columns, cells, strict=True):
            if not cell.text:
                continue
            a, b = correct_of(make, folders[column]), correct_of(make, folders[row])
            counts = int((a & ~b).sum()), int((b & ~a).sum())
            assert cell.one("small").text == f"{counts[0]} : {counts[1]}"
            p_values.append(scipy.binomtest(counts[0], sum(counts)).pvalue)
            shown.append(float(cell.get("data-sort")))
    assert len(shown) == 3
    order = np.argsort(p_values)
    raised = np.maximum.accumulate(np.array(p_values)[order] * [3, 2, 1])
    assert [shown[i] for i in order] == pytest.approx(list(np.minimum(raised, 1)), abs=EXACT)


def test_seeds(folders: dict[str, Path], make: Any, report: Callable[..., Any]) -> None:
    rows = data_rows(report().table("Mean ± standard deviation"))
    assert list(rows) == ["b"]
    values = [float(correct_of(make, make.logs / "b" / f"version_{v}").mean()) for v in range(3)]
    accuracy = rows["b"][1]
    assert rows["b"][0].text == "7, 6, 5"
    assert float(accuracy.get("data-mean")) == pytest.approx(np.mean(values), abs=EXACT)
    assert float(accuracy.get("data-deviation")) == pytest.approx(np.std(values, ddof=1), abs=EXACT)
    assert accuracy.text == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


def test_the_difference_is_best_minus_second(folders: dict[str, Path], make: Any, report: Callable[..., Any]) -> None:
    built = report()
    table = next(built.root.all("table", class_="difference"))
    embedded = json.loads(built.root.one("script", id="fashion_mnist-data").text)
    first, second = (np.array(m) for m in embedded["matrices"][:2])
    shown = [[int(c.text.replace("\u2212", "-")) for c in row] for row in data_rows(table).values()]
    assert shown == (first - second).tolist()
    assert "Confusions of a minus those of b" in table.one("caption").text
    for select, chosen in zip(built.root.all("select"), ("0", "1"), strict=True):
        assert [o.get("value") for o in select.all("option") if "selected" in o.attributes] == [chosen]
        assert [o.text for o in select.all("option")] == ["a", "b", "c"]


def test_images_that_one_gets_right(folders: dict[str, Path], make: Any, report: Callable[..., Any]) -> None:
    make.pictures()
    built = report()
    data = json.loads(built.root.one("script", id="fashion_mnist-data").text)
    assert len(data["shown"]) == 6
    for key, places in data["shown"].items():
        a, b = (data["runs"][int(i)] for i in key.split("-"))
        only = correct_of(make, folders[a]) & ~correct_of(make, folders[b])
        assert len(places) == min(8, only.sum())
        for place in places:
            image = data["pool"][place]
            labels, _ = make.logits(folders[a])
            assert only[image["index"]]
            assert image["label"] == labels[image["index"]]
            assert image["picture"].startswith("data:image/png;base64,")
            for run, said in zip(data["runs"], image["predicted"], strict=True):
                assert said == make.logits(folders[run])[1][image["index"]].argmax()
    for direction, key in zip(built.root.all("div", class_="direction"), ("0-1", "1-0"), strict=True):
        a, b = (data["runs"][int(i)] for i in key.split("-"))
        only = int((correct_of(make, folders[a]) & ~correct_of(make, folders[b])).sum())
        assert direction.one("h5").text == f"Only {a} is correct: {only}"
        images = [
            f"Test image {data['pool'][p]['index']}, {data['classes'][data['pool'][p]['label']]}"
            for p in data["shown"][key]
        ]
        assert [i.get("alt") for i in direction.all("img")] == images


def test_what_differs_in_the_configurations(make: Any, report: Callable[..., Any]) -> None:
    make.run("a", config={"model.init_args.lr": 0.1, "data.only": [1, 2], "study": "x"})
    make.run("b", draw=1, config={"model.init_args.lr": 0.2})
    make.run("c", draw=2, without=("config.yaml",))
    table = report().table("The 3 settings")
    columns = [h.text for h in table.one("thead").all("th")][1:]
    rows = {key: dict(zip(columns, [c.text for c in cells], strict=True)) for key, cells in data_rows(table).items()}
    assert sorted(rows) == ["data.only", "model.init_args.lr", "seed_everything"]
    assert rows["model.init_args.lr"] == {"a": "0.1", "b": "0.2", "c": "not recorded"}
    assert rows["data.only"] == {"a": "[1, 2]", "b": "\u2013", "c": "not recorded"}


def test_equal_configurations(make: Any, report: Callable[..., Any]) -> None:
    make.run("a")
    make.run("b")
    assert "do not differ" in report().part("What differs in the configurations").text


# Words


@pytest.mark.parametrize(
    ("draws", "told"),
    [
        ({"a": (1, 3.0)}, "a has a test accuracy of 0."),
        ({"a": (1, 3.0), "b": (1, 3.0), "c": (2, 0.0)}, "a, b are equally accurate: 0."),
        (
            {"a": (1, 0.5), "b": (2, 6.0)},
            "b is the most accurate: 1.0000 (0.9398 to 1.0000), after 42 s of training. It alone is correct on",
        ),
    ],
)
def test_the_leading_words(make: Any, report: Callable[..., Any], draws: dict[str, Any], told: str) -> None:
    for name, (draw, skill) in draws.items():
        make.run(name, draw=draw, skill=skill)
    assert report().root.one("p", class_="lead").text.startswith(told)


@pytest.mark.parametrize(("skills", "told"), [((0.1, 6.0), ": a significant"), ((2.0, 2.1), ": not a significant")])
def test_the_verdict_in_words(make: Any, report: Callable[..., Any], skills: tuple[float, ...], told: str) -> None:
    for draw, skill in enumerate(skills):
        make.run("ab"[draw], draw=draw, skill=skill)
    assert told in report().root.one("p", class_="lead").text


def test_titles_tell_sections_apart(make: Any, report: Callable[..., Any]) -> None:
    make.run("a")
    make.run("b", change={"environment.libraries.fashion_tl": "0.0.9"})
    make.run("c", change={"data.source": "folder", "data.test_set": "1" * 16})
    assert [h.text for h in report().root.all("h2")] == [
        "fashion_mnist, test set 0123456789ab, fashion_tl 0.1.0",
        "fashion_mnist, test set 0123456789ab, fashion_tl 0.0.9",
        "folder",
    ]


# Gaps


@pytest.mark.parametrize("name", ["test_predictions.npz", "metrics.csv", "config.yaml", "filters.npz"])
def test_a_gap_is_named_and_the_rest_is_shown(
    folders: dict[str, Path], make: Any, report: Callable[..., Any], name: str
) -> None:
    (folders["a"] / name).unlink()
    built = report()
    assert f"a: {name} is missing" in built.part("Gaps in the records").text
    row = next(r for r in built.table("Test figures").all("tr") if r.attributes.get("data-run") == "a")
    cells = list(row.all("td", class_="missing"))
    assert all(c.text in ("not recorded", "\u2013") for c in cells)
    scored = name != "test_predictions.npz"
    assert len(list(row.all("td", data_key="accuracy"))) == int(scored)
    if not scored:
        assert f"{name} is missing" in {c.attributes.get("title") for c in cells}
        assert "a" not in json.loads(built.root.one("script", id="fashion_mnist-data").text)["runs"]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.unlink(), "is missing; `fashion-tl fit` writes it"),
        (lambda path: path.write_bytes(b"PK no"), "is damaged"),
        (lambda path: np.savez(path, images=np.zeros((60, 8, 8)), label=np.zeros(60)), "does not hold the images"),
        (
            lambda path: np.savez(path, images=np.zeros((60, 8, 8), np.uint8), label=np.zeros(60)),
            "does not hold the images",
        ),
        (lambda path: np.savez(path, images=np.zeros((60, 8, 8), np.uint8)), "holds no label"),
    ],
)
def test_without_pictures_of_the_test_images(
    folders: dict[str, Path], make: Any, report: Callable[..., Any], spoil: Callable[[Path], None], told: str
) -> None:
    path = make.pictures()
    spoil(path)
    built = report()
    part = built.part("Two runs against each other")
    assert told in part.text
    assert str(path) in part.text
    assert list(part.all("img")) == []
    assert "image " in next(part.all("ul", class_="shots")).text


def test_an_older_record_says_why_there_are_no_pictures(make: Any, report: Callable[..., Any]) -> None:
    for draw, name in enumerate("ab"):
        make.run(name, draw=draw, change={"data.test_set": "absent", "study": "absent"})
    built = report()
    assert "these records name no test set" in built.part("Two runs against each other").text
    row = next(r for r in built.table("Test figures").all("tr") if r.attributes.get("data-run") == "a")
    assert list(row.all("td", class_="missing")) == []  # no columns of studies where there is none


def test_a_test_set_that_is_a_path(make: Any, report: Callable[..., Any]) -> None:
    make.pictures("secret")
    for draw, name in enumerate("ab"):
        make.run(name, draw=draw, change={"data.test_set": "../test_sets/secret"})
    assert "is missing" in report().part("Two runs against each other").text


def test_nothing_is_readable(make: Any, report: Callable[..., Any]) -> None:
    for name in "ab":
        make.run(name, without=("test_predictions.npz", "metrics.csv", "config.yaml", "filters.npz"))
        make.change(make.logs / name / "version_0", model="absent", time="absent", environment="absent", test="absent")
    built = report()
    assert "No test predictions can be read, so there is nothing to compare." in built.text
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", built.root.one("main").text)


def test_a_single_run(make: Any, report: Callable[..., Any]) -> None:
    make.run("a")
    built = report()
    for title in ("Is the difference real?", "Two runs against each other", "What differs in the configurations"):
        assert "two runs" in built.part(title).text


def test_left_out_runs_are_named(folders: dict[str, Path], make: Any, report: Callable[..., Any]) -> None:
    make.run("bad", change={"status": "failed", "reason": NASTY})
    (make.logs / "torn" / "version_0").mkdir(parents=True)
    built = report()
    rows = data_rows(built.table("Runs and versions"))
    assert sorted(rows) == ["bad/version_0", "torn/version_0"]
    assert rows["bad/version_0"][0].text == f"failed: {NASTY}"
    assert "2 left out" in built.root.one("main").text
    assert list(rows["bad/version_0"][0].all("details")) == []


def test_a_long_reason_is_folded(make: Any, report: Callable[..., Any]) -> None:
    reason = " ".join(f"word{i}" for i in range(200))
    make.run("a")
    make.run("bad", change={"status": "failed", "reason": reason})
    folded = report().root.one("table", class_="words").one("details")
    assert len(folded.one("summary").text) < 200
    assert folded.text.replace("\u2026", "") == f"failed: {reason}"


def test_sections_never_mix(make: Any, report: Callable[..., Any]) -> None:
    make.run("a")
    make.run("b", draw=1, change={"data.test_set": "1" * 16})
    make.run("c", draw=2, change={"environment.libraries.fashion_tl": "0.0.9"})
    make.run("d", draw=3, images=40, classes=["x", "y"], change={"data.test_set": "2" * 16, "data.source": "folder"})
    built = report()
    sections = list(built.root.all("section", class_="compared"))
    shown = [[r.get("data-run") for r in s.all("tr") if "data-run" in r.attributes] for s in sections]
    assert shown == [["a"], ["b"], ["c"], ["d"]]
    assert "made by fashion_tl 0.0.9" in sections[2].text
    assert "40 test images, 2 classes" in sections[3].text
    assert "shown apart" in built.root.one("main").text


# Safety and shape


def test_html_in_names_stays_text(make: Any, report: Callable[..., Any], parse: Any) -> None:
    label = f"r {NASTY}"
    for draw, name in enumerate((label, "b</script><script>alert(2)</script>")):
        folder = make.logs / name.replace("/", "\u2215")
        make.run(folder.name, draw=draw, classes=[NASTY, "</script>", "a&b", '" onload="x'])
        make.change(
            folder / "version_0",
            model__architecture=NASTY,
            study={"system": NASTY, "accuracy": NASTY},
            environment__device=f"{NASTY}{draw}",
            data__source=NASTY,
        )
    make.run("seeded", 0, classes=[NASTY, "</script>", "a&b", '" onload="x'], config={"x": NASTY, f"k{NASTY}": 1})
    make.pictures()
    built = report()
    tags = Counter(n.tag for n in _all(built.root))
    assert tags["script"] == 2
    assert all(i.get("src").startswith("data:image/png") for i in built.root.all("img"))
    assert not [a for n in _all(built.root) for a in n.attributes if a.startswith("on")]
    assert built.table("Test figures").text.count(NASTY) >= 4


def _all(node: Any) -> list[Any]:
    return [c for child in node.children if not isinstance(child, str) for c in (child, *_all(child))]


def test_accessible(folders: dict[str, Path], make: Any, report: Callable[..., Any]) -> None:
    make.pictures()
    root = report().root
    nodes = _all(root)
    assert root.one("html").get("lang") == "en"
    for landmark in ("header", "main", "nav", "h1"):
        assert len(list(root.all(landmark))) == 1
    ids = Counter(n.get("id") for n in nodes if "id" in n.attributes)
    assert max(ids.values()) == 1
    for node in nodes:
        if node.tag == "th":
            assert node.get("scope") in ("row", "col", "rowgroup")
        if node.tag == "img":
            assert node.get("alt")
        if node.tag == "table":
            assert node.one("caption").text
        if node.tag == "svg":
            assert node.attributes.get("aria-hidden") == "true" or node.attributes.get("aria-label")
        for key in ("aria-labelledby", "for"):
            assert key not in node.attributes or node.get(key) in ids
        link = node.attributes.get("href")
        if node.tag == "a" and link and link.startswith("#"):
            assert link[1:] in ids
    heads = list(root.one("table", class_="main").one("thead").all("th"))
    assert all(len(list(h.all("button"))) == 1 for h in heads)
    assert [h.get("aria-sort") for h in heads] == ["none", "descending", *["none"] * (len(heads) - 2)]


def test_the_page_needs_nothing_else(folders: dict[str, Path], make: Any, report: Callable[..., Any]) -> None:
    make.pictures()
    built = report()
    for node in _all(built.root):
        for key in ("src", "href", "xlink:href", "srcset", "data"):
            value = node.attributes.get(key)
            assert value is None or re.match(r"data:|#|plots/|comparison\.", value), value
    assert not re.search(r"https?:|@import|url\((?!#|data:)", re.sub(r'xmlns[:a-z]*="[^"]*"', "", built.text))


# Further analyses


def test_analyses_are_shown_side_by_side(folders: dict[str, Path], report: Callable[..., Any]) -> None:
    from PIL import Image

    for name in ("a", "b"):
        folder = folders[name] / "analysis"
        folder.mkdir()
        Image.new("RGB", (4, 4)).save(folder / "x.png")
        Image.new("RGB", (4, 4)).save(folder / f"loose_{name}.png")
        table = {
            "caption": f"T {NASTY}",
            "columns": ["k", "v", "w"],
            "rows": [["r", 0.25, None], ["s", 1234, float("nan")]],
        }
        document = {"title": "Heat", "note": NASTY, "tables": [table], "pictures": [{"file": "x.png", "alt": "maps"}]}
        (folder / "heat.json").write_text(json.dumps(document), encoding="utf-8")
    (folders["a"] / "analysis" / "torn.json").write_text('{"title": ', encoding="utf-8")
    (folders["a"] / "analysis" / "list.json").write_text("[]", encoding="utf-8")
    bad = {"title": "Bad", "tables": [{"columns": ["a"], "rows": [[1, 2]]}]}
    (folders["a"] / "analysis" / "bad.json").write_text(json.dumps(bad), encoding="utf-8")
    flipped = bytearray((folders["a"] / "analysis" / "x.png").read_bytes())
    flipped[-20] ^= 1  # in the pixels
    (folders["a"] / "analysis" / "flipped.png").write_bytes(flipped)
    away = {
        "title": "Away",
        "pictures": [{"file": name} for name in ("../../../x.png", "none.png", "bad.json", "flipped.png")],
    }
    (folders["a"] / "analysis" / "away.json").write_text(json.dumps(away), encoding="utf-8")
    part = report().part("Further analyses")
    (heat,) = part.all("div", data_kind="Heat")
    assert [a.one("h5").text for a in heat.all("article")] == ["a", "b"]
    assert [i.get("alt") for i in heat.all("img")] == ["maps", "maps"]
    cells = [c.text for c in next(heat.all("tbody")).all("td")]
    assert cells == ["0.2500", "not recorded", "1,234", "not recorded"]
    assert part.text.count(NASTY) == 4
    assert [i.get("alt") for i in part.all("img")].count("loose_a") == 1
    told = part.one("div", class_="note").text
    for name in (
        "torn.json",
        "list.json",
        "bad.json",
        "'../../../x.png' is not a file beside",
        "'none.png' cannot be read",
        "'flipped.png' cannot be read",
        "'bad.json' is not a PNG",
    ):
        assert name in told


def test_without_analyses_there_is_no_such_part(folders: dict[str, Path], report: Callable[..., Any]) -> None:
    assert "Further analyses" not in report().text


@pytest.mark.slow
def test_plots_take_the_ground_of_the_page(folders: dict[str, Path], make: Any, tmp_path: Path) -> None:
    from fashion_tl.report.compare import compare

    compare(log_dir=make.logs, output=tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    plots = re.findall(r'<svg class="plot".*?</svg>', page, re.DOTALL)
    assert len(plots) >= 8
    for plot in plots:  # the first patch is the figure's, which the style sheet clears
        axes = re.findall(r'id="[^"]*-patch_2">\s*<path [^>]*style="fill: ([^;"]+)', plot)
        assert "#ffffff" not in axes
