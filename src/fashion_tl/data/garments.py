"""The target task of the offline demo: ten kinds of garment, drawn, with the class names of Fashion-MNIST.

Every class has variants, and no single detail settles a class: shirts may have short sleeves, pullovers a zip, boots
laces. So the classes that people confuse in Fashion-MNIST are the ones that are confused here.
"""

from __future__ import annotations

from fashion_tl.data.drawing import Artist, Pen, mirrored, on_side
from fashion_tl.data.synthetic import SyntheticSource


def _sleeves(pen: Pen, shoulder: float, chest: float, length: float, cuff: float) -> None:
    """Two sleeves from the shoulders at y = -0.8; `length` 0.3 is short, 1.4 reaches the hem."""
    spread = pen.between(0.12, 0.42) if length > 0.7 else pen.between(0.3, 0.75)
    reach = length * (1 - 0.25 * spread)
    out_x, out_y = shoulder + 0.12 + length * spread, -0.72 + reach
    elbow = shoulder + 0.16 + length * spread * 0.55
    width = pen.between(0.17, 0.24) if length > 0.7 else pen.between(0.24, 0.36)
    shade = pen.between(-0.12, 0.02)
    outer = [(shoulder - 0.12, -0.86), (shoulder + 0.07, -0.74), (elbow, -0.72 + reach * 0.5)]
    end = [(out_x, out_y), (out_x - width, out_y + 0.07)]
    inner = [(chest + 0.02, -0.3 + 0.1 * length), (chest - 0.1, -0.45)]
    for side in (1, -1):
        pen.fill(on_side(side, [*outer, *end, *inner]), shade)
        if cuff:
            pen.line(on_side(side, end), cuff, 0.07)


def _torso(pen: Pen, shoulder: float, chest: float, waist: float, hem: float, bottom: float, neck: float) -> None:
    half = [(neck, -0.9), (shoulder, -0.8), (chest, -0.4), (waist, 0.15), (hem, bottom), (hem * 0.5, bottom + 0.03)]
    pen.fill(mirrored(half))


def _neckline(pen: Pen, neck: float, depth: float, pointed: bool, rib: float) -> None:
    tip = 0.04 if pointed else neck * 0.75
    if rib:
        pen.fill(mirrored([(neck + 0.06, -0.93), (tip + 0.05, -0.82 + depth)]), rib)
    pen.cut(mirrored([(neck, -0.98), (neck, -0.9), (tip, -0.9 + depth)]))


def _print(pen: Pen, width: float) -> None:
    delta, y = pen.between(0.25, 0.5), pen.between(-0.35, 0.0)
    if pen.chance(0.5):
        pen.oval(0, y, width * pen.between(0.35, 0.7), pen.between(0.12, 0.26), delta, 0.0)
    else:
        w, h = width * pen.between(0.35, 0.75), pen.between(0.06, 0.25)
        pen.fill([(-w, y - h), (w, y - h), (w, y + h), (-w, y + h)], delta, 0.0)


def _buttons(pen: Pen, x: float, top: float, bottom: float, delta: float) -> None:
    number = int(pen.between(3, 7))
    for k in range(number):
        pen.oval(x, top + (bottom - top) * k / (number - 1), 0.05, 0.05, delta, 0.0)


def _t_shirt(pen: Pen) -> None:
    chest = pen.between(0.44, 0.56)
    shoulder, neck = chest - pen.between(-0.02, 0.05), pen.between(0.16, 0.27)
    sleeveless = pen.chance(0.12)
    if sleeveless:
        shoulder -= 0.12
    else:
        _sleeves(pen, shoulder, chest, pen.between(0.3, 0.62), pen.between(0.05, 0.2) if pen.chance(0.3) else 0)
    waist = chest - pen.between(-0.02, 0.08)
    _torso(pen, shoulder, chest, waist, chest + pen.between(-0.05, 0.05), pen.between(0.75, 0.98), neck)
    depth = pen.between(0.1, 0.4 if sleeveless else 0.28)
    _neckline(pen, neck, depth, pen.chance(0.25), pen.between(-0.2, 0.2))
    if pen.chance(0.4):
        _print(pen, chest)


