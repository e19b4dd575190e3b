"""The source task of the offline demo: things that are not garments, drawn with the same pen, light and noise.

Several classes share an outline and differ in a detail (cup and jug, envelope and book, snowman and gingerbread man),
so that a network trained on them has to look at details as well as at outlines. Some have parts that garments have
too, such as arms, legs, handles, soles and buttons: that is what there is to transfer.
"""

from __future__ import annotations

from fashion_tl.data.drawing import Artist, Pen, Point, mirrored, oval
from fashion_tl.data.synthetic import SyntheticSource


def _detail(pen: Pen) -> float:
    return pen.between(0.18, 0.45) * (1 if pen.chance(0.5) else -1)


def _box(left: float, top: float, right: float, bottom: float) -> list[Point]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _ring(pen: Pen, x: float, y: float, rx: float, ry: float, thick: float, delta: float = 0.0) -> None:
    pen.oval(x, y, rx, ry, delta)
    pen.cut(oval(x, y, rx - thick, ry - thick), smooth=1)


def _cup(pen: Pen) -> None:
    top, bottom, height = pen.between(0.5, 0.7), pen.between(0.3, 0.65), pen.between(0.45, 0.75)
    grip = pen.between(0.22, 0.38)
    _ring(pen, top, pen.between(-0.15, 0.05), grip, height * 0.6, pen.between(0.1, 0.16))
    pen.fill(mirrored([(top, -height), (top * 0.6 + bottom * 0.4, 0.2), (bottom, height)]))
    if pen.chance(0.7):
        pen.oval(0, -height, top, pen.between(0.06, 0.16), -pen.between(0.15, 0.4), 0)
    if pen.chance(0.4):
        pen.line([(-top + 0.06, height * 0.4), (top - 0.06, height * 0.4)], _detail(pen), 0.1)


def _jug(pen: Pen) -> None:
    neck, belly, foot = pen.between(0.28, 0.42), pen.between(0.45, 0.65), pen.between(0.3, 0.45)
    _ring(pen, belly - 0.05, -0.2, pen.between(0.25, 0.4), pen.between(0.4, 0.55), pen.between(0.1, 0.16))
    pen.fill([(-neck - pen.between(0.12, 0.3), -0.98), (-neck, -0.7), (neck, -0.7), (neck, -0.95)])
    pen.fill(mirrored([(neck, -0.85), (neck, -0.6), (belly, 0.0), (belly, 0.5), (foot, 0.95), (foot, 0.95)]), smooth=1)
    if pen.chance(0.5):
        pen.line([(-belly, 0.25), (belly - 0.05, 0.25)], _detail(pen), 0.1)


def _bottle(pen: Pen) -> None:
    neck, body = pen.between(0.1, 0.17), pen.between(0.28, 0.42)
    shoulder = pen.between(-0.35, 0.05)
    pen.fill(mirrored([(neck, -1.0), (neck, shoulder - 0.25), (body, shoulder), (body, 1.0)]))
    detail = _detail(pen)
    pen.fill(_box(-neck - 0.03, -1.05, neck + 0.03, -0.88), detail, 0)
    if pen.chance(0.7):
        pen.fill(_box(-body, shoulder + 0.2, body, pen.between(0.5, 0.8)), detail, 0.2)


def _vase(pen: Pen) -> None:
    lip, neck, belly = pen.between(0.25, 0.45), pen.between(0.14, 0.26), pen.between(0.42, 0.6)
    for _ in range(int(pen.between(0, 4))):
        x = pen.between(-0.5, 0.5)
        pen.line([(0, -0.4), (x, -1.2)], 0.1, 0.06)
        pen.oval(x, -1.2, 0.16, 0.16, 0.25, 0)
    half = [(lip, -0.72), (lip, -0.68), (neck, -0.4), (belly, 0.1), (belly * 0.9, 0.5), (0.25, 0.95), (0.25, 0.95)]
    pen.fill(mirrored(half), smooth=1)
    if pen.chance(0.5):
        pen.line([(-belly + 0.06, 0.2), (belly - 0.06, 0.2)], _detail(pen), 0.1)


