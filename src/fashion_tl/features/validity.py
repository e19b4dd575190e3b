"""Whether features of frozen stages may be cached: what data module and classifier declare."""

from __future__ import annotations

from collections.abc import Mapping

from fashion_tl.data.batches import VIEWS, Split, declared


def why_not(module: object, data: object, boundary: int, drawn: int | None = None) -> str | None:
    """Say why features below a boundary cannot be cached, or None if they can.

    Args:
        module: The classifier.
        data: The data module.
        boundary: The boundary.
        drawn: How many drawn views are to be kept where there are no fixed ones.
    """
    if boundary == 0:
        return "nothing is frozen"
    if not declared(module, "caches_features"):
        return f"{type(module).__name__} does not declare caches_features = True"
    if data is None:
        return "the trainer was given loaders, not a data module that offers its samples as splits"
    if not splits_of(data):
        return f"{type(data).__name__} does not offer its samples as splits (fashion_tl.data.batches.Split)"
    if getattr(data, "mix", None) is not None:
        return "training images are mixed (data.mix)"
    if getattr(getattr(module, "objective", None), "needs_images", False):
        return "the objective needs the images of each batch"
    views = declared(data, "views")
    if views is None:
        if drawn is not None:
            return _why_not_drawn(data)
        augment = getattr(data, "augment", None)
        if "views" not in vars(type(data)):
            return f"{type(data).__name__} does not declare its views"
        if augment is not None and "views" not in vars(type(augment)):
            return f"{type(augment).__name__} does not declare its views"
        return (
            "training images are augmented at random (only horizontal flips can be cached as they are; --cache_views K "
            "keeps K drawn views)"
        )
    unknown = [view for view in views if view not in VIEWS]
    if unknown or len(views) > 2:
        return f"the views {', '.join(views)} are declared; at most two of {', '.join(VIEWS)} can be cached"
    return None


def splits_of(data: object) -> Mapping[str, Split]:
    """Return the splits that a data module offers, by their names; none if it offers no such thing."""
    found = getattr(data, "splits", None)
    return found if isinstance(found, Mapping) and all(isinstance(split, Split) for split in found.values()) else {}


def _why_not_drawn(data: object) -> str | None:
    if declared(data, "drawn_views") is not None:
        return None
    augment = getattr(data, "augment", None)
    if "drawn_views" not in vars(type(data)):
        return f"{type(data).__name__} does not declare drawn_views"
    if declared(augment, "replayable"):
        return "views are drawn with the seed of the run, and it has none (--seed_everything)"
    return f"{type(augment).__name__} does not declare replayable = True"
