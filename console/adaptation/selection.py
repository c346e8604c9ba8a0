"""Which map: by cross-validation over products, and whether it is worth having.

Images of one product are alike, so a map is only ever tried on products that it was not fitted to.
How it does on products that nothing was chosen by is measured by a second cross-validation around
the first (nested; Varma and Simon, BMC Bioinformatics 7:91, 2006).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..bundles.adapter import LinearMap
from ..evaluation.datasets import DatasetError
from ..evaluation.metrics import estimate
from .learning import Form, Moments, Plan, Scatter, added, diagonalise, fit, moments
from .searching import Change, Hits, Searches, change, changed_by, first_right, search
from .training_set import TrainingSet

SHRINKAGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
RANKED = (0.1, 1.0)  # are tried with half of the dimensions too
FOLDS = 5


class Selection(NamedTuple):
    """scores: R@1 of each plan on products left out, the best first. unseen: the gain on products
    that neither the map nor the choice knew. `mapped` and `plan` are None where every map loses
    something elsewhere; `changes` are then those of the best plan.
    """

    scores: Mapping[Plan, float]
    before: float
    unseen: Change
    plan: Plan | None
    mapped: LinearMap | None
    changes: Sequence[Change]


class _Folds(NamedTuple):
    """Products in folds: the moments of each, and the queries of the searches by fold (Q,)."""

    moments: Sequence[Moments]
    of_query: NDArray[np.intp]


def folds(product: NDArray[np.intp], seed: int, count: int = FOLDS) -> NDArray[np.intp]:
    """The fold of each image (N,): all images of a product are in the same one; −1 without one."""
    names = np.unique(product[product >= 0])
    drawn = np.random.default_rng(seed).permutation(len(names)) % count
    place = np.minimum(np.searchsorted(names, product), len(names) - 1)
    return np.where(product < 0, -1, drawn[place])


def select(
    training: TrainingSet,
    searches: Searches,
    guards: Sequence[Searches],
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> Selection:
    """Choose a map, and measure what choosing like this gains on products left out.

    `advance` is called STEPS times. Raises DatasetError for features without variation.
    """
    fold = folds(training.product, seed)
    of_product = dict(zip(training.product.tolist(), fold.tolist(), strict=True))
    of_query = np.array([of_product[each] for each in searches.group.tolist()], np.intp)
    parts = [_of_fold(training, fold == number) for number in range(FOLDS)]
    made = _Folds(parts, of_query)
    forms = training.forms
    before = search(searches, None)
    watched = [(guard, first_right(guard, None)) for guard in guards]
    after = Hits(before.at_1.copy(), before.average_precision.copy())
    for outer in range(FOLDS):
        others = [number for number in range(FOLDS) if number != outer]
        scores = _cross_validate(made, searches, forms, others)
        chosen = _admissible(made, scores, others, watched)
        if chosen:
            held_out = of_query == outer
            found = search(searches.of(held_out), chosen[1])
            after.at_1[held_out] = found.at_1
            after.average_precision[held_out] = found.average_precision
        advance()
    everything = list(range(FOLDS))
    scores = _cross_validate(made, searches, forms, everything)
    chosen = _admissible(made, scores, everything, watched)
    advance()
    unseen = change("products left out", before, after, searches.group)
    plan, mapped = chosen or (None, None)
    best = next(iter(scores))
    shown = mapped or fit(diagonalise(added(parts), best.form), best)
    seen = searches._replace(name="products learned from")
    changes = [changed_by(each, shown) for each in (seen, *guards)]
    return Selection(scores, float(before.at_1.mean()), unseen, plan, mapped, changes)


STEPS = FOLDS + 1


def _of_fold(training: TrainingSet, rows: NDArray[np.bool_]) -> Moments:
    return moments(training.vectors[rows], training.product[rows], training.catalogue[rows])


def _cross_validate(
    made: _Folds, searches: Searches, forms: Sequence[Form], numbers: Sequence[int]
) -> dict[Plan, float]:
    """R@1 of each plan on the products of each of these folds, fitted to the others of them."""
    hits: dict[Plan, list[NDArray[np.float64]]] = {}
    dim = searches.queries.shape[1]
    for held_out in numbers:
        asked = searches.of(made.of_query == held_out)
        if not len(asked.queries):
            continue
        rest = added([made.moments[number] for number in numbers if number != held_out])
        for form in forms:
            scatter = diagonalise(rest, form)
            for plan in _plans(form, dim):
                hits.setdefault(plan, []).append(first_right(asked, fit(scatter, plan)))
    if not hits:
        raise DatasetError("too few products to leave any out")
    found = {plan: float(np.concatenate(each).mean()) for plan, each in hits.items()}
    # of equals the one that changes least
    return dict(sorted(found.items(), key=lambda item: (-item[1], -item[0].shrinkage)))


def _plans(form: Form, dim: int) -> Iterable[Plan]:
    for shrinkage in SHRINKAGES:
        yield Plan(form, shrinkage)
        if shrinkage in RANKED and dim >= 8:
            yield Plan(form, shrinkage, dim // 2)


def _admissible(
    made: _Folds,
    scores: Mapping[Plan, float],
    numbers: Sequence[int],
    guards: Sequence[tuple[Searches, NDArray[np.float64]]],
) -> tuple[Plan, LinearMap] | None:
    """The best plan, fitted to these folds, whose map loses nothing elsewhere, if there is one."""
    rest = added([made.moments[number] for number in numbers])
    scatters: dict[Form, Scatter] = {}
    for plan in scores:
        if plan.form not in scatters:
            scatters[plan.form] = diagonalise(rest, plan.form)
        mapped = fit(scatters[plan.form], plan)
        if not any(_loses(guard, before, mapped) for guard, before in guards):
            return plan, mapped
    return None


def _loses(guard: Searches, before: NDArray[np.float64], mapped: LinearMap) -> bool:
    """Whether fewer first results are right, beyond the interval."""
    return estimate(first_right(guard, mapped) - before, guard.group).high < 0
