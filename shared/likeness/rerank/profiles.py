"""Profiles: which stages put a list of neighbours into its final order.

What each stage gains is measured by `likeness evaluate`. CONTRIBUTING.md walks through adding one.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from likeness.rerank.geometry import add_geometry_scores, verify_shown
from likeness.rerank.refinement import mix_in_refined_scores
from likeness.rerank.stage import Need, Stage

REFINEMENT = Stage(
    "refinement",
    label="Agreement with neighbours",
    run=mix_in_refined_scores,
    budget_s=0.02,
    needs=frozenset({Need.CALIBRATION, Need.SEVERAL_CANDIDATES}),
)
GEOMETRY = Stage(
    "geometry",
    label="Matching details",
    run=add_geometry_scores,
    budget_s=0.1,
    needs=frozenset({Need.CALIBRATION}),
    instant_without=Need.LOCAL_DESCRIPTORS,
)
STAGES = (REFINEMENT, GEOMETRY)


class Profile(StrEnum):
    """How much a search reranks; PROFILES has the stages of each."""

    NONE = "none"
    FAST = "fast"
    PRECISE = "precise"


# In the order in which they run.
PROFILES: Mapping[Profile, tuple[Stage, ...]] = {
    Profile.NONE: (),
    Profile.FAST: (REFINEMENT, GEOMETRY._replace(run=verify_shown, reorders=False)),
    Profile.PRECISE: (REFINEMENT, GEOMETRY),
}
