"""Drawn families of pictures: what verdicts must hold for beside photographs.

A drawing takes two generators. `design` decides what the picture is: template, shapes, layout.
`content` decides what may change while the design stays: the numbers of an invoice, the data of a
chart, the colour of a shirt. So the same design with another content is a variant, and another
design is another picture. Families without a content of their own have no variants.
"""

from __future__ import annotations

import colorsys
import math
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Draw = Callable[[np.random.Generator, np.random.Generator], Image.Image]
Rng = np.random.Generator
Colour = tuple[int, int, int]
Floats = NDArray[np.float64]
Canvas = ImageDraw.ImageDraw

_INK, _WHITE = (25, 25, 30), (255, 255, 255)
_SYLLABLES = (
    *("an", "ber", "cal", "do", "el", "fin", "gra", "hol", "in", "jo", "ka", "lem", "mar"),
    *("no", "or", "pa", "qui", "ra", "son", "ter", "un", "ver", "wal", "xi", "yo", "zen"),
)


class Family(NamedTuple):
    """One kind of picture. varied: whether its content makes variants."""

    draw: Draw
    varied: bool


def drawn(family: str, number: int, content: int = 0) -> Image.Image:
    """Picture `number` of a family, RGB, 300 to 1,000 pixels a side. The same each time."""
    key = zlib.crc32(family.encode())
    seeds = (key, number), (key, number, content + 1)
    return FAMILIES[family].draw(*(np.random.default_rng(seed) for seed in seeds)).convert("RGB")


def line_drawing(design: Rng, _content: Rng) -> Image.Image:
    """A pencil sketch: a body of smooth strokes with shading."""
    image, draw = _sheet(design, (480, 800), (480, 800))
    size = np.array(image.size)
    ink = (int(design.integers(20, 120)),) * 3
    for _ in range(design.integers(3, 8)):
        centre, radii = size * design.uniform(0.25, 0.75, 2), size * design.uniform(0.06, 0.25, 2)
        outline = _blob(design, centre, radii)
        draw.line(_flat(outline), ink, int(design.integers(1, 5)))
        if design.random() < 0.5:
            _hatch(draw, outline, ink, design)
    for _ in range(design.integers(5, 15)):
        draw.line(_flat(_curve(design, size)), ink, int(design.integers(1, 4)))
    return image


def text_page(design: Rng, _content: Rng) -> Image.Image:
    """A page of a book: a heading and paragraphs."""
    image, draw = _sheet(design, (440, 640), (600, 840))
    size = int(design.integers(9, 15))
    left = int(image.width * design.uniform(0.07, 0.15))
    y = float(int(image.height * design.uniform(0.05, 0.12)))
    if design.random() < 0.6:
        _put(draw, (left, y), _title(design, 3), 2 * size)
        y += 4 * size
    while y < image.height - 5 * size:
        lines = int(design.integers(2, 9))
        y = _paragraph(draw, (left, y), image.width - 2 * left, lines, size, design) + size
    return image


