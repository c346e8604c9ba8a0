"""Pictures for the demo, with known truth: real photographs, and a drawn product catalogue."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from likeness.images import decode
from likeness.settings import Limits

from ..indexing.uploads import pictures

SCHEMA = {"category": "keyword", "colour": "keyword", "brand": "keyword", "price": "float"}
_SIZE = 512
_COLOURS = {
    "red": (196, 48, 43),
    "blue": (38, 84, 176),
    "green": (46, 125, 70),
    "yellow": (238, 186, 44),
    "grey": (110, 116, 124),
}
_BRANDS = ("Norden", "Casa Lume", "Fjell", "Atelier 9")
# The photographs that scikit-image's package carries (its data/README.txt tells their origin).
_PHOTOGRAPHS = (
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png"),
    *("coins.png", "color.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png"),
    *("moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg"),
)


@dataclass(frozen=True)
class Item:
    """One picture to upload."""

    key: str
    data: bytes
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def image(self) -> Image.Image:
        """Upright and on white, as the service sees it."""
        return decode(self.data, Limits(), _SIZE)[0]


def photographs() -> Iterator[Item]:
    import skimage  # noqa: PLC0415 - takes a moment to import

    folder = Path(skimage.__file__).parent / "data"
    for name in _PHOTOGRAPHS:
        image = Image.open(folder / name).convert("RGB")
        yield Item(f"photos/{Path(name).stem}.jpg", jpeg(image), {"category": "photo"})


def products(seed: int = 7) -> Iterator[Item]:
    """Every shape in every colour, drawn on white as a shop's catalogue shows it."""
    chance = random.Random(seed)  # noqa: S311 - prices, no secrets
    for category, draw in _SHAPES.items():
        for colour, rgb in _COLOURS.items():
            metadata = {
                "category": category,
                "colour": colour,
                "brand": chance.choice(_BRANDS),
                "price": f"{chance.randint(9, 199)}.90",
            }
            yield Item(f"products/{category}-{colour}.jpg", jpeg(_drawn(draw, rgb)), metadata)


def from_folder(folder: Path) -> Iterator[Item]:
    for path in pictures(folder):
        yield Item(path.relative_to(folder).as_posix(), path.read_bytes())


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def _crop(image: Image.Image) -> Image.Image:
    dx, dy = image.width // 20, image.height // 20
    return image.crop((dx, dy, image.width - dx, image.height - dy))


def _captioned(image: Image.Image) -> Image.Image:
    copy = image.copy()
    band = image.height // 10
    draw = ImageDraw.Draw(copy)
    draw.rectangle((0, image.height - band, image.width, image.height), fill="black")
    draw.text((band, image.height - band * 0.8), "FOR SALE", fill="white", font_size=band * 0.6)
    return copy


# What people do to a picture before they search with it.
EDITS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "as it is": lambda image: image,
    "half size": lambda image: image.reduce(2),
    "cropped by a tenth": _crop,
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.25),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(image.width / 200)),
    "captioned": _captioned,
    "turned by 4°": lambda image: image.rotate(4, Image.Resampling.BICUBIC, fillcolor="white"),
}


def edited(item: Item, edit: str) -> bytes:
    """The query picture: the edit, then a phone's strong JPEG."""
    return jpeg(EDITS[edit](item.image), quality=60)


Draw = Callable[[ImageDraw.ImageDraw, tuple[int, int, int], tuple[int, int, int]], None]


def _drawn(draw: Draw, rgb: tuple[int, int, int]) -> Image.Image:
    """Drawn at twice the size and reduced, so that edges are smooth."""
    canvas = Image.new("RGB", (_SIZE * 2, _SIZE * 2), (250, 250, 248))
    dark = (rgb[0] * 6 // 10, rgb[1] * 6 // 10, rgb[2] * 6 // 10)
    pen = ImageDraw.Draw(canvas)
    pen.ellipse((220, 840, 804, 900), fill=(226, 226, 222))
    draw(pen, rgb, dark)
    return canvas.reduce(2)


def _mug(pen: ImageDraw.ImageDraw, rgb: tuple[int, int, int], dark: tuple[int, int, int]) -> None:
    pen.ellipse((600, 400, 840, 720), outline=dark, width=50)
    pen.rounded_rectangle((260, 300, 700, 860), 60, fill=rgb)
    pen.ellipse((260, 250, 700, 350), fill=dark)


def _lamp(pen: ImageDraw.ImageDraw, rgb: tuple[int, int, int], dark: tuple[int, int, int]) -> None:
    pen.polygon(((380, 180), (644, 180), (790, 520), (234, 520)), fill=rgb)
    pen.rectangle((494, 520, 530, 820), fill=dark)
    pen.ellipse((360, 800, 664, 870), fill=dark)


def _chair(pen: ImageDraw.ImageDraw, rgb: tuple[int, int, int], dark: tuple[int, int, int]) -> None:
    pen.rounded_rectangle((300, 160, 724, 520), 40, fill=rgb)
    pen.rounded_rectangle((270, 540, 754, 630), 30, fill=dark)
    for x in (290, 690):
        pen.rectangle((x, 620, x + 44, 870), fill=dark)


def _shirt(pen: ImageDraw.ImageDraw, rgb: tuple[int, int, int], dark: tuple[int, int, int]) -> None:
    pen.polygon(((320, 220), (704, 220), (880, 420), (760, 510), (264, 510), (144, 420)), fill=rgb)
    pen.rectangle((300, 400, 724, 860), fill=rgb)
    pen.pieslice((420, 130, 604, 310), 0, 180, fill=dark)


def _bag(pen: ImageDraw.ImageDraw, rgb: tuple[int, int, int], dark: tuple[int, int, int]) -> None:
    pen.arc((340, 140, 684, 620), 180, 360, fill=dark, width=40)
    pen.polygon(((240, 400), (784, 400), (850, 860), (174, 860)), fill=rgb)
    pen.rectangle((470, 520, 554, 600), fill=dark)


def _bottle(
    pen: ImageDraw.ImageDraw, rgb: tuple[int, int, int], dark: tuple[int, int, int]
) -> None:
    pen.rectangle((460, 130, 564, 220), fill=dark)
    pen.polygon(((460, 220), (564, 220), (660, 400), (364, 400)), fill=rgb)
    pen.rounded_rectangle((364, 380, 660, 870), 40, fill=rgb)
    pen.rectangle((364, 520, 660, 700), fill=(245, 240, 225))


_SHAPES: Mapping[str, Draw] = {
    "mug": _mug,
    "lamp": _lamp,
    "chair": _chair,
    "shirt": _shirt,
    "bag": _bag,
    "bottle": _bottle,
}
