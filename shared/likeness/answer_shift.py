"""Answer shift: how far the distribution of answers is from that of a reference period."""

from __future__ import annotations

import math
from collections.abc import Mapping

from msgspec import Struct

from likeness.proof.verdicts import Level

# Answers are counted by the verdict of their first result, and by the band of its cosine.
EMPTY, UNJUDGED = "empty", "unjudged"
VERDICTS = (*(level.value for level in Level), UNJUDGED, EMPTY)
BANDS = tuple(f"{tenth / 10:.1f}" for tenth in range(10))
# Smaller shares are raised to this: an empty class would make the index infinite.
_MIN_SHARE = 1e-4


class AnswerDistribution(Struct, frozen=True):
    """The number of answers in a period, by VERDICTS and by BANDS."""

    verdicts: Mapping[str, float]
    bands: Mapping[str, float]

    @property
    def answers(self) -> float:
        return sum(self.verdicts.values())


def band(score: float) -> str:
    """The one of BANDS that contains a cosine; negative ones belong to the lowest."""
    return BANDS[max(0, min(int(score * 10), 9))]


def shift(reference: AnswerDistribution, current: AnswerDistribution) -> float:
    """The larger stability index of the two distributions. Raises ValueError if one is empty."""
    return max(
        population_stability_index(reference.verdicts, current.verdicts),
        population_stability_index(reference.bands, current.bands),
    )


def population_stability_index(
    reference: Mapping[str, float], current: Mapping[str, float]
) -> float:
    """The distance between two distributions over the same classes; 0 if they are equal.

    Σ (c − r) · ln(c / r) over the classes' shares: Siddiqi, Credit Risk Scorecards (2006), chapter
    6, whose rule of thumb is: below 0.1 no shift, above 0.25 one to act on. It is Jeffreys'
    divergence; its expected value by chance alone is about (classes − 1) · (1/n + 1/m) for n and m
    observations (Yurdakul, Statistical Properties of Population Stability Index, 2018): compare
    windows of some hundreds.

    Accepts counts or shares; a class missing on one side counts as zero. Raises ValueError if
    either side is empty.
    """
    classes = sorted(reference.keys() | current.keys())
    before, now = (_shares(side, classes) for side in (reference, current))
    return sum((c - r) * math.log(c / r) for r, c in zip(before, now, strict=True))


def _shares(counts: Mapping[str, float], classes: list[str]) -> list[float]:
    total = sum(counts.values())
    if not total > 0:
        raise ValueError("the distribution is empty")
    return [max(counts.get(name, 0.0) / total, _MIN_SHARE) for name in classes]