def _chair(pen: Pen) -> None:
    seat, lean, leg = pen.between(0.0, 0.15), pen.between(-0.05, 0.18), pen.between(0.1, 0.16)
    pen.bar((-0.5, seat), (-0.5 - lean, -0.98), 0.16)
    if pen.chance(0.5):
        pen.fill([(-0.5 - lean, -0.95), (0.15 - lean, -0.85), (0.2, seat), (-0.5, seat)], _detail(pen) * 0.5)
    pen.fill([(-0.6, seat - 0.05), (0.5, seat - 0.05), (0.6, seat + 0.14), (-0.58, seat + 0.14)])
    for x in (-0.5, 0.5):
        pen.bar((x, seat), (x + x * pen.between(0, 0.3), 0.98), leg)
    if pen.chance(0.5):
        pen.line([(-0.5, 0.6), (0.5, 0.6)], -0.1, 0.07)


def _table(pen: Pen) -> None:
    top, leg = pen.between(-0.5, -0.2), pen.between(0.08, 0.15)
    inset, thick = pen.between(0.0, 0.3), pen.between(0.1, 0.22)
    if pen.chance(0.25):
        pen.bar((0, top), (0, 0.6), 0.2)
        pen.fill(mirrored([(0.1, 0.5), (0.5, 0.65)]))
    else:
        for x in (-0.9 + inset, 0.9 - inset):
            pen.bar((x, top), (x * pen.between(0.9, 1.1), 0.65), leg)
    if pen.chance(0.4):
        pen.fill(_box(-0.75, top, 0.75, top + 0.35), -0.15)
        pen.oval(0, top + 0.2, 0.07, 0.07, 0.3, 0)
    pen.fill(mirrored([(0.95, top - thick), (1.0, top)]))


def _house(pen: Pen) -> None:
    wall, eaves, ridge = pen.between(0.5, 0.75), pen.between(-0.3, 0.0), -pen.between(0.75, 1.0)
    if pen.chance(0.5):
        pen.fill(_box(0.25, -0.95, 0.45, -0.3), -0.1)
    pen.fill(_box(-wall, eaves, wall, 0.85))
    pen.fill(mirrored([(pen.between(0.0, 0.35), ridge), (wall + 0.15, eaves + 0.05)]), _detail(pen))
    detail, door = _detail(pen), pen.between(-0.3, 0.3)
    pen.fill(_box(door - 0.12, 0.3, door + 0.12, 0.85), detail, 0)
    for x in (-0.35, 0.35):
        if pen.chance(0.7):
            pen.fill(_box(x - 0.12, 0.05, x + 0.12, 0.25), detail, 0)


def _tree(pen: Pen) -> None:
    trunk = pen.between(0.1, 0.2)
    pen.bar((0, 0.98), (0, -0.2), trunk * 1.4, trunk, -0.15)
    if pen.chance(0.4):
        for k in range(3):
            pen.fill(mirrored([(0.02, -1.0 + 0.4 * k), (0.35 + 0.15 * k, -0.4 + 0.42 * k)]), -0.08 * (k % 2))
    else:
        for _ in range(5):
            r = pen.between(0.3, 0.5)
            pen.oval(pen.between(-0.4, 0.4), pen.between(-0.65, 0.0), r, r, pen.between(-0.1, 0.1))


def _fish(pen: Pen) -> None:
    body, tail = pen.between(0.28, 0.5), pen.between(0.25, 0.5)
    pen.fill([(0.5, 0), (1.0, -tail), (0.85, 0), (1.0, tail)], -0.1)
    pen.fill([(-0.2, -body * 0.8), (0.15, -body - pen.between(0.1, 0.3)), (0.35, -body * 0.5)], -0.12)
    pen.fill([(-1, 0), (-0.6, -body), (0.2, -body), (0.75, 0), (0.2, body), (-0.6, body)], smooth=2)
    pen.oval(-0.62, -0.08, 0.08, 0.08, _detail(pen), 0)
    if pen.chance(0.6):
        pen.line([(-0.35, -body * 0.6), (-0.28, 0), (-0.35, body * 0.6)], -0.25, 0.06)


def _bird(pen: Pen) -> None:
    for x in (-0.05, 0.15):
        pen.line([(x, 0.4), (x - 0.05, 0.95)], -0.1, 0.07)
    pen.fill([(0.3, 0.0), (1.0, pen.between(-0.4, 0.35)), (0.95, 0.45), (0.3, 0.4)], -0.1)
    pen.fill([(-0.9, -0.45), (-0.5, -0.65), (-0.5, -0.35)], _detail(pen), 0)
    pen.fill([(-0.6, -0.2), (-0.2, -0.35), (0.6, 0.1), (0.4, 0.5), (-0.2, 0.6), (-0.6, 0.2)], smooth=2)
    pen.oval(-0.42, -0.45, 0.28, 0.28)
    pen.oval(-0.48, -0.5, 0.07, 0.07, _detail(pen), 0)
    pen.fill([(-0.2, 0.0), (0.65, pen.between(-0.5, 0.3)), (0.2, 0.35)], _detail(pen) * 0.7, smooth=1)


