"""How calibrated verdicts do on pairs that they were not fitted to, by family and by edit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from likeness.proof.pixel_proof import PROVEN_LEVELS
from likeness.proof.verdicts import (
    FITTED_LEVELS,
    Calibration,
    Level,
    judge,
    probabilities,
)

from .calibration_pairs import NO_PROOF, ORDER, Pairs
from .logistic_regression import upper_bound
from .metrics import Reliability, reliability

_FOLDS = 8
_MIN_FAMILIES = 3


class FalseClaims(Struct, frozen=True):
    """How many of the pairs of different things are called so close; bound: 95 %, from above."""

    count: int
    of: int
    bound: float


class FamilyResult(Struct, frozen=True):
    """Verdicts on the pairs of one family.

    false: claims about different things, by level, each with what is closer. suspected: share of
    these that the pixels are asked about. found: share of upright edits that are. right: share of
    edits called what they are. gap: for each fitted level, the probability claimed less the share
    that holds, among the unedited pairs called so; NaN without such.
    """

    false: dict[str, FalseClaims]
    suspected: float
    found: float
    right: float
    gap: dict[str, float]


class HeldOutResult(Struct, frozen=True):
    """How calibrations do on pairs that they were not fitted to.

    right: share of each level's pairs that are called so; edits: the same for each edit.
    false_copy, false_edited: shares of pairs of different things called that or closer.
    reliability: for each fitted level, on unedited pairs as frequent as they are among neighbours.
    """

    pairs: int
    right: dict[str, float]
    edits: dict[str, float]
    false_copy: float
    false_edited: float
    reliability: dict[str, Reliability]
    families: dict[str, FamilyResult]


class _Judged(NamedTuple):
    """Pairs with what is called of them: levels as numbers of ORDER (N,), chances (N, levels)."""

    pairs: Pairs
    called: NDArray[np.intp]
    chances: NDArray[np.float64]
    suspected: NDArray[np.bool_]


def folds(pairs: Pairs) -> Iterator[NDArray[np.bool_]]:
    """Masks of pairs to hold out: some families at a time, or half of the images."""
    families = np.unique(pairs.family)
    if len(families) < _MIN_FAMILIES:
        yield pairs.image % 2 == 1
        return
    for first in range(min(_FOLDS, len(families))):
        yield np.isin(pairs.family, families[first::_FOLDS])


def measure(parts: Sequence[tuple[Calibration, Pairs]]) -> HeldOutResult:
    """Each calibration on its pairs, all taken together."""
    judged = [_judged(calibration, pairs) for calibration, pairs in parts]
    fields = zip(*(each.pairs for each in judged), strict=True)
    pairs = Pairs._make(np.concatenate(values) for values in fields)
    all_of = _Judged(
        pairs,
        *(
            np.concatenate([getattr(each, name) for each in judged])
            for name in ("called", "chances", "suspected")
        ),
    )
    return _result(all_of)


def _judged(calibration: Calibration, pairs: Pairs) -> _Judged:
    found = judge(calibration, pairs.rows, pairs.flat)
    levels = np.array([ORDER[each.verdict.level] for each in found])
    suspected = np.array([each.suspected for each in found])
    proven = _proven(pairs, calibration.pixels)
    called = np.where(proven == NO_PROOF, levels, proven)
    return _Judged(pairs, called, probabilities(calibration, pairs.rows), suspected)


def _proven(pairs: Pairs, stricter: Mapping[str, float]) -> NDArray[np.intp]:
    """The levels that pixels prove (N,) with these thresholds, or NO_PROOF."""
    proven = pairs.proven.copy()
    lower = [*(ORDER[level] for level in PROVEN_LEVELS[1:]), NO_PROOF]
    for level, instead in zip(PROVEN_LEVELS, lower, strict=True):
        fails = pairs.score < stricter.get(level, -math.inf)
        proven[(proven == ORDER[level]) & fails] = instead
    return proven


def _result(judged: _Judged) -> HeldOutResult:
    pairs, called = judged.pairs, judged.called
    different = pairs.level > ORDER[Level.SAME_ITEM]
    return HeldOutResult(
        pairs=len(called),
        right={
            level: _share(pairs.edited & (pairs.level == ORDER[level]), called == ORDER[level])
            for level in (Level.COPY, Level.EDITED)
        },
        edits={
            str(name): _share(pairs.edit == name, called == pairs.level)
            for name in np.unique(pairs.edit[pairs.edited])
        },
        false_copy=_share(different, called <= ORDER[Level.COPY]),
        false_edited=_share(different, called <= ORDER[Level.EDITED]),
        reliability={
            level: reliability(judged.chances[chosen, n], pairs.level[chosen] <= ORDER[level])
            for n, level in enumerate(FITTED_LEVELS)
            for chosen in [~pairs.edited & _is_known(pairs, level)]
        },
        families={
            str(name): _family_result(judged, pairs.family == name)
            for name in np.unique(pairs.family)
        },
    )


def _family_result(judged: _Judged, own: NDArray[np.bool_]) -> FamilyResult:
    pairs = judged.pairs
    different = own & (pairs.level > ORDER[Level.SAME_ITEM])
    edited = own & pairs.edited
    return FamilyResult(
        false={
            level: _false_claims(judged.called[different] <= ORDER[level])
            for level in (Level.COPY, Level.EDITED, Level.SAME_ITEM)
        },
        suspected=_share(different, judged.suspected),
        found=_share(edited & pairs.upright, judged.suspected),
        right=_share(edited, judged.called == pairs.level),
        gap={
            level: _gap(judged, own & ~pairs.edited & _is_known(pairs, level), level, n)
            for n, level in enumerate(FITTED_LEVELS)
        },
    )


def _is_known(pairs: Pairs, level: Level) -> NDArray[np.bool_]:
    """Pairs of which the dataset says whether they are so close; without labels, things differ."""
    return pairs.labelled | (level is Level.SAME_ITEM)


def _false_claims(claimed: NDArray[np.bool_]) -> FalseClaims:
    count = int(claimed.sum())
    return FalseClaims(count, len(claimed), round(upper_bound(count, len(claimed)), 5))


def _gap(judged: _Judged, own: NDArray[np.bool_], level: Level, column: int) -> float:
    claimed = own & (judged.called == ORDER[level])
    if not claimed.any():
        return float("nan")
    held = judged.pairs.level[claimed] <= ORDER[level]
    return round(float(judged.chances[claimed, column].mean() - held.mean()), 4)


def _share(where: NDArray[np.bool_], right: NDArray[np.bool_]) -> float:
    return round(float(right[where].mean()), 5) if where.any() else float("nan")


def show(result: HeldOutResult, images: int, out: Console) -> None:
    out.print(_edits_table(result))
    if len(result.families) > 1:
        out.print(_families_table(result))
    out.print(f"{images} images, {result.pairs} pairs that the verdicts were not fitted to")
    out.print(
        f"of different things, {result.false_copy:.2%} are called a copy or closer, "
        f"{result.false_edited:.2%} edited or closer"
    )
    if len(result.families) == 1:
        out.print(_claims(*result.families.values()))
    errors = "  ".join(f"{level} {found.error:.3f}" for level, found in result.reliability.items())
    out.print(f"expected calibration error  {errors}")


def _claims(family: FamilyResult) -> str:
    bounds = ", ".join(
        f"{level} {claims.count} of {claims.of} (at most {claims.bound:.2%})"
        for level, claims in family.false.items()
    )
    return (
        f"false claims, with 95 % confidence: {bounds}\n"
        f"suspected from the index: {family.found:.1%} of upright edits, "
        f"{family.suspected:.1%} of different things"
    )


def _edits_table(result: HeldOutResult) -> Table:
    table = Table("", "called right", box=SIMPLE_HEAD)
    for level, share in result.right.items():
        table.add_row(level, f"{share:.1%}")
    for name, share in sorted(result.edits.items(), key=lambda item: item[1]):
        table.add_row(f"[dim]  {name}[/dim]", f"[dim]{share:.1%}[/dim]")
    return table


def _families_table(result: HeldOutResult) -> Table:
    columns = ("edits right", "suspected", "false suspicion", "false edited ≤", "false same item ≤")
    gaps = (f"{level} gap" for level in FITTED_LEVELS)
    table = Table("family", *columns, *gaps, box=SIMPLE_HEAD)
    for name, family in result.families.items():
        shares = (family.right, family.found, family.suspected)
        bounds = (family.false[level].bound for level in (Level.EDITED, Level.SAME_ITEM))
        table.add_row(
            name or "all",
            *("" if np.isnan(share) else f"{share:.1%}" for share in shares),
            *(f"{bound:.2%}" for bound in bounds),
            *("" if np.isnan(gap) else f"{gap:+.2f}" for gap in family.gap.values()),
        )
    return table
