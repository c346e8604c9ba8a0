"""Verdicts for tests: calibrations fitted to drawn pictures and edits of them.

`likeness calibrate` does the same with more pictures and every edit; this takes seconds, and
depends on no calibration that a bundle ships.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from console.evaluation.edits import EDITS
from console.evaluation.logistic_regression import fit
from likeness.embedding import Embedder
from likeness.feature_extraction import extract_features
from likeness.features import ImageFeatures
from likeness.model import ModelSpec, load_spec
from likeness.proof.verdicts import FITTED_LEVELS, Calibration
from likeness.rerank.ranker import Ranker
from likeness.settings import Limits
from tests.pictures import encoded, picture

ROOT = Path(__file__).parents[1]
BUNDLES = (ROOT / "tests" / "models" / "fixed-filters", ROOT / "layers" / "model")
PICTURES = 16
_OTHERS = 4  # that each is held against
# Far from the seeds that tests take for their own pictures.
_FIRST = 90_000
_TAKEN = ("jpeg", "smaller", "cropped", "recoloured", "text", "in a scene")


def calibration_of(spec: ModelSpec) -> Calibration:
    """For a bundle of this repository, of any version of the preprocessing. The same each time."""
    specs = {folder: load_spec(folder) for folder in BUNDLES}
    [folder] = [
        folder
        for folder, of in specs.items()
        if replace(spec, preprocessing=of.preprocessing).fingerprint == of.fingerprint
    ]
    return replace(_fitted(folder), model=spec.fingerprint)


@cache
def _fitted(folder: Path) -> Calibration:
    embedder = Embedder(folder)
    ranker = Ranker(embedder.spec, None)
    rng = np.random.default_rng(0)
    drawn = [picture(_FIRST + n, 320, 240) for n in range(PICTURES)]
    seen = [_look(encoded(image), embedder) for image in drawn]
    rows, close = [], []
    for n, image in enumerate(drawn):
        others = [seen[(n + step) % PICTURES] for step in range(1, _OTHERS + 1)]
        for edit in EDITS:
            if edit.name in _TAKEN:
                data = edit.make(image, lambda: picture(int(rng.integers(_FIRST)), 320, 240), rng)
                rows.append(ranker.pair_features(_look(data, embedder), [seen[n], *others]))
                close.append((True, *[False] * _OTHERS))
    # nothing here is just similar: what is called that is the same item at least
    fitted = fit(np.concatenate(rows), np.concatenate(close))
    return Calibration(
        embedder.fingerprint,
        {level.value: fitted for level in FITTED_LEVELS},
        fitted,
        made_from="drawn pictures",
    )


def _look(data: bytes, embedder: Embedder) -> ImageFeatures:
    image, info = embedder.decode(data, Limits())
    return extract_features(embedder, image, sha256=info.sha256)