def _lamp(pen: Pen) -> None:
    top, wide, foot = pen.between(0.15, 0.4), pen.between(0.45, 0.7), pen.between(0.25, 0.5)
    pen.bar((0, -0.3), (0, 0.9), pen.between(0.08, 0.14), None, -0.1)
    pen.fill(mirrored([(foot * 0.6, 0.8), (foot, 0.98)]), _detail(pen))
    if pen.chance(0.4):
        pen.oval(0, 0.45, 0.25, 0.35, -0.1)
    low = pen.between(-0.3, 0.0)
    pen.fill(mirrored([(top, -0.98), (wide, low)]))
    if pen.chance(0.5):
        pen.line([(-wide, low), (wide, low)], _detail(pen), 0.09)


def _car(pen: Pen) -> None:
    roof, bonnet = -pen.between(0.35, 0.6), pen.between(-0.15, 0.05)
    front, back = pen.between(-0.45, -0.1), pen.between(0.45, 0.9)
    pen.fill([(front - 0.2, bonnet), (front, roof), (back - 0.15, roof), (back, bonnet)])
    pen.fill([(-1, bonnet + 0.1), (front - 0.2, bonnet), (0.95, bonnet), (1, 0.35), (-1, 0.35)])
    detail, pillar = _detail(pen), pen.between(0.1, 0.25)
    pen.fill([(front - 0.08, bonnet), (front + 0.06, roof + 0.1), (pillar, roof + 0.1), (pillar, bonnet)], detail, 0)
    pen.fill(
        [(pillar + 0.1, bonnet), (pillar + 0.1, roof + 0.1), (back - 0.22, roof + 0.1), (back - 0.1, bonnet)], detail, 0
    )
    for x in (-0.55, 0.55):
        pen.oval(x, 0.38, 0.22, 0.22, -0.3, 0)
        pen.oval(x, 0.38, 0.1, 0.1, 0.2, 0)


def _guitar(pen: Pen) -> None:
    upper, lower = pen.between(0.26, 0.36), pen.between(0.38, 0.5)
    pen.bar((0, 0.2), (0, -0.95), 0.13, None, _detail(pen))
    pen.fill(mirrored([(0.1, -1.05), (0.13, -0.82)]), -0.15)
    pen.oval(0, 0.1, upper, 0.28)
    pen.oval(0, 0.58, lower, 0.4)
    detail = _detail(pen)
    pen.oval(0, 0.32, 0.13, 0.13, detail, 0)
    pen.line([(-0.16, 0.7), (0.16, 0.7)], detail, 0.08)


def _cactus(pen: Pen) -> None:
    trunk, arm = pen.between(0.2, 0.3), pen.between(0.15, 0.24)
    for side in (1, -1):
        if pen.chance(0.85):
            low, reach = pen.between(-0.2, 0.35), pen.between(0.45, 0.7)
            pen.bar((0, low), (side * reach, low), arm, None, -0.08)
            pen.bar((side * reach, low + arm / 2), (side * reach, low - pen.between(0.3, 0.6)), arm)
    pen.fill(mirrored([(trunk * 0.6, -1.0), (trunk, -0.8), (trunk, 0.7)]), smooth=1)
    pen.fill(mirrored([(0.42, 0.55), (0.3, 0.98)]), _detail(pen), 0.3)


def _envelope(pen: Pen) -> None:
    width, height, fold = pen.between(0.8, 1.0), pen.between(0.45, 0.7), pen.between(-0.1, 0.25)
    pen.fill(_box(-width, -height, width, height))
    detail = _detail(pen)
    pen.line([(-width, -height), (0, fold), (width, -height)], detail, pen.between(0.06, 0.1))
    if pen.chance(0.5):
        pen.line([(-width, height), (-0.15, 0)], detail, 0.05)
        pen.line([(width, height), (0.15, 0)], detail, 0.05)
    if pen.chance(0.4):
        pen.oval(0, fold, 0.14, 0.14, -detail, 0)


