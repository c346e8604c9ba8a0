"""Linear maps in closed form, from second moments that are sums over products.

W = (S + λ · tr(S) / D · I)^(−1/2). S is the scatter of images around the mean of their product
(form “scatter”), or of the differences between a product's photos and its catalogue picture (form
“pairs”): directions in which images of one thing differ count less. The first is within-class
whitening (Hastie et al., The Elements of Statistical Learning, 2nd ed., section 4.3.2), the ridge
is a regularised discriminant's (Friedman, JASA 84, 1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from likeness.records import Vector

from ..bundles.adapter import LinearMap
from ..evaluation.datasets import DatasetError

Form = Literal["scatter", "pairs"]
Floats = NDArray[np.float64]
_CHUNK = 20_000  # rows that are copied to float64 at a time


class Plan(Struct, frozen=True):
    """How a map is fitted. shrinkage: λ. rank: the dimensions that are kept, None for all."""

    form: Form
    shrinkage: float
    rank: int | None = None

    def __str__(self) -> str:
        rank = "" if self.rank is None else f", rank {self.rank}"
        return f"{self.form}, λ {self.shrinkage:g}{rank}"


class Moments(NamedTuple):
    """Sums over images, float64. Those of disjoint products can be added.

    images: their number; total (D,) and square (D, D): sums of x and of x·xᵀ; within (D, D): the
    latter of x − the product's mean. pairs: photos with a catalogue picture; differences (D, D):
    the sum of d·dᵀ of their differences.
    """

    images: int
    total: Floats
    square: Floats
    within: Floats
    pairs: int
    differences: Floats


def moments(vectors: Vector, product: NDArray[np.intp], catalogue: NDArray[np.bool_]) -> Moments:
    """Of images (N, D) with their products (N,) and whether each is a catalogue picture (N,).

    Several catalogue pictures of a product count as their mean.
    """
    dim = vectors.shape[1]
    _, member = np.unique(product, return_inverse=True)
    products = int(member.max()) + 1 if len(member) else 0
    means = _means(vectors, member, products)
    shown = _means(vectors[catalogue], member[catalogue], products)
    shows = np.bincount(member[catalogue], minlength=products) > 0
    photos = np.flatnonzero(~catalogue & shows[member])
    total, square, within, differences = np.zeros(dim), *(np.zeros((dim, dim)) for _ in "123")
    for rows in _chunks(np.arange(len(vectors))):
        values = vectors[rows].astype(np.float64)
        total += values.sum(axis=0)
        square += values.T @ values
        values -= means[member[rows]]
        within += values.T @ values
    for rows in _chunks(photos):
        values = vectors[rows] - shown[member[rows]]
        differences += values.T @ values
    return Moments(len(vectors), total, square, within, len(photos), differences)


def added(parts: Sequence[Moments]) -> Moments:
    """The moments of several disjoint sets of products together."""
    return Moments(*(sum(field) for field in zip(*parts, strict=True)))


class Scatter(NamedTuple):
    """The scatter of one form, diagonalised, from which maps of any shrinkage and rank follow."""

    mean: Floats
    values: Floats
    axes: Floats
    between: Floats


def diagonalise(found: Moments, form: Form) -> Scatter:
    """Raises DatasetError where the images of each product do not differ at all."""
    mean = found.total / max(1, found.images)
    between = (found.square - found.within) / max(1, found.images) - np.outer(mean, mean)
    sums, count = (
        (found.within, found.images) if form == "scatter" else (found.differences, found.pairs)
    )
    values, axes = np.linalg.eigh(sums / max(1, count))
    if not values.sum() > 1e-9:
        raise DatasetError("the images of each product have the same features: nothing to learn")
    return Scatter(mean, np.maximum(values, 0), axes, between)


def fit(scatter: Scatter, plan: Plan) -> LinearMap:
    """The map of a plan of the scatter's form.

    With a rank, those directions are kept in which the means of products differ most, once the
    scatter within products is the same in all directions.
    """
    ridge = plan.shrinkage * scatter.values.mean()
    matrix = (scatter.axes * (scatter.values + ridge) ** -0.5) @ scatter.axes.T
    if plan.rank is not None:
        _, axes = np.linalg.eigh(matrix @ scatter.between @ matrix)
        matrix = matrix @ axes[:, ::-1][:, : plan.rank]
    matrix /= np.linalg.norm(matrix)  # vectors are scaled to length 1 in any case
    return LinearMap(scatter.mean.astype(np.float32), matrix.astype(np.float32))


def _means(vectors: Vector, member: NDArray[np.intp], count: int) -> Floats:
    """The mean of each of so many groups (count, D); zeros for an empty one."""
    order = np.argsort(member, kind="stable")
    sizes = np.bincount(member, minlength=count)
    sums = np.zeros((count, vectors.shape[1]))
    if len(order):
        filled = np.flatnonzero(sizes)
        starts = np.cumsum(sizes)[filled] - sizes[filled]
        sums[filled] = np.add.reduceat(vectors[order], starts, axis=0, dtype=np.float64)
    return sums / np.maximum(sizes, 1)[:, None]


def _chunks(rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    return [rows[at : at + _CHUNK] for at in range(0, len(rows), _CHUNK)]