def _pullover(pen: Pen) -> None:
    chest = pen.between(0.45, 0.58)
    shoulder, neck = chest - pen.between(-0.02, 0.05), pen.between(0.14, 0.22)
    rib = pen.between(-0.25, 0.12)
    _sleeves(pen, shoulder, chest, pen.between(1.15, 1.55), rib)
    bottom = pen.between(0.72, 0.95)
    if pen.chance(0.15):
        pen.fill(mirrored([(0.2, -1.12), (0.36, -0.95), (0.3, -0.7)]), -0.15, smooth=1)
    _torso(pen, shoulder, chest, chest - pen.between(-0.03, 0.04), chest - pen.between(0.0, 0.06), bottom, neck)
    pen.line([(-chest + 0.04, bottom - 0.05), (chest - 0.04, bottom - 0.05)], rib, 0.08)
    if pen.chance(0.25):
        pen.fill(mirrored([(neck - 0.02, -1.05), (neck + 0.03, -0.86)]), rib)
    else:
        _neckline(pen, neck, pen.between(0.06, 0.2), pen.chance(0.25), rib)
    if pen.chance(0.25):
        _print(pen, chest)
    elif pen.chance(0.15):
        pen.line([(0, -0.8), (0, pen.between(-0.5, -0.2))], 0.35, 0.06)


def _shirt(pen: Pen) -> None:
    chest = pen.between(0.43, 0.56)
    shoulder, neck = chest - pen.between(-0.02, 0.05), pen.between(0.14, 0.24)
    length = pen.between(1.15, 1.5) if pen.chance(0.6) else pen.between(0.35, 0.7)
    _sleeves(pen, shoulder, chest, length, pen.between(-0.2, 0.2))
    bottom = pen.between(0.78, 1.02)
    _torso(pen, shoulder, chest, chest - pen.between(-0.02, 0.09), chest + pen.between(-0.05, 0.05), bottom, neck)
    contrast = pen.between(0.18, 0.45) * (1 if pen.chance(0.5) else -1)
    opening = pen.between(0.1, 0.35)
    pen.cut(mirrored([(neck * 0.8, -0.95), (0.03, -0.9 + opening)]))
    half_placket = pen.chance(0.2)
    end = pen.between(-0.3, 0.0) if half_placket else bottom - 0.04
    pen.line([(0, -0.9 + opening), (0, end)], -abs(contrast) * pen.between(0.3, 1), 0.05)
    if pen.chance(0.75):
        _buttons(pen, 0.02, -0.8 + opening, end - 0.08, contrast)
    if pen.chance(0.8):
        collar = [(neck * 0.5, -0.98), (neck + 0.1, -0.9), (0.2, -0.62), (0.03, -0.86 + opening)]
        for side in (1, -1):
            pen.fill(on_side(side, collar), contrast * 0.7)
    if pen.chance(0.4):
        pocket = [(0.12, -0.35), (0.34, -0.35), (0.34, -0.08), (0.12, -0.08)]
        pen.fill(pocket, -abs(contrast) * 0.5)


def _coat(pen: Pen) -> None:
    chest = pen.between(0.42, 0.56)
    shoulder, neck = chest - pen.between(-0.02, 0.06), pen.between(0.14, 0.22)
    bottom = pen.between(0.95, 1.4)
    _sleeves(pen, shoulder, chest, pen.between(1.15, 1.5), pen.between(-0.15, 0.05) if pen.chance(0.5) else 0)
    if pen.chance(0.25):
        pen.fill(mirrored([(0.22, -1.15), (0.36, -0.95), (0.3, -0.72)]), -0.15, smooth=1)
    _torso(pen, shoulder, chest, chest - pen.between(-0.02, 0.1), chest + pen.between(-0.02, 0.12), bottom, neck)
    dark = -pen.between(0.18, 0.4)
    opening = pen.between(0.15, 0.6)
    if pen.chance(0.3):
        pen.fill([(0.0, -0.9 + opening), (pen.between(0.05, 0.14), bottom), (-pen.between(0.04, 0.14), bottom)], dark)
    else:
        pen.line([(0, -0.9 + opening), (pen.between(-0.05, 0.05), bottom)], dark, pen.between(0.05, 0.09))
    pen.fill(mirrored([(neck, -0.94), (0.03, -0.9 + opening)]), dark, 0.3)
    if pen.chance(0.75):
        flare = pen.between(0.05, 0.18)
        for side in (1, -1):
            lapel = [(side * neck, -0.98), (side * (neck + flare), -0.75), (side * 0.02, -0.82 + opening)]
            pen.fill(lapel, pen.between(-0.15, 0.15))
    if pen.chance(0.4):
        _buttons(pen, pen.between(0.06, 0.14), -0.7 + opening, bottom - 0.3, dark)
    if pen.chance(0.5):
        y = pen.between(0.2, 0.45)
        for side in (1, -1):
            pen.line([(side * 0.2, y), (side * (chest - 0.08), y - 0.06)], dark, 0.06)
    if pen.chance(0.25):
        pen.line([(-chest, 0.18), (chest, 0.18)], dark, 0.1)