def _book(pen: Pen) -> None:
    width, height = pen.between(0.55, 0.9), pen.between(0.6, 0.95)
    pen.fill(_box(-width, -height, width, height))
    detail = _detail(pen)
    pen.line([(-width + 0.12, -height), (-width + 0.12, height)], detail, pen.between(0.06, 0.12))
    if pen.chance(0.6):
        pen.fill(_box(-width + 0.35, -height + 0.2, width - 0.15, -height + pen.between(0.4, 0.7)), detail, 0)
    for k in range(int(pen.between(0, 4))):
        pen.line([(-width + 0.35, 0.1 + 0.16 * k), (width - 0.2, 0.1 + 0.16 * k)], detail, 0.06)


def _robot(pen: Pen) -> None:
    chest, hip = pen.between(0.34, 0.52), pen.between(0.28, 0.45)
    reach, spread, width = pen.between(0.35, 1.1), pen.between(0.02, 0.3), pen.between(0.14, 0.24)
    for side in (1, -1):
        hand = (side * (chest + 0.1 + spread), -0.35 + reach)
        pen.bar((side * chest, -0.35), hand, width, None, -0.06)
        pen.bar((side * hip * 0.55, 0.5), (side * hip * 0.6, 1.0), 0.24, None, -0.1)
    pen.fill(_box(-0.25, -0.95, 0.25, -0.5), pen.between(-0.1, 0.1))
    pen.fill(mirrored([(chest, -0.5), (hip, 0.6)]))
    detail = _detail(pen)
    for x in (-0.11, 0.11):
        pen.oval(x, -0.74, 0.06, 0.06, detail, 0)
    if pen.chance(0.6):
        pen.fill(_box(-chest * 0.55, -0.3, chest * 0.55, pen.between(-0.1, 0.2)), detail, 0)
    else:
        pen.line([(0, -0.5), (0, 0.6)], detail, 0.06)


def _gingerbread_man(pen: Pen) -> None:
    arm, lift, detail = pen.between(0.55, 0.8), pen.between(-0.3, 0.25), pen.between(0.15, 0.4)
    for side in (1, -1):
        pen.bar((0, -0.25), (side * arm, -0.25 + lift), pen.between(0.28, 0.38), 0.26)
        pen.oval(side * arm, -0.25 + lift, 0.15, 0.14)
        pen.bar((0, 0.2), (side * pen.between(0.25, 0.5), 0.9), pen.between(0.3, 0.4), 0.28)
        if pen.chance(0.4):
            pen.line([(side * arm * 0.8, -0.4 + lift), (side * arm * 0.8, -0.1 + lift)], detail, 0.06)
    pen.fill(mirrored([(0.22, -0.5), (0.32, -0.2), (0.28, 0.5)]))
    pen.oval(0, -0.68, 0.3, 0.3)
    for y in (-0.3, -0.08, 0.14, 0.36)[: int(pen.between(2, 5))]:
        pen.oval(0, y, 0.06, 0.06, detail, 0)


def _snowman(pen: Pen) -> None:
    small, large, detail = pen.between(0.28, 0.4), pen.between(0.45, 0.62), -pen.between(0.2, 0.45)
    if pen.chance(0.5):
        for side in (1, -1):
            pen.line([(side * small, -0.1), (side * pen.between(0.7, 0.95), pen.between(-0.5, 0.1))], detail, 0.07)
    pen.oval(0, 0.5, large, 0.48)
    pen.oval(0, -0.1, (small + large) / 2, 0.38)
    pen.oval(0, -0.6, small, 0.3)
    if pen.chance(0.5):
        pen.fill([(-0.25, -0.85), (-0.2, -1.2), (0.2, -1.2), (0.25, -0.85)], detail, 0.2)
    for y in (-0.2, 0.05, 0.4, 0.6)[: int(pen.between(2, 5))]:
        pen.oval(0, y, 0.06, 0.06, detail, 0)


def _penguin(pen: Pen) -> None:
    width, spread = pen.between(0.36, 0.52), pen.between(0.05, 0.35)
    for side in (1, -1):
        pen.bar((side * width * 0.85, -0.4), (side * (width + spread), pen.between(0.2, 0.6)), 0.22, 0.1, -0.08)
        pen.fill(_box(side * 0.2 - 0.14, 0.85, side * 0.2 + 0.14, 1.0), 0.2, 0)
    pen.fill(mirrored([(0.12, -1.0), (0.28, -0.85), (width, -0.2), (width, 0.5), (0.25, 0.98)]), smooth=1)
    pen.fill(
        mirrored([(0.04, pen.between(-0.6, -0.35)), (width * 0.6, 0.0), (width * 0.6, 0.5), (0.1, 0.85)]),
        _detail(pen),
        0,
        1,
    )