def invoice(design: Rng, content: Rng) -> Image.Image:
    """One template per design; number, date, lines and sums are the content."""
    image, draw = _sheet(design, (480, 600), (640, 820))
    accent, size = _colour(design), int(design.integers(10, 14))
    width, left = image.width, int(image.width * design.uniform(0.06, 0.12))
    draw.rectangle((left, left, left + width // 6, left + 3 * size), accent)
    _put(draw, (left + width // 5, left), _title(design, 2), 2 * size)
    for n, label in enumerate((_title(design, 1), _title(design, 1), _title(design, 2))):
        at = width - left - 14 * size, left + 4 * size + 1.6 * size * n
        _put(draw, at, f"{label} {_digits(content, 6)}", size)
    top = left + 12 * size
    draw.rectangle((left, top, width - left, top + 2 * size), accent)
    for n, label in enumerate([_title(design, 1) for _ in range(4)]):
        _put(draw, (left + size + n * (width - 2 * left) / 4, top + size / 3), label, size, _WHITE)
    bottom = _rows(draw, (left, top + 3 * size), width - 2 * left, size, content)
    _put(draw, (width - left - 12 * size, bottom + size), f"Total {_money(content)}", 1.5 * size)
    _paragraph(draw, (left, image.height - 6 * size), width - 2 * left, 2, size - 2, design)
    return image


def receipt(design: Rng, content: Rng) -> Image.Image:
    image, draw = _sheet(design, (300, 380), (600, 900))
    size, width = int(design.integers(12, 16)), image.width
    _put(draw, (width / 2, 2 * size), _title(design, 2), 1.8 * size, anchor="mt")
    for n in range(int(design.integers(1, 4))):
        _put(draw, (width / 2, (5 + 1.4 * n) * size), _title(design, 2), size, anchor="mt")
    y = 11.0 * size
    for _ in range(int(content.integers(4, 16))):
        _put(draw, (size, y), _title(content, 2), size)
        _put(draw, (width - size, y), _money(content), size, anchor="rt")
        y += 1.5 * size
    draw.line((size, y, width - size, y), _INK, 2)
    _put(draw, (width - size, y + size), f"SUM {_money(content)}", 1.6 * size, anchor="rt")
    _bars(draw, (width * 0.2, y + 5 * size, width * 0.8, y + 9 * size), content)
    return image


def form(design: Rng, content: Rng) -> Image.Image:
    """Labels and boxes are the design, what is filled in is the content."""
    image, draw = _sheet(design, (480, 640), (640, 840))
    size, width = int(design.integers(10, 14)), image.width
    _put(draw, (2 * size, 2 * size), _title(design, 3), 2 * size)
    y = 6 * size
    while y < image.height - 5 * size:
        x = 2 * size
        for share in design.dirichlet([3] * int(design.integers(1, 4))):
            right = x + int(share * (width - 5 * size))
            _put(draw, (x, y), _title(design, 1), size - 2)
            draw.rectangle((x, y + 1.2 * size, max(x, right - size), y + 3 * size), outline=_INK)
            written = _title(content, 2)[: max(0, int((right - x) / size * 1.4) - 3)]
            _put(draw, (x + 4, y + 1.4 * size), written, 1.2 * size, (30, 40, 140))
            x = right
        y += int(design.integers(4, 6)) * size
    return image


def chat(design: Rng, content: Rng) -> Image.Image:
    """A messenger on a phone; the messages are the content."""
    dark = design.random() < 0.4
    image, draw = _sheet(design, (360, 460), (700, 860), (18, 22, 28) if dark else (236, 229, 221))
    ink, size, width = (_WHITE if dark else _INK), int(design.integers(13, 17)), image.width
    accent, mine = _colour(design), _colour(design, 0.25, 0.95)
    draw.rectangle((0, 0, width, 4 * size), accent)
    draw.ellipse((size, size / 2, 4 * size, 3.5 * size), _colour(content))
    _put(draw, (5 * size, size), _title(content, 2), 1.2 * size, _WHITE)
    y = 5.0 * size
    while y < image.height - 8 * size:
        lines, own = int(content.integers(1, 4)), content.random() < 0.5
        bubble = int(width * content.uniform(0.35, 0.7))
        x, bottom = (width - size - bubble if own else size), y + (1.5 * lines + 0.8) * size
        fill = mine if own else ((40, 46, 54) if dark else _WHITE)
        draw.rounded_rectangle((x, y, x + bubble, bottom), size / 2, fill)
        at, ink_here = (x + size / 2, y + size / 3), (_INK if own else ink)
        _paragraph(draw, at, bubble - size, lines, size, content, ink_here)
        y = bottom + size / 2
    draw.rounded_rectangle(
        (size, image.height - 3 * size, width - size, image.height - size), size, _WHITE
    )
    return image


def terminal(design: Rng, _content: Rng) -> Image.Image:
    paper = _colour(design, 0.4, 0.15)
    image, draw = _sheet(design, (560, 860), (400, 620), paper)
    size = int(design.integers(11, 16))
    inks = [_colour(design, 0.4, 0.9) for _ in range(4)] + [(210, 210, 210)] * 4
    for y in range(size, image.height - size, int(1.3 * size)):
        x = float(size)
        for _ in range(design.integers(0, 9)):
            word = _word(design) if design.random() < 0.7 else _digits(design, 5)
            _put(draw, (x, y), word, size, inks[design.integers(len(inks))])
            x += (len(word) + 1) * size * 0.6
            if x > image.width * 0.9:
                break
    return image


def chart(design: Rng, content: Rng) -> Image.Image:
    """Bars, lines, areas, points or a pie: the style is the design, the data is the content."""
    image, draw = _sheet(design, (480, 800), (360, 600))
    width, height = image.size
    size = int(design.integers(11, 17))
    _put(draw, (width / 2, size), _title(design, 4), 1.3 * size, anchor="mt")
    box = (4 * size, 4 * size, width - 2 * size, height - 4 * size)
    colours = [_colour(design) for _ in range(int(design.integers(1, 5)))]
    kind = int(design.integers(5))
    if kind == 4:
        _pie(draw, box, design, content)
        return image
    _axes(draw, box, size, design)
    count = int(design.integers(4, 12)) if kind == 0 else int(design.integers(8, 40))
    for n, colour in enumerate(colours):
        values = np.clip(
            np.cumsum(content.normal(0, 0.12, count)) + content.uniform(0.2, 0.8), 0.03, 0.97
        )
        _series(draw, box, values, colour, kind, n, len(colours))
    return image


def map_sheet(design: Rng, _content: Rng) -> Image.Image:
    """A street map: water, parks, roads of several widths, names."""
    image, draw = _sheet(design, (480, 760), (480, 760), _colour(design, 0.06, 0.95))
    size = np.array(image.size)
    for tint in ((0.35, 0.85, 0.55), (0.25, 0.85, 0.3)):
        for _ in range(design.integers(1, 4)):
            area = _blob(design, size * design.random(2), size * design.uniform(0.1, 0.3, 2))
            draw.polygon(_flat(area), _hsv(tint[2], tint[0], tint[1]))
    for width in (3, 3, 3, 5, 5, 8, 12):
        for _ in range(design.integers(2, 6)):
            road = _flat(_curve(design, size))
            draw.line(road, (170, 170, 165), width + 2)
            draw.line(road, _WHITE if width < 8 else (250, 215, 120), width)
    for _ in range(design.integers(6, 18)):
        _put(
            draw,
            tuple(size * design.uniform(0, 0.9, 2)),
            _title(design, 1),
            int(design.integers(9, 16)),
        )
    return image


def floor_plan(design: Rng, _content: Rng) -> Image.Image:
    image, draw = _sheet(design, (480, 760), (420, 700))
    wall = int(design.integers(3, 9))
    rooms = [(30.0, 30.0, image.width - 30.0, image.height - 30.0)]
    while len(rooms) < 4 + design.integers(6):
        rooms.sort(key=lambda r: (r[2] - r[0]) * (r[3] - r[1]))
        rooms += _split(rooms.pop(), design)
    for left, top, right, bottom in rooms:
        draw.rectangle((left, top, right, bottom), outline=_INK, width=wall)
        gap = left + (right - left) * design.uniform(0.15, 0.5)
        draw.line((gap, bottom, gap + 28, bottom), _WHITE, wall + 2)
        draw.arc((gap - 28, bottom - 28, gap + 28, bottom + 28), 270, 360, _INK)
        _put(draw, (left + 12, top + 12), f"{_title(design, 1)} {design.integers(6, 40)} m²", 12)
        _furniture(draw, (left, top, right, bottom), design)
    return image


def sheet_music(design: Rng, _content: Rng) -> Image.Image:
    image, draw = _sheet(design, (520, 720), (640, 900))
    gap, left = int(design.integers(6, 9)), 40
    _put(draw, (image.width / 2, 20), _title(design, 3), 22, anchor="mt")
    for top in range(70, image.height - 8 * gap, 10 * gap):
        for line in range(5):
            draw.line((left, top + line * gap, image.width - left, top + line * gap), _INK)
        x = left + 5.0 * gap
        while x < image.width - left - 2 * gap:
            _note(draw, x, top, gap, design)
            x += gap * design.uniform(2, 5)
            if design.random() < 0.2:
                draw.line((x, top, x, top + 4 * gap), _INK, 2)
                x += 2 * gap
    return image


def code(design: Rng, _content: Rng) -> Image.Image:
    """A matrix code with three finders, or a bar code with digits."""
    image, draw = _sheet(design, (360, 600), (360, 600))
    if design.random() < 0.4:
        box = (40.0, 60.0, image.width - 40.0, image.height - 90.0)
        _bars(draw, box, design)
        _put(draw, (image.width / 2, image.height - 80), _digits(design, 13), 28, anchor="mt")
        return image
    modules = int(design.integers(21, 42))
    cells = np.where(design.random((modules, modules)) < 0.5, 0, 255).astype(np.uint8)
    for row, column in ((0, 0), (0, -7), (-7, 0)):
        rows, columns = np.arange(7) + row, np.arange(7) + column
        ring = np.maximum(*np.abs(np.indices((7, 7)) - 3))
        cells[np.ix_(rows, columns)] = np.where(ring == 2, 255, 0)
    side = min(image.size) * 4 // 5 // modules * modules
    matrix = Image.fromarray(cells).resize((side, side), Image.Resampling.NEAREST)
    image.paste(matrix, ((image.width - side) // 2, (image.height - side) // 2))
    return image


def star_field(design: Rng, _content: Rng) -> Image.Image:
    height, width = design.integers(400, 700, 2)
    sky = (
        design.normal(10, 3, (height, width, 1)) + 25 * _cloud(design, height, width, 4)[..., None]
    )
    pixels = sky * design.uniform(0.6, 1.2, 3)
    count = int(design.integers(150, 900))
    stars = np.zeros((height, width, 3))
    at = design.integers(0, height, count), design.integers(0, width, count)
    stars[at] = 255 * design.pareto(1.5, (count, 1)) * design.uniform(0.7, 1, (count, 3))
    glow = _image(np.minimum(stars, 2000) / 8).filter(ImageFilter.GaussianBlur(1.3))
    return _image(pixels + np.asarray(glow, float) * 6)


def sky(design: Rng, _content: Rng) -> Image.Image:
    """A sunset, a day or a dusk: a gradient, clouds, at times a sun and a dark horizon."""
    height, width = design.integers(400, 700, 2)
    hues = design.choice([0.03, 0.08, 0.58, 0.62, 0.75, 0.95], 2)
    ends = [_hsv(h, design.uniform(0.2, 0.7), design.uniform(0.4, 1)) for h in hues]
    down = np.linspace(0, 1, height)[:, None, None] ** design.uniform(0.5, 2)
    pixels = np.broadcast_to((1 - down) * ends[0] + down * ends[1], (height, width, 3))
    cover = np.clip(_cloud(design, height, width, 3) * 2 - design.uniform(0.4, 1.4), 0, 1)
    pixels = pixels + (np.array(_hsv(hues[0], 0.1, 1)) - pixels) * cover[..., None]
    image = _image(pixels)
    if design.random() < 0.4:
        x, y, r = design.uniform(0, width), design.uniform(0, height), design.uniform(12, 40)
        ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), (255, 244, 214))
    if design.random() < 0.4:
        _horizon(ImageDraw.Draw(image), image.size, design)
    return image


def wordmark(design: Rng, content: Rng) -> Image.Image:
    """A name in letters with a sign; its colours, often pale, are the content."""
    image, draw = _sheet(design, (480, 760), (300, 480))
    value = content.choice([0.55, 0.8, 0.93])
    ink = _colour(content, float(content.uniform(0.05, 0.9)), float(value))
    word, size = _word(design).capitalize(), int(design.integers(50, 110))
    middle = image.height / 2
    draw.text((image.width * 0.6, middle), word, ink, _font(size), "mm")
    _emblem(draw, (image.width * 0.15, middle), size * 0.6, [ink, _colour(content)], design)
    return image


def logo(design: Rng, content: Rng) -> Image.Image:
    """An emblem of geometric shapes; its colours are the content."""
    image, draw = _sheet(design, (400, 640), (400, 640))
    colours = [_colour(content) for _ in range(3)]
    middle = np.array(image.size) / 2
    for _ in range(int(design.integers(1, 4))):
        at = middle + design.uniform(-0.15, 0.15, 2) * image.size
        _emblem(draw, tuple(at), min(image.size) * design.uniform(0.15, 0.4), colours, design)
    return image


def patent_figure(design: Rng, _content: Rng) -> Image.Image:
    """Hatched parts, leaders and reference numerals."""
    image, draw = _sheet(design, (480, 700), (560, 820))
    size = np.array(image.size)
    for _ in range(design.integers(4, 10)):
        centre, radii = size * design.uniform(0.2, 0.75, 2), size * design.uniform(0.04, 0.2, 2)
        kind = design.integers(3)
        box = (*(centre - radii), *(centre + radii))
        outline = _polygon(centre, radii, 40 if kind == 0 else 4 if kind == 1 else 6)
        draw.polygon(_flat(outline), _WHITE, _INK, 2)
        if design.random() < 0.5:
            _hatch(draw, outline, _INK, design)
        end = centre + radii * design.uniform(1.3, 2, 2) * design.choice([-1, 1], 2)
        draw.line((box[0], centre[1], *end), _INK)
        _put(draw, tuple(end), _digits(design, 2), 18)
    _put(
        draw,
        (image.width / 2, image.height - 40),
        f"FIG. {design.integers(1, 30)}",
        26,
        anchor="mt",
    )
    return image


def product(design: Rng, content: Rng) -> Image.Image:
    """A shaded thing on white with a pattern; its colours are the content."""
    image, _ = _sheet(design, (420, 640), (420, 640))
    size = np.array(image.size)
    outline = _blob(design, size / 2, size * design.uniform(0.22, 0.4, 2), symmetric=True)
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).polygon(_flat(outline), 255)
    body = Image.new("RGB", image.size, _colour(content))
    _pattern(ImageDraw.Draw(body), size, _colour(content), design)
    light = np.linspace(design.uniform(0.6, 0.9), design.uniform(0.9, 1.2), image.width)[
        None, :, None
    ]
    image.paste(_image(np.asarray(body) * light), mask=mask.filter(ImageFilter.GaussianBlur(1)))
    return image


def app_screenshot(design: Rng, content: Rng) -> Image.Image:
    """Menu, cards and charts are the design; names and numbers are the content."""
    dark = design.random() < 0.4
    image, draw = _sheet(design, (640, 900), (440, 620), (24, 26, 32) if dark else (245, 246, 248))
    ink, card = ((225, 225, 230), (40, 43, 52)) if dark else (_INK, _WHITE)
    accent, size = _colour(design), int(design.integers(11, 15))
    menu = int(image.width * design.uniform(0.15, 0.25))
    draw.rectangle((0, 0, menu, image.height), accent)
    for n in range(int(design.integers(4, 10))):
        _put(draw, (size, (3 + 2.5 * n) * size), _title(design, 1), size, _WHITE)
    columns, rows = design.integers(2, 4, 2)
    wide, high = (image.width - menu) / columns, image.height / rows
    for n in range(columns * rows):
        x, y = menu + n % columns * wide + size, n // columns * high + size
        draw.rounded_rectangle((x, y, x + wide - 2 * size, y + high - 2 * size), 6, card)
        _put(draw, (x + size, y + size), _title(design, 1), size, ink)
        _put(draw, (x + size, y + 3 * size), _digits(content, 4), 2 * size, ink)
        values = content.uniform(0.1, 0.9, 8)
        box = (x + size, y + 6 * size, x + wide - 3 * size, y + high - 3 * size)
        _series(draw, box, values, accent, int(design.integers(2)), 0, 1)
    return image


def texture(design: Rng, _content: Rng) -> Image.Image:
    """Noise of several kinds: smooth, banded like wood, grained like plaster, woven."""
    height, width = design.integers(400, 640, 2)
    field = _cloud(design, height, width, float(design.uniform(4, 60)))
    kind = design.integers(4)
    if kind == 1:
        field = 0.5 + 0.5 * np.sin(field * design.uniform(15, 60))
    if kind == 2:
        field = np.clip(field + design.normal(0, 0.15, (height, width)), 0, 1)
    if kind == 3:
        rows, columns = np.indices((height, width)) * design.uniform(0.3, 1.2)
        field = 0.6 * field + 0.2 * (np.sin(rows) + np.sin(columns))
    dark, light = (np.array(_colour(design, 0.4, v)) for v in (0.35, 0.85))
    return _image(dark + (light - dark) * field[..., None])


def table(design: Rng, content: Rng) -> Image.Image:
    """A spreadsheet; the numbers are the content."""
    image, draw = _sheet(design, (560, 820), (400, 640))
    size, columns = int(design.integers(11, 15)), int(design.integers(4, 9))
    high, wide = 1.8 * size, (image.width - 20) / columns
    head = _colour(design, 0.2, 0.9)
    for row in range(int((image.height - 20) / high)):
        for column in range(columns):
            x, y = 10 + column * wide, 10 + row * high
            fill = head if row == 0 or column == 0 else _WHITE
            draw.rectangle((x, y, x + wide, y + high), fill, (190, 190, 190))
            text = _title(design, 1) if row == 0 or column == 0 else _digits(content, 4)
            _put(draw, (x + 4, y + 3), text, size)
    return image


def fabric(design: Rng, content: Rng) -> Image.Image:
    """A repeated pattern; its colours are the content."""
    image, draw = _sheet(design, (420, 640), (420, 640), _colour(content))
    colours, step = [_colour(content) for _ in range(2)], float(design.uniform(40, 110))
    motif = int(design.integers(2**31))
    for x in np.arange(0, image.width + step, step):
        for y in np.arange(0, image.height + step, step):
            at = x + step / 2 * (round(y / step) % 2), y
            _emblem(draw, at, step * 0.35, colours, np.random.default_rng(motif))
    return image


FAMILIES: Mapping[str, Family] = {
    "line drawing": Family(line_drawing, varied=False),
    "text page": Family(text_page, varied=False),
    "invoice": Family(invoice, varied=True),
    "receipt": Family(receipt, varied=True),
    "form": Family(form, varied=True),
    "chat": Family(chat, varied=False),
    "terminal": Family(terminal, varied=False),
    "chart": Family(chart, varied=True),
    "street map": Family(map_sheet, varied=False),
    "floor plan": Family(floor_plan, varied=False),
    "sheet music": Family(sheet_music, varied=False),
    "code": Family(code, varied=False),
    "star field": Family(star_field, varied=False),
    "sky": Family(sky, varied=False),
    "wordmark": Family(wordmark, varied=True),
    "emblem": Family(logo, varied=True),
    "patent figure": Family(patent_figure, varied=False),
    "drawn product": Family(product, varied=True),
    "app screenshot": Family(app_screenshot, varied=True),
    "texture": Family(texture, varied=False),
    "table": Family(table, varied=True),
    "fabric": Family(fabric, varied=True),
}


def _sheet(
    rng: Rng, widths: tuple[int, int], heights: tuple[int, int], paper: Colour = _WHITE
) -> tuple[Image.Image, Canvas]:
    image = Image.new("RGB", (int(rng.integers(*widths)), int(rng.integers(*heights))), paper)
    return image, ImageDraw.Draw(image)


def _image(pixels: Floats) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def _colour(rng: Rng, saturation: float | None = None, value: float | None = None) -> Colour:
    drawn_saturation, drawn_value = rng.uniform(0.4, 0.95), rng.uniform(0.35, 0.95)
    return _hsv(
        rng.random(),
        float(drawn_saturation if saturation is None else saturation),
        float(drawn_value if value is None else value),
    )


def _word(rng: Rng) -> str:
    return "".join(rng.choice(_SYLLABLES, rng.integers(1, 4)))


def _title(rng: Rng, words: int) -> str:
    return " ".join(_word(rng) for _ in range(words)).capitalize()


def _digits(rng: Rng, count: int) -> str:
    return "".join(map(str, rng.integers(0, 10, count)))


def _money(rng: Rng) -> str:
    return f"{rng.integers(1, 2000)}.{rng.integers(100):02}"


@cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(max(6, size))


def _put(
    draw: Canvas,
    at: tuple[float, ...],
    text: str,
    size: float,
    colour: Colour = _INK,
    anchor: str = "lt",
) -> None:
    draw.text((at[0], at[1]), text, colour, _font(round(size)), anchor)


def _paragraph(
    draw: Canvas,
    at: tuple[float, float],
    width: float,
    lines: int,
    size: float,
    rng: Rng,
    colour: Colour = _INK,
) -> float:
    """Lines of words, the last one shorter; returns the y where they end."""
    x, y = at
    font = _font(round(size))
    for line in range(lines):
        room = width * (rng.uniform(0.3, 0.9) if line == lines - 1 else 1)
        text = _word(rng)
        while font.getlength(f"{text} quiverfin") < room:
            text += f" {_word(rng)}"
        _put(draw, (x, y), text, size, colour)
        y += 1.5 * size
    return y


def _rows(draw: Canvas, at: tuple[float, float], width: float, size: float, rng: Rng) -> float:
    """Positions of an invoice; returns the y where they end."""
    x, y = at
    for _ in range(int(rng.integers(2, 12))):
        cells = (_title(rng, 2), _digits(rng, 2), _money(rng), _money(rng))
        for n, text in enumerate(cells):
            _put(draw, (x + n * width / 4, y), text, size)
        y += 1.8 * size
    draw.line((x, y, x + width, y), _INK)
    return y


def _flat(points: Floats) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points]


def _blob(rng: Rng, centre: Floats, radii: Floats, symmetric: bool = False) -> Floats:
    """A smooth closed outline (N, 2)."""
    angles = np.linspace(0, 2 * math.pi, 90)
    waves = np.arange(2, 7)[:, None]
    phases = 0 if symmetric else rng.uniform(0, 2 * math.pi, (5, 1))
    sizes = rng.normal(0, 0.25, (5, 1)) / np.sqrt(waves)
    # measured from the upright, so that a symmetric outline is so left to right
    radius = np.maximum(0.25, 1 + (sizes * np.cos(waves * angles + phases)).sum(axis=0))
    across = np.stack([np.sin(angles), -np.cos(angles)], axis=1)
    return np.asarray(centre + radius[:, None] * across * radii)


def _curve(rng: Rng, size: NDArray[np.int_]) -> Floats:
    """A smooth line through four random points (60, 2): a cubic Bézier curve."""
    t = np.linspace(0, 1, 60)[:, None]
    a, b, c, d = rng.uniform(-0.1, 1.1, (4, 2)) * size
    return np.asarray(
        (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d
    )


def _polygon(centre: Floats, radii: Floats, corners: int) -> Floats:
    angles = np.arange(corners) * 2 * math.pi / corners + math.pi / corners
    return np.asarray(centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii)


def _hatch(draw: Canvas, outline: Floats, ink: Colour, rng: Rng) -> None:
    """Parallel lines within the outline's middle."""
    middle, reach = outline.mean(axis=0), (outline.max(axis=0) - outline.min(axis=0)) / 3.5
    for share in np.linspace(-1, 1, int(rng.integers(5, 16))):
        x = middle[0] + share * reach[0]
        draw.line((x - 6, middle[1] + reach[1], x + 6, middle[1] - reach[1]), ink)


def _bars(draw: Canvas, box: tuple[float, float, float, float], rng: Rng) -> None:
    left, top, right, bottom = box
    x, unit = left, (right - left) / 95
    while x < right:
        dark, light = rng.integers(1, 4, 2) * unit
        draw.rectangle((x, top, min(right, x + dark), bottom), _INK)
        x += dark + light


def _axes(draw: Canvas, box: tuple[float, float, float, float], size: float, rng: Rng) -> None:
    left, top, right, bottom = box
    lines = int(rng.integers(3, 8))
    for n in range(lines + 1):
        y = bottom - (bottom - top) * n / lines
        draw.line((left, y, right, y), (215, 215, 215))
        _put(draw, (left - 2.5 * size, y - size / 2), str(n * int(rng.integers(1, 9))), size)
    draw.line((left, top, left, bottom, right, bottom), _INK, 2)
    for share in np.linspace(0.1, 0.8, 4):
        _put(draw, (left + share * (right - left), bottom + size / 2), _title(rng, 1), size)


def _series(
    draw: Canvas,
    box: tuple[float, float, float, float],
    values: Floats,
    colour: Colour,
    kind: int,
    number: int,
    of: int,
) -> None:
    """Bars (0), a line (1), an area (2) or points (3), of shares of the box's height."""
    left, top, right, bottom = box
    step = (right - left) / len(values)
    x, y = left + (np.arange(len(values)) + 0.5) * step, bottom - values * (bottom - top)
    if kind == 0:
        wide = step * 0.8 / of
        for start, height in zip(x - step * 0.4 + number * wide, y, strict=True):
            draw.rectangle((start, height, start + wide, bottom), colour)
    elif kind == 3:
        for a, b in zip(x, y, strict=True):
            draw.ellipse((a - 4, b - 4, a + 4, b + 4), colour)
    else:
        line = [*zip(x.tolist(), y.tolist(), strict=True)]
        if kind == 2 and number == 0:
            draw.polygon([(line[0][0], bottom), *line, (line[-1][0], bottom)], colour)
        draw.line(line, colour, 3)


def _pie(draw: Canvas, box: tuple[float, float, float, float], design: Rng, content: Rng) -> None:
    left, top, right, bottom = box
    side, start = min(right - left, bottom - top), -90.0
    for share in content.dirichlet([1.5] * int(design.integers(3, 8))):
        end = start + 360 * float(share)
        draw.pieslice((left, top, left + side, top + side), start, end, _colour(design), _WHITE, 2)
        start = end
    for n in range(3):
        _put(draw, (left + side + 20, top + 30 * n), _title(design, 1), 14)


def _split(
    room: tuple[float, float, float, float], rng: Rng
) -> list[tuple[float, float, float, float]]:
    left, top, right, bottom = room
    share = rng.uniform(0.35, 0.65)
    if right - left > bottom - top:
        x = left + share * (right - left)
        return [(left, top, x, bottom), (x, top, right, bottom)]
    y = top + share * (bottom - top)
    return [(left, top, right, y), (left, y, right, bottom)]


def _furniture(draw: Canvas, room: tuple[float, float, float, float], rng: Rng) -> None:
    left, top, right, bottom = room
    for _ in range(rng.integers(0, 4)):
        x, y = rng.uniform(left + 10, right - 30), rng.uniform(top + 30, bottom - 30)
        w, h = rng.uniform(10, 50, 2)
        shape = draw.rectangle if rng.random() < 0.6 else draw.ellipse
        shape((x, y, min(right - 6, x + w), min(bottom - 6, y + h)), outline=_INK)


def _note(draw: Canvas, x: float, top: float, gap: float, rng: Rng) -> None:
    y = top + gap * rng.integers(-1, 10) / 2
    head = (x, y - gap * 0.45, x + gap * 1.3, y + gap * 0.45)
    draw.ellipse(head, _INK if rng.random() < 0.7 else _WHITE, _INK, 2)
    up = y > top + 2 * gap
    stem = x + (gap * 1.3 if up else 0)
    end = y - 3.5 * gap if up else y + 3.5 * gap
    draw.line((stem, y, stem, end), _INK, 2)
    if rng.random() < 0.4:
        draw.line((stem, end, stem + gap, end + (gap if up else -gap)), _INK, 3)


def _cloud(rng: Rng, height: int, width: int, cells: float) -> Floats:
    """Smooth noise (height, width), 0 to 1: octaves from `cells` across upwards."""
    field = np.zeros((height, width))
    for octave in range(5):
        grain = max(2, round(cells * 2**octave))
        shape = (max(2, grain * height // width), grain)
        noise = Image.fromarray(rng.random(shape).astype(np.float32))
        field += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)) / 2**octave
    least, most = field.min(), field.max()
    return np.asarray((field - least) / (most - least))


def _horizon(draw: Canvas, size: tuple[int, int], rng: Rng) -> None:
    width, height = size
    x = np.linspace(0, width, 40)
    y = height * rng.uniform(0.75, 0.95) + np.cumsum(rng.normal(0, height / 90, 40))
    draw.polygon(
        [(0, height), *zip(x.tolist(), y.tolist(), strict=True), (width, height)], (18, 16, 20)
    )


def _emblem(
    draw: Canvas, at: tuple[float, ...], radius: float, colours: list[Colour], rng: Rng
) -> None:
    """Two or three shapes on one centre."""
    for n in range(int(rng.integers(2, 4))):
        radii = np.full(2, radius * (1 - 0.3 * n)) * rng.uniform(0.8, 1.2, 2)
        corners = int(rng.choice([3, 4, 5, 6, 8, 40]))
        outline = _polygon(np.array(at[:2]), radii, corners)
        draw.polygon(_flat(outline), colours[n % len(colours)])


def _pattern(draw: Canvas, size: NDArray[np.int_], colour: Colour, rng: Rng) -> None:
    """Stripes, checks, dots or an emblem across a product."""
    kind, step = rng.integers(4), float(rng.uniform(25, 70))
    width, height = (float(side) for side in size)
    if kind < 2:
        for y in np.arange(0, height, step):
            draw.rectangle((0, y, width, y + step / 3), colour)
    if kind == 1:
        for x in np.arange(0, width, step):
            draw.rectangle((x, 0, x + step / 3, height), colour)
    if kind == 2:
        for x in np.arange(0, width, step):
            for y in np.arange(0, height, step):
                draw.ellipse((x, y, x + step / 2, y + step / 2), colour)
    if kind == 3:
        _emblem(draw, (width / 2, height / 2), width / 6, [colour, _WHITE], rng)