def _dress(pen: Pen) -> None:
    chest = pen.between(0.26, 0.38)
    bottom, waist = pen.between(1.1, 1.7), chest - pen.between(0.02, 0.1)
    hem = pen.between(0.28, 0.45) if pen.chance(0.5) else pen.between(0.45, 0.75)
    neck, shoulder = pen.between(0.12, 0.2), chest - pen.between(0.0, 0.06)
    cover = pen.between(0.0, 1.0)
    if cover > 0.75:
        _sleeves(pen, shoulder, chest, pen.between(0.9, 1.3), 0)
    elif cover > 0.5:
        _sleeves(pen, shoulder, chest, pen.between(0.25, 0.5), 0)
    if cover < 0.25:
        for side in (1, -1):
            pen.line([(side * (shoulder - 0.05), -0.55), (side * neck, -0.98)], 0, 0.08)
        half = [(0.05, -0.5), (shoulder, -0.62)]
    else:
        half = [(neck, -0.92), (shoulder, -0.85)]
    half += [(chest, -0.42), (waist, pen.between(-0.1, 0.1)), ((hem + waist) / 2, 0.45)]
    half += [(hem, bottom), (hem * 0.5, bottom + 0.04)]
    pen.fill(mirrored(half))
    if cover >= 0.25:
        _neckline(pen, neck, pen.between(0.08, 0.35), pen.chance(0.4), 0)
    if pen.chance(0.4):
        pen.line([(-waist - 0.02, 0.02), (waist + 0.02, 0.02)], pen.between(-0.35, 0.35), 0.09)
    for x in (-0.4, 0.1, 0.5):
        if hem > 0.45 and pen.chance(0.5):
            pen.line([(x * waist, 0.25), (x * hem * 1.3, bottom - 0.05)], -0.14, 0.05)


def _trouser(pen: Pen) -> None:
    waist, hip = pen.between(0.28, 0.4), pen.between(0.36, 0.46)
    length = pen.between(0.0, 0.4) if pen.chance(0.1) else pen.between(0.8, 1.1)
    inner = pen.between(0.02, 0.14)
    hem, crotch = pen.between(0.16, 0.34), pen.between(-0.35, -0.15)
    outer = max(hip - 0.06, inner + hem)
    outside = [(waist, -0.98), (hip, -0.5), (outer - 0.03, 0.3 * length), (inner + hem, length)]
    pen.fill(mirrored([*outside, (inner, length), (0.02, crotch)]))
    detail = -pen.between(0.1, 0.35)
    pen.line([(-waist, -0.93), (waist, -0.93)], detail * (1 if pen.chance(0.5) else -1), 0.1)
    if pen.chance(0.6):
        pen.line([(0, -0.88), (0, crotch)], detail, 0.05)
    if pen.chance(0.5):
        for side in (1, -1):
            pen.line([(side * waist * 0.55, -0.85), (side * hip, -0.6)], detail, 0.05)
    if pen.chance(0.35):
        for side in (1, -1):
            pen.line([(side * (inner + hem / 2), length - 0.05), (side * hip * 0.55, -0.4)], 0.12, 0.05)


def _sole(pen: Pen, y: float, thick: float, heel: float, delta: float) -> None:
    """A side view's sole, toe at the left; a heel above 0.15 stands on its own block."""
    if heel > 0.15:
        pen.fill([(-0.95, y), (-0.2, y - 0.05), (-0.2, y + thick), (-0.9, y + thick)], delta, 0)
        pen.fill([(-0.25, y), (0.95, y - heel), (0.95, y - heel + thick), (-0.2, y + thick)], delta, 0)
        foot = pen.between(0.1, 0.4)
        pen.fill([(0.94, y - heel), (0.9, y + thick), (0.9 - foot, y + thick), (0.5, y - heel * 0.6)], delta, 0)
    else:
        pen.fill([(-1.0, y - 0.06), (0.95, y - 0.02), (0.97, y + thick + heel), (-0.92, y + thick)], delta, 0)


