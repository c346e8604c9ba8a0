"""The network of an adapted bundle gives what its map makes of the base's vectors."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from console.bundles import adapted_bundle
from console.bundles.adapter import ADAPTER_FILE, LinearMap, load_map
from console.bundles.checks import check_bundle
from console.bundles.mapped_network import with_map
from likeness.embedding import Embedder, Network, pool, unit_rows
from likeness.errors import ModelBundleError
from likeness.model import MANIFEST, Output, load_spec
from likeness.preprocessing import prepare
from tests import networks
from tests.pictures import picture
from tests.service import FIXED_FILTERS


def random_map(dim: int, rank: int | None = None, seed: int = 0) -> LinearMap:
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=dim).astype(np.float32) / dim**0.5 / 2
    return LinearMap(mean, rng.normal(size=(dim, rank or dim)).astype(np.float32))


def write(folder: Path, base: Path, mapped: LinearMap) -> Path:
    adapted_bundle.write(folder, base, mapped, lambda made, spec: None)
    return folder


TOKENS = [
    (networks.dinov2(), Output("embedding", 384, "cls")),
    (networks.dinov2(), Output("embedding", 384, "mean", 1)),
    (networks.dinov2(), Output("embedding", 384, "gem", 1, 2.5)),
    (networks.resnet(), Output("embedding", 64, "mean")),
    (networks.resnet(), Output("embedding", 64, "gem")),
    (networks.clip(), Output("embedding", 512)),
    (networks.clip(batch=1), Output("embedding", 512)),
]


@pytest.mark.parametrize(("network", "output"), TOKENS)
@pytest.mark.parametrize("rank", [None, 24])
def test_the_graph_pools_and_maps_as_numpy_does(
    network: Any, output: Output, rank: int | None
) -> None:
    data, mapped = network.SerializeToString(), random_map(output.dim, rank)
    image = np.random.default_rng(1).normal(size=(1, 3, 224, 224)).astype(np.float32)
    base = unit_rows(pool(Network(data, "base").run({"image": image})["embedding"], output))
    changed, given = with_map(data, output, mapped)
    assert (given.pooling, given.dim) == ("none", rank or output.dim)
    found = Network(changed, "adapted").run({"image": image})
    assert set(found) == {given.name}
    np.testing.assert_allclose(unit_rows(found[given.name]), mapped.apply(base), atol=1e-5)


def test_an_image_without_features_has_none_either() -> None:
    data = networks.resnet().SerializeToString()  # it ends with Relu
    output = Output("embedding", 64, "mean")
    changed, given = with_map(data, output, random_map(64))
    empty = np.zeros((1, 3, 224, 224), np.float32)
    assert not Network(data, "base").run({"image": empty})["embedding"].any()
    assert not Network(changed, "adapted").run({"image": empty})[given.name].any()


def test_a_bundle_can_be_adapted_again(tmp_path: Path) -> None:
    dim = load_spec(FIXED_FILTERS).embedding.dim
    first = write(tmp_path / "first", FIXED_FILTERS, random_map(dim, seed=1))
    second = write(tmp_path / "second", first, random_map(dim, 100, seed=2))
    specs = [load_spec(folder) for folder in (FIXED_FILTERS, first, second)]
    assert len({spec.fingerprint for spec in specs}) == 3
    assert [spec.adapter and spec.adapter.base for spec in specs] == [
        None, specs[0].fingerprint, specs[1].fingerprint,
    ]  # fmt: skip
    assert specs[2].name == specs[1].name and specs[2].embedding.dim == 100
    tensor = prepare(picture(3), specs[0]).tensor
    vectors = Embedder(FIXED_FILTERS).embed([tensor])
    for folder, spec in ((first, specs[1]), (second, specs[2])):
        vectors = load_map(folder, spec).apply(vectors)
        np.testing.assert_allclose(Embedder(folder).embed([tensor]), vectors, atol=1e-5)


def test_nothing_is_left_of_a_bundle_that_fails(tmp_path: Path) -> None:
    dim = load_spec(FIXED_FILTERS).embedding.dim
    useless = LinearMap(np.zeros(dim, np.float32), np.zeros((dim, dim), np.float32))
    with pytest.raises((RuntimeError, ModelBundleError)):
        write(tmp_path / "new", FIXED_FILTERS, useless)

    def interrupted(folder: Path, spec: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapted_bundle.write(tmp_path / "new", FIXED_FILTERS, random_map(dim), interrupted)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_or_foreign_map_is_refused(tmp_path: Path) -> None:
    dim = load_spec(FIXED_FILTERS).embedding.dim
    with pytest.raises(ModelBundleError, match="is not an adapted bundle"):
        load_map(FIXED_FILTERS, load_spec(FIXED_FILTERS))
    folder = write(tmp_path / "new", FIXED_FILTERS, random_map(dim))
    (folder / ADAPTER_FILE).write_bytes(random_map(dim, seed=9).to_bytes())
    with pytest.raises(ModelBundleError, match="is damaged or was replaced"):
        load_map(folder, load_spec(folder))


def archive(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def single_array() -> bytes:
    out = io.BytesIO()
    np.save(out, np.eye(3))
    return out.getvalue()


DIM = load_spec(FIXED_FILTERS).embedding.dim
MEAN, MATRIX = random_map(DIM)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "is not an adapter"),
        (b"no archive", "is not an adapter"),
        (random_map(DIM).to_bytes()[:3000], "is not an adapter"),
        (single_array(), "is not an adapter"),
        (archive(mean=MEAN), "is not an adapter"),
        (archive(mean=MEAN, matrix=MATRIX[:, 1:]), "maps"),
        (archive(mean=MEAN[1:], matrix=MATRIX), "maps"),
        (archive(mean=MEAN[None], matrix=MATRIX[None]), "maps"),
        (archive(mean=MEAN * np.float32("nan"), matrix=MATRIX), "no finite float32"),
        (archive(mean=MEAN, matrix=MATRIX.astype(np.float64)), "no finite float32"),
    ],
)
def test_a_file_that_is_no_map_is_refused_before_a_migration_starts(
    data: bytes, complaint: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "new", FIXED_FILTERS, random_map(DIM))
    assert all(finding.ok for finding in check_bundle(folder))
    (folder / ADAPTER_FILE).write_bytes(data)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"][ADAPTER_FILE] = hashlib.sha256(data).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ModelBundleError, match=complaint):
        load_map(folder, load_spec(folder))
    [found] = [finding for finding in check_bundle(folder) if not finding.ok]
    assert (found.subject, complaint in found.found) == ("adapter", True)


def test_the_same_map_makes_the_same_bundle(tmp_path: Path) -> None:
    mapped = random_map(load_spec(FIXED_FILTERS).embedding.dim)
    one, other = (write(tmp_path / name, FIXED_FILTERS, mapped) for name in ("one", "other"))
    assert load_spec(one) == load_spec(other)
