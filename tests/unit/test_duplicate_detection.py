"""What the gate does when pictures cannot be had, when functions die, and with turned pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from PIL import Image

from likeness.drift import Difference, DriftConfig, DriftDetector
from likeness.duplicate_candidates import NewImage
from likeness.duplicate_detection import DuplicateDetector, Settle
from likeness.errors import (
    ConfigurationError,
    ImageTooLarge,
    IndexUnavailable,
    ObjectChanged,
    StoreUnavailable,
)
from likeness.filters import Schema
from likeness.indexing import Outcome, Result
from likeness.partner_pictures import PartnerPictures
from likeness.ports import VectorIndex
from likeness.proof.pixel_proof import Edit, PixelProof
from likeness.proof.proofs import Proof
from likeness.proof.verdicts import Level, Verdict
from likeness.records import ObjectBody, ObjectRef, Point, Relation, Version
from likeness.settings import Limits
from likeness.sync import settings_digest
from tests.calibrations import BUNDLES
from tests.indexed_bucket import World
from tests.pictures import encoded, jpeg, picture, png


@pytest.fixture(params=BUNDLES, ids=lambda folder: folder.name)
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(tmp_path / "index", request.param)
    yield made
    made.index.close()


class Partners:
    """Where the pictures of suspected duplicates are read: `answer` is raised or returned."""

    def __init__(self, world: World, answer: Exception | bytes | None = None) -> None:
        self.read_keys: list[str] = []
        self._bucket = world.bucket
        self._answer = answer

    def head(self, ref: ObjectRef) -> Any:
        raise AssertionError("only contents are read")

    def read(self, ref: ObjectRef, etag: str, max_bytes: int) -> ObjectBody:
        self.read_keys.append(ref.key)
        if isinstance(self._answer, Exception):
            raise self._answer
        if self._answer is not None:
            return ObjectBody(self._answer)
        return self._bucket.read(ref, etag, max_bytes)


class Counting:
    """An index that counts the calls of each method, and fails one of them once."""

    def __init__(self, index: VectorIndex, fails_at: str = "") -> None:
        self.calls: list[str] = []
        self._index = index
        self._fails_at = fails_at

    def for_model(self, model: str) -> Counting:
        return self

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._index, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            if name == self._fails_at:
                self._fails_at = ""
                raise IndexUnavailable("the connection broke")
            return method(*arguments, **options)

        return call


def test_only_the_pictures_of_suspected_duplicates_are_read(world: World) -> None:
    for key, data in {"a.png": png(1), "b.png": png(2), "same.png": png(3)}.items():
        world.put(key, data)
    partners = Partners(world)
    for key, data in {"c.jpg": jpeg(1), "again.png": png(3)}.items():
        world.bucket.put(key, data)
    world.deliver("c.jpg", "again.png", partners=partners)
    assert partners.read_keys == ["a.png"]
    assert world.matches("c.jpg") == {"a.png": "copy"}
    assert world.matches("again.png") == {"same.png": "exact"}


@pytest.mark.fault(
    "a suspected duplicate cannot be had for the proof by pixels: it changed, vanished, is denied "
    "or damaged",
    seen="the pair is no duplicate; the image is indexed",
    heals="when either image is indexed again",
)
@pytest.mark.parametrize(
    "answer",
    [
        ObjectChanged("a.png"),
        ImageTooLarge("a.png"),
        ConfigurationError("S3 refused access"),
        b"no picture",
        png(1)[:-300],
    ],
    ids=["changed", "too large", "denied", "not decodable", "truncated"],
)
def test_a_pair_whose_partner_cannot_be_had_is_no_duplicate_and_is_indexed_all_the_same(
    world: World, answer: Exception | bytes
) -> None:
    world.put("a.png", png(1))
    world.put("same.jpg", jpeg(1))
    world.bucket.put("b.jpg", jpeg(1))
    [outcome] = world.deliver("b.jpg", partners=Partners(world, answer))
    assert (outcome.result, outcome.error) == (Result.INDEXED, None)
    assert world.matches("b.jpg") == {"same.jpg": "exact"}  # equal bytes need no picture
    assert world.point("b.jpg").compared


@pytest.mark.fault(
    "S3 does not answer while a suspected duplicate is read",
    seen="nothing; the message stays in the queue",
    heals="the retry compares the image, which is found by searches already",
)
def test_a_bucket_that_does_not_answer_fails_the_image_alone_and_the_retry_finds_the_duplicate(
    world: World,
) -> None:
    world.put("a.png", png(1))
    for key, data in {"b.jpg": jpeg(1), "c.png": png(2)}.items():
        world.bucket.put(key, data)
    broken = Partners(world, StoreUnavailable("S3 is not answering"))
    results = {each.ref.key: each for each in world.deliver("b.jpg", "c.png", partners=broken)}
    assert isinstance(results["b.jpg"].error, StoreUnavailable)
    assert results["c.png"].error is None
    assert [world.point(key).compared for key in ("b.jpg", "c.png")] == [False, True]
    [again] = world.deliver("b.jpg")
    assert again.error is None
    assert world.matches("b.jpg") == {"a.png": "copy"}


@pytest.mark.fault(
    "the function ends after an image was written and before it was compared with the others",
    seen="the image is found, without its duplicates",
    heals="the retry, or the drift function, compares it without writing it again",
)
@pytest.mark.parametrize("fails_at", ["nearest", "regroup", "annotate"])
def test_what_a_function_left_uncompared_is_compared_by_the_next_without_another_write(
    world: World, fails_at: str
) -> None:
    world.put("a.png", png(1))
    world.bucket.put("b.jpg", jpeg(1))
    [failed] = world.deliver("b.jpg", index=Counting(world.index, fails_at))
    assert isinstance(failed.error, IndexUnavailable)
    written = world.point("b.jpg")
    assert not written.compared
    retried = Counting(world.index)
    announced: list[Point] = []
    [outcome] = world.deliver("b.jpg", index=retried, announce=announced.extend)
    assert (outcome.result, outcome.error) == (Result.INDEXED, None)
    assert "write" not in retried.calls
    assert world.point("b.jpg").version == written.version
    assert world.matches("b.jpg") == {"a.png": "copy"}
    assert world.groups() == [("a.png", ["b.jpg"])]
    assert [point.ref.key for point in announced] == ["b.jpg"]


def test_drift_finds_an_image_that_was_left_uncompared(world: World) -> None:
    world.put("a.png", png(1))
    world.put("b.png", png(2))
    world.bucket.put("c.jpg", jpeg(1))
    world.deliver("c.jpg", index=Counting(world.index, "annotate"))
    found: list[Difference] = []
    config = DriftConfig("photos", "", settings_digest(Schema(), Limits()))
    report = DriftDetector(world.bucket, world.index, config, found.extend).run()
    assert (report.changed, [each.ref.key for each in found]) == (1, ["c.jpg"])
    world.deliver(*(each.ref.key for each in found))
    assert DriftDetector(world.bucket, world.index, config, found.extend).run().drift == 0
    assert world.groups() == [("a.png", ["c.jpg"])]


def test_without_a_calibration_an_image_that_was_left_uncompared_is_written_again(
    world: World,
) -> None:
    world.bucket.put("a.png", png(1))
    world.deliver("a.png", index=Counting(world.index, "annotate"))
    world.calibration = None
    [outcome] = world.deliver("a.png")
    assert outcome.error is None
    assert world.point("a.png").compared


def test_a_batch_of_new_images_takes_six_calls_and_two_more_with_duplicates(world: World) -> None:
    world.put("a.png", png(1))
    for key, data in {"b.png": png(2), "c.png": png(3)}.items():
        world.bucket.put(key, data)
    index = Counting(world.index)
    world.deliver("b.png", "c.png", index=index)
    compared = ["retrieve_payloads", "write", "nearest", "retrieve_with_vectors"]
    end = ["annotate", "retrieve_payloads"]
    assert index.calls[1:] == [*compared, *end]  # after `prepare`
    world.bucket.put("d.jpg", jpeg(1))
    index = Counting(world.index)
    world.deliver("d.jpg", index=index)
    assert index.calls[1:] == [*compared, "regroup", "retrieve_payloads", *end]


@pytest.mark.parametrize("transposition", list(Image.Transpose), ids=lambda each: each.name)
def test_a_turned_or_mirrored_copy_is_suspected_and_its_picture_read(
    world: World, transposition: Image.Transpose
) -> None:
    """What the pixels then say is the proof's own matter."""
    for seed in range(4):
        world.put(f"{seed}.png", png(seed, 224, 224))
    partners = Partners(world)
    turned = picture(2, 224, 224).transpose(transposition)
    world.bucket.put("turned.jpg", encoded(turned, "JPEG", quality=90))
    assert succeeded(world.deliver("turned.jpg", partners=partners))
    assert "2.png" in partners.read_keys