def _locomotive(pen: Pen) -> None:
    cab, boiler = -pen.between(0.5, 0.9), -pen.between(0.1, 0.3)
    pen.fill(_box(-0.75, boiler - pen.between(0.15, 0.4), -0.5, 0.1), -0.1)
    pen.fill([(-0.95, boiler), (0.3, boiler), (0.3, cab), (0.95, cab), (0.95, 0.4), (-1.0, 0.4)])
    detail = _detail(pen)
    pen.fill(_box(0.42, cab + 0.12, 0.8, boiler + 0.05), detail, 0)
    if pen.chance(0.5):
        pen.line([(pen.between(-0.4, 0.1), boiler), (-0.2, 0.35)], detail, 0.07)
    for x in (-0.65, -0.15, 0.55):
        pen.oval(x, 0.45, 0.2, 0.2, -0.25, 0)


def _iron(pen: Pen) -> None:
    top, heel = pen.between(-0.25, 0.0), pen.between(0.75, 0.95)
    pen.fill([(-0.35, top + 0.1), (-0.1, top - 0.35), (heel, top - 0.4), (heel, top + 0.3)], -0.1, smooth=1)
    pen.cut([(-0.1, top + 0.06), (0.0, top - 0.16), (heel - 0.22, top - 0.18), (heel - 0.2, top + 0.06)], smooth=1)
    pen.fill([(-1.0, 0.35), (-0.75, 0.15), (-0.3, top + 0.02), (heel, top + 0.02), (heel, 0.36)])
    pen.fill(
        [(-1.05, 0.33), (heel + 0.04, 0.33), (heel + 0.04, pen.between(0.42, 0.55)), (-1.0, 0.42)], _detail(pen), 0
    )
    if pen.chance(0.5):
        pen.oval(pen.between(0.0, 0.5), 0.15, 0.1, 0.1, _detail(pen), 0)


def _tongs(pen: Pen) -> None:
    spread, width, joint = pen.between(0.12, 0.4), pen.between(0.15, 0.24), pen.between(-0.8, -0.3)
    for side in (1, -1):
        pen.bar((0, joint), (side * spread, 1.0), width, width * pen.between(0.7, 1.2), pen.between(-0.1, 0))
        pen.bar((0, joint), (-side * spread * 0.5, joint - 0.35), width, width * 0.7)
    pen.oval(0, joint, width * 0.9, width * 0.9)
    if pen.chance(0.6):
        pen.oval(0, joint, 0.08, 0.08, _detail(pen), 0)


def _basket(pen: Pen) -> None:
    rim, foot, top = pen.between(0.7, 0.95), pen.between(0.45, 0.7), pen.between(-0.2, 0.15)
    span, rise = rim * pen.between(0.6, 1.0), pen.between(0.6, 0.9)
    _ring(pen, 0, top, span, rise, pen.between(0.1, 0.15), _detail(pen) * 0.4)
    pen.cut(_box(-1.1, top, 1.1, 1.2))
    if pen.chance(0.5):
        for x in (-0.4, 0.0, 0.4):
            pen.oval(x, top - 0.02, 0.22, 0.2, pen.between(-0.2, 0.3), 0)
    pen.fill(mirrored([(rim, top), (foot, 0.8)]))
    detail = _detail(pen)
    pen.line([(-rim, top), (rim, top)], detail, 0.1)
    for y in (0.25, 0.5)[: int(pen.between(0, 3))]:
        pen.line([(-foot - 0.1, y), (foot + 0.1, y)], detail, 0.06)


_ARTISTS: dict[str, Artist] = {
    "Cup": _cup,
    "Jug": _jug,
    "Bottle": _bottle,
    "Vase": _vase,
    "Chair": _chair,
    "Table": _table,
    "House": _house,
    "Tree": _tree,
    "Fish": _fish,
    "Bird": _bird,
    "Tongs": _tongs,
    "Robot": _robot,
    "Gingerbread man": _gingerbread_man,
    "Lamp": _lamp,
    "Car": _car,
    "Basket": _basket,
    "Penguin": _penguin,
    "Iron": _iron,
    "Snowman": _snowman,
    "Guitar": _guitar,
    "Cactus": _cactus,
    "Locomotive": _locomotive,
    "Envelope": _envelope,
    "Book": _book,
}


class SyntheticObjects(SyntheticSource):
    """24 kinds of object, none of them a garment."""

    artists = _ARTISTS
    class_names = tuple(_ARTISTS)
    task = 2
