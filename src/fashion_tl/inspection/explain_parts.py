"""What ``explain`` finds out about a run, part by part: each part is a document with its pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fashion_tl.callbacks.pictures import first_convolution
from fashion_tl.data.transforms import visible
from fashion_tl.inspection import panel_grid as sheet
from fashion_tl.inspection import panels
from fashion_tl.inspection.channels import Objective, activation_maps, strongest, telling_channels, visualise
from fashion_tl.inspection.explain_text import (
    item_figures,
    layer_words,
    method_words,
    place_words,
    stem,
    target_figures,
)
from fashion_tl.inspection.explained_run import Advance, Subject, picture
from fashion_tl.inspection.heatmaps import METHODS, method_of
from fashion_tl.inspection.sanity import Step, randomise_downwards
from fashion_tl.metrics.errors import most_confident_mistakes
from fashion_tl.records.findings import Findings

EACH, MOST_CLASSES, WORST, RANDOMISED = 2, 20, 12, 6
EXEMPLARS, MOST_CHANNELS, MOST_MADE, STEPS = 8, 12, 12, 256


def maps_of(subject: Subject, method: str, advance: Advance) -> Findings:
    """Explain two test images of each class, the worst mistakes, and what is left of a map without training."""
    heat = method_of(method, subject.opened.module, advance)
    found = Findings(f"Where the evidence lies: {METHODS[method]}", method_words(subject, method))
    found.figures = {**target_figures(subject), "method": method}
    drawn = subject.explain(heat, subject.first_of_each_class(EACH, MOST_CLASSES))
    found.add_picture(
        f"{stem(method)}-classes.png",
        panels.draw_triples(
            drawn,
            f"{subject.label}: the first {EACH} test images of each class",
            f"Image, map and overlay for the predicted class ({place_words(subject, method)}). {panels.SCALE_NOTE}",
        ),
        f"The first {EACH} test images of each class with the map of the predicted class",
    )
    found.figures["classes"] = [item_figures(item) for item in drawn]
    _worst(subject, method, found, advance)
    _randomised(subject, method, found, advance)
    return found


def count_maps(subject: Subject) -> int:
    """Count the maps that ``maps_of`` computes, for a progress bar."""
    stages = len(subject.opened.module.network.stage_names) + 2
    positions = subject.first_of_each_class(EACH, MOST_CLASSES)
    mistakes = len(most_confident_mistakes(subject.probabilities, subject.labels, WORST))
    return len(positions) + 2 * mistakes + stages * len(subject.first_of_each_class(1, RANDOMISED))


def _worst(subject: Subject, method: str, found: Findings, advance: Advance) -> None:
    heat = method_of(method, subject.opened.module, advance)
    positions = most_confident_mistakes(subject.probabilities, subject.labels, WORST).tolist()
    found.figures["worst"] = []
    if not positions:
        found.note += " No test image is classified wrong."
        return
    drawn = subject.explain(heat, positions)
    against = subject.explain(heat, positions, [int(subject.labels[p]) for p in positions])
    found.add_picture(
        f"{stem(method)}-worst.png",
        panels.draw_triples(
            drawn,
            f"{subject.label}: its {len(drawn)} most confident mistakes",
            "Image, evidence for the predicted class, evidence for the true class. "
            f"{place_words(subject, method).capitalize()}. {panels.SCALE_NOTE}",
            against,
        ),
        "The most confident mistakes, with the evidence for the predicted and for the true class",
    )
    found.add_table(
        "Most confident mistakes",
        ["test image", "true class", "predicted class", "confidence"],
        [[str(item.index), item.truth, item.predicted, item.confidence] for item in drawn],
    )
    found.figures["worst"] = [item_figures(item) for item in drawn]


def _randomised(subject: Subject, method: str, found: Findings, advance: Advance) -> None:
    module = subject.opened.module
    positions = subject.first_of_each_class(1, RANDOMISED)
    images = subject.images(positions)
    with torch.no_grad():
        prepared = module.preprocess(images.to(module.device))
        classes = module(prepared).argmax(1)
    heat = method_of(method, module, advance)
    trained, steps = randomise_downwards(module.network, subject.target, prepared, classes, heat)
    shown = [steps[i] for i in _spread(len(steps), 6)]
    grounds = [picture(image) for image in images]
    rows = [
        [ground, *(sheet.overlay(ground, maps[i].cpu().numpy()) for maps in (trained, *(s.maps for s in shown)))]
        for i, ground in enumerate(grounds)
    ]
    heads = [("image", ""), ("trained", ""), *((f"{_from(step)}", _correlation(step)) for step in shown)]
    found.add_picture(
        f"{stem(method)}-randomised.png",
        panels.draw_table(
            rows,
            [subject.class_names[subject.labels[p]] for p in positions],
            heads,
            f"{subject.label}: the map when the network is made random from the head down",
            "Adebayo et al. 2018. Below each name: mean rank correlation with the trained network's map. A method "
            "whose map stays as it was (near 1) shows the image, not what was learned.",
        ),
        "Maps of the trained network and of ever more random ones",
    )
    found.add_table(
        f"Rank correlation with the trained network's map, {len(positions)} images, random from the head down to",
        ["stage", "mean rank correlation", "images with a map"],
        [[step.stage, step.mean, len([c for c in step.correlations if c is not None])] for step in steps],
    )
    found.figures["randomised"] = [
        {"stage": step.stage, "mean": step.mean, "correlations": step.correlations} for step in steps
    ]


def filters_of(subject: Subject) -> Findings:
    """Draw the filters of the first convolution."""
    convolution = first_convolution(subject.opened.module.network)
    found = Findings("First-layer filters")
    if convolution is None:
        found.note = "This network has no convolution, so there are no filters to draw."
        return found
    filters = visible(torch.from_numpy(convolution.weight))
    low, high = filters.amin((1, 2, 3), keepdim=True), filters.amax((1, 2, 3), keepdim=True)
    filters = (filters - low) / (high - low).clamp(min=1e-12)
    colour = filters.shape[1] == 3
    drawn = [picture(f) for f in filters[:128]]
    columns = min(16, len(drawn))
    rows = [drawn[i : i + columns] for i in range(0, len(drawn), columns)]
    title = f"{subject.label}: {len(drawn)} of {len(filters)} filters of {filters.shape[-2]} x {filters.shape[-1]}"
    note = f"First convolution, {'its three colours' if colour else 'grey'}; each filter scaled to its own range."
    found.note = note
    found.add_picture(
        "explain_filters-first_layer.png",
        panels.draw_table(rows, [""] * len(rows), [], title, note, side=0.5),
        f"{len(drawn)} filters of the first convolution",
    )
    return found


def channels_of(subject: Subject, wanted: Sequence[int], advance: Advance) -> Findings:
    """Find the test images that excite each of some channels most; those that tell classes apart if none is named."""
    survey = subject.survey(advance)
    classes = len(subject.class_names)
    channels = list(wanted) or telling_channels(survey.peaks, subject.labels, classes, MOST_CHANNELS)
    rows, heads, table = [], [], []
    for channel in channels:
        peaks = survey.peaks[:, channel]
        best = strongest(peaks, EXEMPLARS)
        images = subject.images(best)
        maps = activation_maps(subject.opened.module, subject.target, images)[:, channel]
        low, high = maps.amin(), maps.amax().clamp(min=1e-12)
        shares = ((maps - low.clamp(max=0)) / (high - low.clamp(max=0)).clamp(min=1e-12)).numpy()
        rows.append([sheet.outlined(picture(i), s) for i, s in zip(images, shares, strict=True)])
        labels = subject.labels[best]
        common = int(np.bincount(labels, minlength=classes).argmax())
        count = int((labels == common).sum())
        heads.append(f"channel {channel}\n{subject.class_names[common][:14]}\n{count} of {len(best)}")
        table.append([str(channel), subject.class_names[common], count, float(peaks[best[0]]), float(peaks.mean())])
    note = (
        f"The {EXEMPLARS} test images with the highest peak, of {len(subject.labels):,}; bright is where the channel "
        f"exceeds half of its highest activation. {layer_words(subject)}."
    )
    if not wanted:
        note += " Channels: for each class the one whose peak sets it apart from all others most."
    found = Findings("Test images that excite a channel most", note, figures=target_figures(subject))
    found.add_picture(
        "explain_channels-exemplars.png",
        panels.draw_table(rows, heads, [], f"{subject.label}: what excites a channel", note),
        f"The {EXEMPLARS} test images that excite each of {len(channels)} channels most",
    )
    columns = ["channel", "commonest class", f"of {EXEMPLARS}", "highest peak", "mean peak"]
    found.add_table("What excites a channel most", columns, table)
    return found


def features_of(subject: Subject, objectives: Sequence[Objective], seed: int, advance: Advance) -> Findings:
    """Make images that excite channels or classes, all classes if none is named."""
    wanted = list(objectives) or [Objective("class", i, n) for i, n in enumerate(subject.class_names[:MOST_MADE])]
    made = visualise(subject.opened.module, subject.target, wanted, STEPS, seed, advance)
    note = (
        f"{STEPS} steps of gradient ascent on the image's Fourier spectrum, turned, zoomed and shifted at random, with "
        f"a cost of total variation (Olah et al. 2017); seed {seed}. {layer_words(subject)}."
    )
    found = Findings(
        "Images made to excite a class or a channel", note, figures={**target_figures(subject), "seed": seed}
    )
    columns = min(4, len(wanted))
    drawn = [sheet.resized_colour(picture(image), 224) for image in made.images]
    captions = [
        (o.name, f"{before:.1f} → {after:.1f}")
        for o, before, after in zip(wanted, made.before, made.after, strict=True)
    ]
    found.add_picture(
        "explain_features-made.png",
        panels.draw_captioned(drawn, captions, f"{subject.label}: what excites a class or a channel", note, columns),
        "Images made to excite " + ", ".join(o.name for o in wanted),
    )
    rows = [[o.name, o.kind, b, a] for o, b, a in zip(wanted, made.before, made.after, strict=True)]
    found.add_table(
        "Logit of the class, or mean activation of the channel", ["of", "kind", "at first", "at last"], rows
    )
    return found


def _spread(count: int, most: int) -> list[int]:
    """Choose at most some of so many places, evenly, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})


def _from(step: Step) -> str:
    return step.stage.rpartition("features.")[2] if step.stage.startswith("features.") else step.stage


def _correlation(step: Step) -> str:
    return "no map" if step.mean is None else f"{step.mean:.2f}"