def succeeded(outcomes: Sequence[Outcome]) -> bool:
    return all(outcome.error is None for outcome in outcomes)


# With proofs of the test's own


def compare(world: World, key: str, data: bytes, **options: Any) -> Point:
    """Index an image, then compare it once more: with `settle` or `clock`."""
    world.put(key, data)
    stored = world.point(key)
    image, _ = world.embedder.decode(data, Limits())
    version = Version(stored.version.sequencer, stored.version.rev + 1)
    bare = {"partners": (), "variants": (), "group": None, "original": None}
    point = structs.replace(stored, version=version, compared=False, **bare)
    model = world.embedder.fingerprint
    index = world.index.for_model(model)
    index.write(model, [point])
    pictures = PartnerPictures(world.bucket, Limits(), world.embedder.spec.preprocessing)
    detector = DuplicateDetector(index, world.embedder, world.calibration, pictures, **options)
    new = NewImage(point, world.embedder.preprocess(image), data)
    assert detector.compare([new]) == {}
    return world.point(key)


def settled_as(level: Level) -> Settle:
    def settle(proof: Proof, *others: Any) -> Proof:
        return proof._replace(verdict=Verdict(level, 0.9), suspected=False)

    return settle


def test_a_variant_is_no_duplicate_and_has_a_group_of_its_own(world: World) -> None:
    world.put("red.png", png(1))
    point = compare(world, "blue.jpg", jpeg(1), settle=settled_as(Level.VARIANT))
    assert point.partners == ()
    assert [(each.key, each.verdict) for each in point.variants] == [("red.png", "variant")]
    assert world.groups(Relation.VARIANT) == [("red.png", ["blue.jpg"])]
    assert world.groups() == []


