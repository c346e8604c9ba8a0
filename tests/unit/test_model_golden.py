"""golden.json: an image and its vector by the bundle's network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from console.bundles.golden import write_golden
from likeness.embedding import Embedder
from likeness.errors import ModelBundleError
from likeness.model import GOLDEN, Golden, load_golden, load_spec
from likeness.settings import Limits
from tests.service import BUNDLED, FIXED_FILTERS


def embed(bundle: Path, golden: Golden) -> Any:
    embedder = Embedder(bundle)
    image, _ = embedder.decode(golden.image, Limits())
    return embedder.embed([embedder.to_tensor(image)])[0]


def test_the_bundled_model_still_computes_its_golden_vector() -> None:
    """Tolerance: cosine .9999, as for the golden vectors of the embedder's own tests."""
    golden = load_golden(BUNDLED, load_spec(BUNDLED))
    assert embed(BUNDLED, golden) @ np.array(golden.vector) >= 0.9999


def test_any_bundle_can_get_a_golden_pair(tmp_path: Path) -> None:
    bundle = shutil.copytree(FIXED_FILTERS, tmp_path / "bundle")
    write_golden(bundle)
    golden = load_golden(bundle, load_spec(bundle))
    np.testing.assert_allclose(embed(bundle, golden), golden.vector, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model": "0123456789abcdef"}, "of model 0123456789abcdef"),
        ({"vector": [1.0]}, "1 dimensions"),
        ({"vector": ["one"]}, "Expected `float`"),
        ({"image": "no base64!"}, "base64"),
        ({"more": 1}, "more"),
    ],
)
def test_a_golden_pair_of_another_bundle_is_refused(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    pair = json.loads((BUNDLED / GOLDEN).read_text()) | change
    (tmp_path / GOLDEN).write_text(json.dumps(pair))
    with pytest.raises(ModelBundleError, match=why):
        load_golden(tmp_path, load_spec(BUNDLED))


def test_the_error_for_a_missing_golden_pair_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ModelBundleError, match=GOLDEN):
        load_golden(tmp_path, load_spec(BUNDLED))
