"""Pairs of images of known closeness: what `likeness calibrate` fits and measures verdicts on.

An image and an edit of it are a pair of a known level. Where the dataset names designs, instances
and labels, images that share one are further pairs. Each image is also compared with its nearest
neighbours of the same family: what looks alike and differs is what verdicts must tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from likeness.embedding import Embedder
from likeness.errors import ImageError
from likeness.features import ImageFeatures
from likeness.images import decode
from likeness.proof.pixel_proof import ProofImage, prove_pixels
from likeness.proof.proofs import verify_pairs
from likeness.proof.verdicts import Level
from likeness.settings import Limits

from .datasets import DatasetError, Item
from .edits import EDITS, START_SIDE
from .gallery import features_of_file

MIN_IMAGES = 20
# Levels from the closest, without `exact`, which needs no calibration.
ORDER: Mapping[Level, int] = {
    level: n for n, level in enumerate(level for level in Level if level is not Level.EXACT)
}
NO_PROOF = -1
_UNEDITED = 5  # times as many images as are edited, at most, are compared as they are
_NEAREST, _RANDOM, _PARTNERS = 4, 1, 3
# Two images above this cosine may be the same, unless labels say that they are not.
_MAX_COSINE = 0.97

Progress = Callable[[Iterable[int]], Iterable[int]]


class Pairs(NamedTuple):
    """N pairs, each field (N, …).

    rows (N, F): features; flat: whether an image has too little detail to prove anything; level: as
    a number in ORDER; proven: the level that pixels prove, or NO_PROOF, and with which score;
    image: the number of the image; edit: its name or ""; upright: whether the index can suspect
    this edit; labelled: whether the level is known from edit or labels; apart: whether the dataset
    names two things or designs.
    """

    rows: NDArray[np.float64]
    flat: NDArray[np.bool_]
    level: NDArray[np.intp]
    proven: NDArray[np.intp]
    score: NDArray[np.float64]
    image: NDArray[np.intp]
    edit: NDArray[np.str_]
    upright: NDArray[np.bool_]
    family: NDArray[np.str_]
    labelled: NDArray[np.bool_]
    apart: NDArray[np.bool_]

    def where(self, mask: NDArray[np.bool_]) -> Pairs:
        return Pairs._make(values[mask] for values in self)

    @property
    def edited(self) -> NDArray[np.bool_]:
        """Pairs of an image and an edit of it."""
        return np.asarray(self.edit != "")


class _Sample(NamedTuple):
    """One image to calibrate with."""

    item: Item
    features: ImageFeatures

    @property
    def family(self) -> str:
        return self.item.family or ""

    def image(self) -> Image.Image:
        return decode(self.item.path.read_bytes(), Limits(), START_SIDE)[0]


class _Row(NamedTuple):
    """One pair, as in `Pairs`."""

    features: NDArray[np.float64]
    flat: bool
    level: int
    proven: int
    score: float
    image: int
    edit: str
    upright: bool
    family: str
    labelled: bool
    apart: bool


class _PixelLevel(NamedTuple):
    """What the pixels of a pair prove: a number in ORDER, or NO_PROOF, and its log-odds."""

    level: int
    score: float


_UNPROVEN = _PixelLevel(NO_PROOF, -math.inf)


def make_pairs(
    items: Sequence[Item],
    embedder: Embedder,
    images: int,
    seed: int,
    progress: Progress,
    pixels: bool = True,
) -> Pairs:
    """Pairs from at most `images` edited images, and from more that are compared as they are.

    pixels: whether those of the edited images are also compared pixel by pixel. Raises DatasetError
    if there are too few.
    """
    rng = np.random.default_rng(seed)
    chosen = [items[n] for n in rng.permutation(len(items))]
    samples, scenes = _read_samples(chosen, embedder, images * _UNEDITED)
    if len(samples) < MIN_IMAGES:
        raise DatasetError(f"only {len(samples)} images can be read: {MIN_IMAGES} are needed")
    maker = _PairMaker(samples, scenes, embedder, rng)
    rows: list[_Row] = []
    for number in progress(range(len(samples))):
        rows += maker.natural(number, pixels and number < images)
        if number < images:
            rows += maker.edited(number, pixels)
    return Pairs._make(map(np.array, zip(*rows, strict=True)))


class _PairMaker:
    def __init__(
        self,
        samples: Sequence[_Sample],
        scenes: Sequence[Image.Image],
        embedder: Embedder,
        rng: np.random.Generator,
    ) -> None:
        self._samples, self._scenes, self._embedder = samples, scenes, embedder
        self._rng = rng
        self._vectors = np.stack([sample.features.vector for sample in samples])
        self._families = np.array([sample.family for sample in samples])
        self._designs = np.array([sample.item.design for sample in samples], object)
        self._instances = np.array([sample.item.instance for sample in samples], object)

    def natural(self, number: int, pixels: bool) -> list[_Row]:
        """The image with its nearest others, some at random, and some known to be close."""
        sample = self._samples[number]
        others = list(dict.fromkeys([*self._partners(number), *self._others(number)]))
        if not others:
            return []
        found = self._verified(sample.features, others)
        image = ProofImage(sample.image()) if pixels else None
        rows = []
        for features, flat, other in zip(*found, others, strict=True):
            target = self._samples[other]
            level, labelled = level_between(sample.item, target.item)
            proven = _proven(image, ProofImage(target.image())) if image else _UNPROVEN
            known = (ORDER[level], *proven, number, "", True, sample.family, labelled)
            rows.append(_Row(features, flat, *known, are_told_apart(sample.item, target.item)))
        return rows

    def edited(self, number: int, pixels: bool) -> list[_Row]:
        """The image with each edit of it."""
        sample, rows = self._samples[number], list[_Row]()
        target = ProofImage(sample.image()) if pixels else None
        for edit in EDITS:
            data = edit.make(sample.image(), self._another, self._rng)
            try:
                query = features_of_file(self._embedder, data)[1]
            except ImageError:
                continue  # an edit may leave an image without detail
            proven = _proven(_proof_image(data), target) if target else _UNPROVEN
            known = (ORDER[Level(edit.level)], *proven, number, edit.name, edit.upright)
            [features], [flat] = self._verified(query, [number])
            rows.append(_Row(features, flat, *known, sample.family, True, False))
        return rows

    def _verified(
        self, query: ImageFeatures, others: Sequence[int]
    ) -> tuple[NDArray[np.float64], list[bool]]:
        """Features (K, F) of K pairs, and which of them are flat."""
        candidates = [self._samples[other].features for other in others]
        found = verify_pairs(query, candidates, self._embedder.spec)
        return found.pair_features(), found.evidence().is_flat().tolist()

    def _another(self) -> Image.Image:
        return self._scenes[int(self._rng.integers(len(self._scenes)))]

    def _partners(self, number: int) -> list[int]:
        """Some images of the same design or instance."""
        item = self._samples[number].item
        close = np.zeros(len(self._samples), bool)
        for name, names in ((item.design, self._designs), (item.instance, self._instances)):
            close |= (names == name) & bool(name)
        close[number] = False
        found: list[int] = self._rng.permutation(np.flatnonzero(close))[:_PARTNERS].tolist()
        return found

    def _others(self, number: int) -> list[int]:
        """The nearest of the family and some at random, without likely copies."""
        cosines = self._vectors @ self._vectors[number]
        allowed = self._families == self._families[number]
        allowed[number] = False
        for n in np.flatnonzero(allowed & (cosines > _MAX_COSINE)).tolist():
            allowed[n] = _are_known(self._samples[number].item, self._samples[n].item)
        rows = np.flatnonzero(allowed)
        nearest = rows[np.argsort(-cosines[rows])][:_NEAREST]
        return [*nearest.tolist(), *self._rng.permutation(rows)[:_RANDOM].tolist()]


def _proof_image(data: bytes) -> ProofImage:
    return ProofImage(decode(data, Limits(), START_SIDE)[0])


def _proven(query: ProofImage, target: ProofImage) -> _PixelLevel:
    verdict = prove_pixels(query, target).verdict
    if not verdict:
        return _UNPROVEN
    chance = min(verdict.probability, 1 - 1e-15)
    return _PixelLevel(ORDER[verdict.level], math.log(chance / (1 - chance)))


def _read_samples(
    chosen: Sequence[Item], embedder: Embedder, images: int
) -> tuple[list[_Sample], list[Image.Image]]:
    """Samples, and scenes to paste them into, which are none of the samples."""
    samples: list[_Sample] = []
    scenes: list[Image.Image] = []
    for item in chosen:
        try:
            data = item.path.read_bytes()
            if len(scenes) * 5 < len(samples) + 1 and len(scenes) < MIN_IMAGES:
                scenes.append(embedder.decode(data, Limits())[0])
            elif len(samples) < images:
                samples.append(_Sample(item, features_of_file(embedder, data)[1]))
            else:
                break
        except ImageError:
            continue
    return samples, scenes


def level_between(one: Item, other: Item) -> tuple[Level, bool]:
    """How close two images are by what the dataset says, and whether it says anything of both."""
    if one.design and one.design == other.design:
        return Level.VARIANT, True
    if one.instance and one.instance == other.instance:
        return Level.SAME_ITEM, True
    if one.label and other.label:
        return (Level.SIMILAR if one.label == other.label else Level.NONE), True
    return Level.NONE, False


def are_told_apart(one: Item, other: Item) -> bool:
    """Whether the dataset says that these are two things, or two designs."""
    pairs = (one.instance, other.instance), (one.design, other.design)
    return all(a != b for a, b in pairs if a and b) and any(a and b for a, b in pairs)


def _are_known(one: Item, other: Item) -> bool:
    """Whether the dataset tells the two apart, or says that they are one thing."""
    return bool((one.instance and other.instance) or (one.design and other.design))