def test_an_image_is_in_one_group_of_duplicates_and_another_of_variants(world: World) -> None:
    world.put("red.png", png(1))
    compare(world, "green.jpg", jpeg(1, quality=80), settle=settled_as(Level.VARIANT))
    world.put("green again.jpg", jpeg(1, quality=80))
    assert world.matches("green again.jpg")["green.jpg"] == "exact"
    assert world.groups(Relation.VARIANT) == [("red.png", ["green.jpg"])]


@pytest.mark.parametrize("level", [Level.SAME_ITEM, Level.SIMILAR, Level.NONE])
def test_what_the_pixels_do_not_prove_is_no_duplicate(world: World, level: Level) -> None:
    world.put("a.png", png(1))
    point = compare(world, "b.jpg", jpeg(1), settle=settled_as(level))
    assert (point.partners, point.variants, point.group, point.compared) == ((), (), None, True)


def test_a_picture_that_only_contains_another_is_no_duplicate_of_it(world: World) -> None:
    def settle(proof: Proof, *others: Any) -> Proof:
        found = PixelProof((Edit.SCALED, Edit.PART_OF), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0), (), 1.0)
        return settled_as(Level.EDITED)(proof, *others)._replace(pixels=found)

    world.put("part.jpg", jpeg(1))
    point = compare(world, "collage.jpg", jpeg(1, quality=80), settle=settle)
    assert (point.partners, point.group) == ((), None)


@pytest.mark.parametrize("error", [ValueError, ArithmeticError, MemoryError])
def test_a_proof_that_fails_does_not_stop_indexing(world: World, error: type[Exception]) -> None:
    def settle(*arguments: Any) -> Proof:
        raise error("a singular matrix")

    world.put("a.png", png(1))
    world.put("same.jpg", jpeg(1))
    point = compare(world, "b.jpg", jpeg(1), settle=settle)
    assert [each.key for each in point.partners] == ["same.jpg"]
    assert point.compared


def test_proofs_end_when_their_time_is_over(world: World) -> None:
    for n in range(5):
        world.put(f"{n}.jpg", jpeg(1, quality=70 + 2 * n))
    now_s = [0.0]
    settled: list[Proof] = []

    def settle(proof: Proof, *others: Any) -> Proof:
        now_s[0] += 8
        settled.append(proof)
        return settled_as(Level.COPY)(proof, *others)

    point = compare(world, "b.png", png(1), settle=settle, clock=lambda: now_s[0])
    assert len(settled) == len(point.partners) == 3
    assert point.compared


def test_an_older_image_that_arrives_later_is_announced_as_the_original(world: World) -> None:
    world.bucket.put("older.png", png(1))
    world.put("newer.jpg", jpeg(1))
    announced: list[Point] = []
    world.deliver("older.png", announce=announced.extend)
    [event] = announced
    assert (event.ref.key, event.original) == ("older.png", None)
    assert world.point("newer.jpg").original == event.id
    assert world.groups() == [("older.png", ["newer.jpg"])]
