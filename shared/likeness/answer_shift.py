"""Retrieval's own health: do answers still look as they did when all was well?"""

from __future__ import annotations

import math
from collections.abc import Mapping

from msgspec import Struct

from likeness.proof.verdicts import Level

# The classes that answers are counted in: by the verdict and the cosine of their first result.
EMPTY, UNJUDGED = "empty", "unjudged"
VERDICTS = (*(level.value for level in Level), UNJUDGED, EMPTY)
BANDS = tuple(f"{tenth / 10:.1f}" for tenth in range(10))
# Shares below this count as this much: an empty class would make the index infinite.
_LEAST_SHARE = 1e-4


class AnswerDistribution(Struct, frozen=True):
    """How many answers of a time there were, by VERDICTS and by BANDS."""

    verdicts: Mapping[str, float]
    bands: Mapping[str, float]

    @property
    def answers(self) -> float:
        return sum(self.verdicts.values())


def band(score: float) -> str:
    """The one of BANDS that a cosine lies in; negative ones lie in the lowest."""
    return BANDS[max(0, min(int(score * 10), 9))]


def shift(reference: AnswerDistribution, current: AnswerDistribution) -> float:
    """The larger of the two distributions' stability indices; raises ValueError as they do."""
    return max(
        population_stability_index(reference.verdicts, current.verdicts),
        population_stability_index(reference.bands, current.bands),
    )


def population_stability_index(
    reference: Mapping[str, float], current: Mapping[str, float]
) -> float:
    """How far two distributions over the same classes are apart; 0 where they agree.

    Σ (c − r) · ln(c / r) over the classes' shares: Siddiqi, Credit Risk Scorecards (2006), chapter
    6, whose rule of thumb is: below 0.1 no shift, above 0.25 one to act on. It is Jeffreys'
    divergence, whose value by chance alone is about (classes − 1) · (1/n + 1/m) for n and m
    observations (Yurdakul, Statistical Properties of Population Stability Index, 2018): compare
    windows of some hundreds.

    Counts or shares; a class that one side lacks counts as zero. Raises ValueError where either
    side has nothing.
    """
    classes = sorted(reference.keys() | current.keys())
    before, now = (_shares(side, classes) for side in (reference, current))
    return sum((c - r) * math.log(c / r) for r, c in zip(before, now, strict=True))


def _shares(counts: Mapping[str, float], classes: list[str]) -> list[float]:
    total = sum(counts.values())
    if not total > 0:
        raise ValueError("a distribution of nothing")
    return [max(counts.get(name, 0.0) / total, _LEAST_SHARE) for name in classes]
