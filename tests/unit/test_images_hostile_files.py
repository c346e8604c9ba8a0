"""The worst files that other image libraries keep in their own test suites."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from likeness.embedding import Embedder
from likeness.errors import (
    ImageError,
    NoDetail,
    NotAnImage,
    TooManyPixels,
    UnsupportedFormat,
)
from likeness.images import decode
from likeness.settings import Limits

REPOSITORY = Path(__file__).resolve().parents[2]
HOSTILE = REPOSITORY.parent / "shared" / "data" / "hostile"
SECONDS = 3.0
LIMITS = {
    "usual": Limits(),
    "with the extras": replace(Limits(), formats=(*Limits().formats, "AVIF", "HEIF")),
}

pytestmark = [
    pytest.mark.skipif(
        not (HOSTILE / "manifest.csv").is_file(),
        reason="the hostile files are not here: ../shared/data/hostile",
    ),
    # Pillow warns of damage that it tolerates; in production that is a line in the log.
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning"),
]


@dataclass(frozen=True)
class Outcome:
    """What became of one file. `expected` and `format` are the manifest's: Pillow, all of it."""

    path: str
    expected: str
    format: str
    image: Image.Image | None
    error: Exception | None
    seconds: float


def outcomes(limits: Limits) -> Iterator[Outcome]:
    with (HOSTILE / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 400
    for row in rows:
        data = (HOSTILE / row["path"]).read_bytes()
        image, error = None, None
        began = time.process_time()
        try:
            image, _ = decode(data, limits, 224)
        except Exception as raised:  # noqa: BLE001 - the tests check which ones
            error = raised
        seconds = time.process_time() - began
        yield Outcome(row["path"], row["outcome"], row["fmt"], image, error, seconds)


@pytest.fixture(scope="module", params=LIMITS)
def results(request: pytest.FixtureRequest) -> list[Outcome]:
    return list(outcomes(LIMITS[request.param]))


def test_every_file_gives_an_image_or_an_image_error(results: list[Outcome]) -> None:
    others = [r for r in results if r.error and not isinstance(r.error, ImageError)]
    assert [(r.path, repr(r.error)) for r in others] == []
    assert {r.image.mode for r in results if r.image} == {"RGB"}


def test_no_file_takes_longer_than_three_seconds(results: list[Outcome]) -> None:
    assert [(r.path, r.seconds) for r in results if r.seconds > SECONDS] == []


def test_no_decompression_bomb_is_decoded(results: list[Outcome]) -> None:
    bombs = [r for r in results if r.expected == "bomb"]
    assert bombs
    refused = (TooManyPixels, UnsupportedFormat)
    assert [(r.path, r.error) for r in bombs if not isinstance(r.error, refused)] == []


def test_no_file_that_is_not_an_image_is_decoded(results: list[Outcome]) -> None:
    unknown = [r for r in results if r.expected == "unidentified"]
    assert unknown
    refused = (NotAnImage, UnsupportedFormat)
    assert [(r.path, r.error) for r in unknown if not isinstance(r.error, refused)] == []


def test_a_damaged_file_is_never_accepted(results: list[Outcome]) -> None:
    assert [r.path for r in results if r.expected == "truncated" and r.image] == []


def test_nearly_every_unusual_but_valid_file_is_decoded(
    results: list[Outcome],
) -> None:
    good = [r for r in results if r.expected == "ok" and r.format in Limits().formats]
    assert len(good) > 100
    # Five PNGs that the manifest calls good have pixel data that cannot be decompressed.
    assert sum(r.image is not None for r in good) / len(good) > 0.95


def test_every_decoded_file_has_a_finite_vector_or_no_detail(results: list[Outcome]) -> None:
    embedder = Embedder(REPOSITORY / "tests" / "models" / "fixed-filters")
    tensors = []
    for result in results:
        if result.image:
            try:
                tensors.append(embedder.to_tensor(result.image))
            except NoDetail:
                continue
    vectors = embedder.embed(tensors)
    assert len(vectors) > 50
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