def _sandal(pen: Pen) -> None:
    heel = pen.between(0.25, 0.5) if pen.chance(0.35) else 0.0
    wedge = pen.chance(0.3)
    rise = heel if heel or not wedge else pen.between(0.1, 0.35)
    thick, shade = pen.between(0.08, 0.2), pen.between(-0.1, 0.1)
    strap, lean = pen.between(0.13, 0.24), pen.between(0.05, 0.3)

    def ground(x: float) -> float:
        return 0.42 - rise * max(0.0, (x + 0.2) / 1.15)

    # A closed shoe of which windows are cut out: what remains are straps that follow a foot.
    slide = pen.chance(0.3)
    instep = ground(0.1) - pen.between(0.4, 0.6)
    ankle = instep - pen.between(0.02, 0.3)
    back = [(0.97, ground(0.97)), (0.9, ankle), (0.85, ankle), (0.12, ankle), (0.0, instep)]
    if slide:
        back = [(0.6, ground(0.6)), (0.3, instep), (0.0, instep)]
    pen.fill([*back, (-0.55, instep + 0.25), (-0.98, 0.3), (-0.98, 0.44), (-0.2, 0.46)], shade, smooth=1)
    left, right = -1.3, pen.between(-0.85, -0.6)
    for _ in range(1 + int(pen.between(0.2, 2.5))):
        slant = lean if left > -1 else lean * 2
        pen.cut([(left, 0.55), (left + slant, -1.5), (right + slant, -1.5), (right, 0.55)])
        left = right + strap * (pen.between(2.0, 4.0) if slide else pen.between(0.9, 1.8))
        right = left + pen.between(0.14, 0.3)
    if slide:
        pen.cut([(left, 0.55), (left + lean, -1.5), (1.2, -1.5), (1.2, 0.55)])
    else:
        heel_counter = pen.between(0.6, 0.78)
        pen.cut([(left, 0.55), (left + lean * 0.7, ankle + strap), (heel_counter, ankle + strap), (heel_counter, 0.55)])
    delta = pen.between(-0.25, 0.25)
    if wedge:
        pen.fill([(-0.98, 0.4), (-0.2, 0.4), (0.97, 0.4 - rise), (0.93, 0.4 + thick), (-0.9, 0.4 + thick)], delta)
    else:
        _sole(pen, 0.4, thick, heel, delta)


def _sneaker(pen: Pen) -> None:
    collar = -pen.between(0.1, 0.32) if pen.chance(0.75) else -pen.between(0.35, 0.6)
    toe = pen.between(-0.04, 0.1)
    tongue = pen.between(-0.05, 0.2)
    heel = [(0.92, 0.36), (0.95, 0.1), (0.86, collar), (0.55, collar + 0.14)]
    top = [(tongue + 0.12, collar - pen.between(0.02, 0.14)), (tongue - 0.12, collar - 0.05)]
    front = [(-0.5, toe - 0.06), (-0.88, toe + 0.05), (-1.02, 0.3), (-0.95, 0.4)]
    pen.fill([*heel, *top, *front], smooth=1)
    contrast = pen.between(0.2, 0.5)
    _sole(pen, 0.36, pen.between(0.08, 0.22), pen.between(0, 0.06), contrast if pen.chance(0.7) else -contrast)
    if pen.chance(0.6):
        pen.fill([(-1.0, 0.32), (-0.9, toe + 0.08), (-0.6, toe), (-0.62, 0.32)], pen.between(-0.3, 0.3), 0.3)
    if pen.chance(0.8):
        for k in range(3):
            x, y = -0.42 + k * 0.17, toe - 0.02 + (collar - toe) * (k + 0.6) / 3.4
            pen.line([(x - 0.05, y - 0.04), (x + 0.13, y + 0.12)], contrast, 0.06)
    if pen.chance(0.5):
        side = [(-0.1, 0.26), (0.3, 0.12), (pen.between(0.5, 0.8), pen.between(-0.12, 0.1)), (0.35, 0.26)]
        pen.fill(side, contrast, 0)
    elif pen.chance(0.5):
        for k in range(3):
            pen.line([(0.1 + k * 0.14, 0.28), (0.0 + k * 0.14, -0.02)], contrast, 0.06)


