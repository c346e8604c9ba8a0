"""A service whose bundle has version 2 of the preprocessing: indexer, engine and HTTP are real."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.pictures import encoded, picture
from tests.service import BUNDLED, Service

SIZE = (320, 200)
BAR = 100  # above and below, so that the picture is the middle half
PICTURES = 8


def letterboxed(image: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", (image.width, image.height + 2 * BAR))
    canvas.paste(image, (0, BAR))
    return canvas


def darkened(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 2, (image.height, image.width, 3))
    values = np.asarray(image, np.float32) * 0.15 + noise
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))


def logo(points: int) -> Image.Image:
    """A white star on transparency."""
    angles = np.linspace(0, 2 * np.pi, 2 * points, endpoint=False)
    radii = np.where(np.arange(2 * points) % 2, 40, 95)
    corners = np.stack([100 + radii * np.sin(angles), 100 - radii * np.cos(angles)], axis=1)
    image = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.polygon([tuple(corner) for corner in corners.tolist()], fill="white")
    return image


def version(folder: Path, number: int) -> Path:
    """The bundled model with this version of the preprocessing."""
    bundle = folder / f"version-{number}"
    bundle.mkdir()
    manifest = json.loads((BUNDLED / "model.json").read_text())
    for name in manifest["files"]:
        shutil.copy(BUNDLED / name, bundle)
    (bundle / "model.json").write_text(json.dumps(manifest | {"preprocessing": number}))
    return bundle


def filled(folder: Path, number: int) -> Service:
    service = Service(folder / "index", version(folder, number))
    images = {f"{seed}.png": encoded(picture(seed, *SIZE)) for seed in range(PICTURES)}
    images["0.png"] = encoded(letterboxed(picture(0, *SIZE)))
    images |= {f"star{points}.png": encoded(logo(points)) for points in (3, 5, 9)}
    service.fill(images)
    return service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with filled(tmp_path_factory.mktemp("newest"), 2) as service:
        yield service


def found(service: Service, image: Image.Image, **fields: Any) -> list[dict[str, Any]]:
    data = base64.b64encode(encoded(image)).decode()
    answer = service.search(image=data, **fields)
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def test_a_letterboxed_copy_has_the_vector_of_its_original(service: Service) -> None:
    best, second = found(service, letterboxed(picture(4, *SIZE)), limit=2)
    assert best["key"] == "4.png"
    assert best["score"] > 0.99 > second["score"]
    best, second = found(service, picture(0, *SIZE), limit=2)
    assert best["key"] == "0.png"
    assert best["score"] > 0.99 > second["score"]


def test_boxes_are_parts_of_the_whole_image_that_was_sent(service: Service) -> None:
    """The left half of a letterboxed picture: its matches are between the bars."""
    part = picture(0, *SIZE).crop((0, 0, SIZE[0] // 2, SIZE[1]))
    [best] = found(service, part, limit=1, explain=True, subject=False)
    assert best["key"] == "0.png"
    [match] = best["explain"]["matches"]
    left, top, right, bottom = match["target"]
    assert 0 <= left < right < 0.65
    assert 0.2 < top < 0.45
    assert 0.55 < bottom < 0.8
    [best] = found(service, letterboxed(picture(4, *SIZE)), limit=1, explain=True, subject=False)
    [match] = best["explain"]["matches"]
    assert 0.2 < match["query"][1] < 0.45
    assert 0.55 < match["query"][3] < 0.8
    assert match["target"][1] < 0.2
    assert match["target"][3] > 0.8


def test_a_box_means_the_image_that_was_sent(service: Service) -> None:
    """Bars inside the box are not seen; a box of nothing else is refused as flat."""
    image = letterboxed(picture(4, *SIZE))
    [best] = found(service, image, limit=1, box=[0, 0, 1, 0.9], subject=False)
    assert best["key"] == "4.png"
    assert best["score"] > 0.95
    data = base64.b64encode(encoded(image)).decode()
    answer = service.search(image=data, box=[0, 0, 1, 0.2])
    assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[-1]) == (422, "no-detail")


def test_a_query_id_repeats_the_search_of_a_letterboxed_image(service: Service) -> None:
    data = base64.b64encode(encoded(letterboxed(picture(4, *SIZE)))).decode()
    first = service.search(image=data, explain=True, limit=3).json()
    again = service.search(query_id=first["query_id"], explain=True, limit=3).json()
    assert [r["key"] for r in again["results"]] == [r["key"] for r in first["results"]]
    matches = [answer["results"][0]["explain"]["matches"][0] for answer in (first, again)]
    assert matches[1]["query"] == pytest.approx(matches[0]["query"], abs=1e-3)


def test_things_are_found_between_the_bars(service: Service) -> None:
    data = base64.b64encode(encoded(letterboxed(picture(4, *SIZE)))).decode()
    answer = service.search(image=data, detect=True, limit=1).json()
    assert "4.png" in {region["results"][0]["key"] for region in answer["regions"]}
    for region in answer["regions"]:
        _, top, _, bottom = region["box"]
        assert 0.24 < top < bottom < 0.76


def test_a_dark_copy_finds_its_original(service: Service) -> None:
    [best] = found(service, darkened(picture(5, *SIZE)), limit=1)
    assert best["key"] == "5.png"
    assert best["score"] > 0.8


def test_white_drawings_on_transparency_are_indexed_and_told_apart(service: Service) -> None:
    for points in (3, 5, 9):
        best, second = found(service, logo(points).resize((150, 150)), limit=2)
        assert best["key"] == f"star{points}.png"
        assert best["score"] > second["score"] + 0.02


def test_a_thumbnail_shows_the_whole_image(service: Service) -> None:
    answer = service.http.get(f"/v1/images/{service.id('0.png')}/thumbnail")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.content)) as shown:
        assert shown.width / shown.height == pytest.approx(SIZE[0] / (SIZE[1] + 2 * BAR), abs=0.02)
        assert shown.convert("L").getpixel((shown.width // 2, 3)) < 10  # type: ignore[operator]