def _ankle_boot(pen: Pen) -> None:
    shaft = -pen.between(0.4, 1.0)
    front, back = pen.between(-0.12, 0.12), pen.between(0.8, 0.95)
    heel = pen.between(0.22, 0.5) if pen.chance(0.4) else 0.0
    toe = pen.between(0.0, 0.16)
    behind = [(back, shaft), (back - 0.04, -0.2), (0.97, 0.2 - heel * 0.6), (0.93, 0.42 - heel), (-0.2, 0.42)]
    before = [(-0.95, 0.42), (-1.02, 0.28), (-0.85, toe + 0.02), (-0.4, toe - 0.14)]
    before += [(front - 0.02, -0.3), (front, shaft), (front, shaft)]
    pen.fill([(back, shaft), *behind, *before], smooth=1)
    contrast = pen.between(0.15, 0.45) * (1 if pen.chance(0.4) else -1)
    _sole(pen, 0.4, pen.between(0.07, 0.18), heel, contrast)
    if pen.chance(0.4):
        pen.line([(front, shaft + 0.05), (back, shaft + 0.05)], contrast, 0.1)
    style = pen.between(0, 1)
    if style < 0.35:
        for k in range(4):
            y = -0.1 + (shaft + 0.2) * k / 4
            pen.line([(front - 0.1, y), (front + 0.16, y + 0.08)], contrast, 0.06)
    elif style < 0.6:
        pen.fill([(0.3, shaft + 0.06), (0.6, shaft + 0.06), (0.5, -0.05), (0.36, -0.05)], contrast * 0.7, 0)
    elif style < 0.8:
        pen.line([(0.5, shaft + 0.05), (0.48, 0.3 - heel)], contrast, 0.06)


def _bag(pen: Pen) -> None:
    width, lean = pen.between(0.65, 0.95), pen.between(-0.12, 0.2)
    top, bottom = pen.between(-0.4, 0.05), pen.between(0.5, 0.85)
    body = mirrored([(width - lean, top), (width, (top + bottom) / 2), (width - 0.05, bottom)])
    detail = pen.between(0.15, 0.45) * (1 if pen.chance(0.5) else -1)
    if pen.chance(0.88):
        span, rise = width * pen.between(0.35, 0.85), pen.between(0.3, 0.75)
        thick = pen.between(0.09, 0.16)
        for inset in (0.0, thick):
            x, y = span - inset, top + 0.1 - rise + inset
            arch = mirrored([(x * 0.5, y), (x * 0.95, y + 0.1), (x, top + 0.15), (x * 0.9, top + 0.2)])
            if inset:
                pen.cut(arch, smooth=1)
            else:
                pen.fill(arch, detail * 0.6, 0.2, smooth=1)
    pen.fill(body, smooth=1 if pen.chance(0.5) else 0)
    style = pen.between(0, 1)
    if style < 0.4:
        low = top + (bottom - top) * pen.between(0.3, 0.65)
        flap = mirrored([(width - lean, top), (width - 0.05, low - 0.08), (width * pen.between(0.2, 0.7), low)])
        pen.fill(flap, -0.15 if detail < 0 else 0.12)
        pen.line([(-width + 0.1, low), (width - 0.1, low)], -0.25, 0.04)
        pen.oval(0, low, 0.09, 0.09, detail, 0)
    elif style < 0.65:
        pen.line([(-width + 0.12, top + 0.14), (width - 0.12, top + 0.14)], detail, 0.06)
    elif style < 0.85:
        for side in (1, -1):
            pen.line([(side * width * 0.5, top), (side * width * 0.5, bottom)], detail, 0.1)
    if pen.chance(0.2):
        pen.line([(-width + 0.05, bottom - 0.08), (width - 0.05, bottom - 0.08)], detail, 0.1)


_ARTISTS: dict[str, Artist] = {
    "T-shirt/top": _t_shirt,
    "Trouser": _trouser,
    "Pullover": _pullover,
    "Dress": _dress,
    "Coat": _coat,
    "Sandal": _sandal,
    "Shirt": _shirt,
    "Sneaker": _sneaker,
    "Bag": _bag,
    "Ankle boot": _ankle_boot,
}


class SyntheticGarments(SyntheticSource):
    """Ten kinds of garment, with the class names of Fashion-MNIST."""

    artists = _ARTISTS
    class_names = tuple(_ARTISTS)
    task = 1
