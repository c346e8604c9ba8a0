"""model.json: validation and its messages; what the fingerprint depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from console.bundles import bundle_folder
from console.bundles.bundle_reader import load_bundle
from console.bundles.presets import PRESETS
from console.bundles.registry import PresetName
from likeness.errors import ConfigurationError, ModelBundleError
from likeness.features import ImageFeatures
from likeness.model import (
    NEWEST_PREPROCESSING,
    PREPROCESSING,
    Input,
    ModelSpec,
    Output,
    Resize,
)
from likeness.query_tokens import decode_query_token, encode_query_token
from likeness.records import Box
from tests.service import BUNDLED, FIXED_FILTERS

Manifest = dict[str, Any]
Change = Callable[[Manifest], object]
WEIGHTS = b"these bytes stand for a network"


def load_spec(folder: Path) -> ModelSpec:
    spec, files = load_bundle(folder)
    assert files == {name: (folder / name).read_bytes() for name in spec.files}
    return spec


def manifest(weights: bytes = WEIGHTS) -> Manifest:
    """A valid model.json with every field in it."""
    return {
        "name": "a model",
        "version": "1",
        "licence": "MIT",
        "source": "https://example.org/model",
        "files": {"image.onnx": hashlib.sha256(weights).hexdigest()},
        "image_file": "image.onnx",
        "input": {
            "name": "image",
            "height": 224,
            "width": 224,
            "layout": "NCHW",
            "dtype": "float32",
            "channels": "RGB",
        },
        "resize": {"rule": "crop", "filter": "bicubic", "short_side": 256, "fill": 114},
        "normalise": {"scale": 0.5, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
        "embedding": {
            "name": "embedding",
            "dim": 512,
            "pooling": "mean",
            "skip_tokens": 1,
            "gem_p": 3.0,
        },
        "patches": {"name": "patches", "side": 7, "dim": 64, "salience": "weight"},
        "local": {"name": "local", "side": 14, "dim": 48, "salience": "salience"},
        "preprocessing": 1,
    }


def write(folder: Path, content: Manifest | bytes, weights: bytes = WEIGHTS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "image.onnx").write_bytes(weights)
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "model.json").write_bytes(text)
    return folder


def put(path: str, value: Any) -> Change:
    """A change that sets a field, named as in "input.height"."""

    def change(manifest: Manifest) -> None:
        *above, field = path.split(".")
        for name in above:
            manifest = manifest[name]
        manifest[field] = value

    return change


def drop(path: str) -> Change:
    def change(manifest: Manifest) -> None:
        *above, field = path.split(".")
        for name in above:
            manifest = manifest[name]
        del manifest[field]

    return change


def with_text_encoder(content: Manifest) -> None:
    content["text"] = {"length": 77, "file": "image.onnx", "tokenizer": "image.onnx"}


def changed(change: Change) -> Manifest:
    content = manifest()
    change(content)
    return content


def refusal(folder: Path) -> str:
    with pytest.raises(ModelBundleError) as refused:
        load_spec(folder)
    return str(refused.value)


# What is read


def test_a_full_manifest_is_read_completely(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, manifest()))
    assert (spec.name, spec.version, spec.licence) == ("a model", "1", "MIT")
    assert (spec.input.height, spec.input.layout, spec.input.dtype) == (224, "NCHW", "float32")
    assert (spec.resize.rule, spec.resize.short_side) == ("crop", 256)
    assert spec.normalise.std == (0.4, 0.5, 0.6)
    assert (spec.embedding.dim, spec.embedding.pooling) == (512, "mean")


def test_fields_with_a_default_can_be_omitted(tmp_path: Path) -> None:
    content = manifest() | {
        "input": {"name": "image", "height": 224, "width": 224},
        "resize": {"rule": "squash"},
        "normalise": {},
        "embedding": {"name": "embedding", "dim": 512},
    }
    del content["image_file"]
    spec = load_spec(write(tmp_path, content))
    assert (spec.input.layout, spec.input.channels, spec.resize.filter) == (
        "NCHW",
        "RGB",
        "bicubic",
    )
    assert (spec.normalise.scale, spec.embedding.pooling) == (1 / 255, "none")


def test_a_model_needs_neither_local_descriptors_nor_a_text_encoder(tmp_path: Path) -> None:
    content = manifest()
    del content["patches"], content["local"]
    spec = load_spec(write(tmp_path, content))
    assert (spec.patches, spec.local, spec.text) == (None, None, None)


def test_the_files_of_a_text_encoder_must_be_listed(tmp_path: Path) -> None:
    assert "files does not list text.onnx, tokenizer.json" in refusal(
        write(tmp_path, manifest() | {"text": {"length": 77}})
    )


@pytest.mark.parametrize("field", ["patches.side", "local.dim"])
def test_a_map_of_size_zero_is_refused(field: str, tmp_path: Path) -> None:
    assert field in refusal(write(tmp_path, changed(put(field, 0)))).replace("$.", "")


def test_the_bundled_model_is_valid() -> None:
    assert len(load_spec(BUNDLED).fingerprint) == 16


def test_a_bundle_error_is_a_configuration_error_of_ours() -> None:
    assert issubclass(ModelBundleError, ConfigurationError)
    assert ModelBundleError.slug == "bad-model-bundle"


# What is refused


@pytest.mark.parametrize(
    "field",
    [
        "name",
        "version",
        "licence",
        "source",
        "files",
        "input",
        "resize",
        "normalise",
        "embedding",
        "input.name",
        "input.height",
        "input.width",
        "resize.rule",
        "embedding.name",
        "embedding.dim",
    ],
)
def test_a_missing_field_is_named(field: str, tmp_path: Path) -> None:
    message = refusal(write(tmp_path, changed(drop(field))))
    assert message.startswith("model.json: ")
    assert f"`{field.rpartition('.')[2]}`" in message


@pytest.mark.parametrize("place", ["", "input.", "resize.", "normalise.", "embedding."])
def test_an_unknown_field_is_named(place: str, tmp_path: Path) -> None:
    message = refusal(write(tmp_path, changed(put(f"{place}colour_space", "sRGB"))))
    assert message.startswith("model.json: ")
    assert "unknown field `colour_space`" in message
    assert f"$.{place}".rstrip(".") in message + "$"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 7),
        ("files", ["image.onnx"]),
        ("files", {"image.onnx": None}),
        ("input", "image"),
        ("input.height", "224"),
        ("input.height", 224.5),
        ("input.layout", "CHWN"),
        ("input.dtype", "float16"),
        ("input.channels", "YUV"),
        ("resize.rule", "stretch"),
        ("resize.filter", "nearest"),
        ("resize.short_side", "256"),
        ("resize.fill", -1),
        ("resize.fill", 256),
        ("normalise.scale", "1/255"),
        ("normalise.mean", [0.5]),
        ("normalise.mean", 0.5),
        ("normalise.std", [0.5, 0.5, 0.5, 0.5]),
        ("normalise.std", [0.5, None, 0.5]),
        ("embedding.dim", None),
        ("embedding.pooling", "max"),
        ("embedding.skip_tokens", -1),
        ("embedding.gem_p", 0),
        ("embedding.gem_p", -3.0),
    ],
)
def test_the_error_for_a_wrong_value_names_its_path(field: str, value: Any, tmp_path: Path) -> None:
    message = refusal(write(tmp_path, changed(put(field, value))))
    assert message.startswith("model.json: ")
    assert f"`$.{field}" in message


@pytest.mark.parametrize("version", [0, -1, NEWEST_PREPROCESSING + 1])
def test_an_unknown_preprocessing_is_refused_by_name(version: int, tmp_path: Path) -> None:
    message = refusal(write(tmp_path, changed(put("preprocessing", version))))
    assert message.startswith(f"model.json: preprocessing {version} is unknown")
    assert f"knows {PREPROCESSING[0]} and" in message


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("field", ["input.height", "input.width", "embedding.dim"])
def test_a_size_must_be_above_zero(field: str, value: int, tmp_path: Path) -> None:
    message = refusal(write(tmp_path, changed(put(field, value))))
    assert field.rpartition(".")[2] in message
    assert "above zero" in message


def test_a_standard_deviation_of_zero_is_refused(tmp_path: Path) -> None:
    content = changed(put("normalise.std", [0.5, 0, 0.5]))
    assert "normalise.std" in refusal(write(tmp_path, content))


def test_a_short_side_that_is_shorter_than_the_input_is_refused(tmp_path: Path) -> None:
    content = changed(put("resize.short_side", 223))
    assert "resize.short_side" in refusal(write(tmp_path, content))


def test_the_short_side_must_cover_the_longer_side_of_the_input(tmp_path: Path) -> None:
    content = changed(put("resize.short_side", 200))
    content["input"]["height"] = 128
    assert "resize.short_side" in refusal(write(tmp_path, content))


def test_a_short_side_of_the_input_itself_is_clips_rule(tmp_path: Path) -> None:
    content = changed(put("resize.short_side", 224))
    assert load_spec(write(tmp_path, content)).resize.short_side == 224


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b'{"name": "\xff"}',
        b'{"name": NaN}',
        b"[" * 9999,
    ],
)
def test_a_manifest_that_is_not_a_json_object_is_refused(content: bytes, tmp_path: Path) -> None:
    assert refusal(write(tmp_path, content)).startswith("model.json: ")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (put("local.side", 17), "local.side is above 16"),
        (put("local.dim", 47), "local.dim is odd"),
        (put("local.dim", 236), "(1 + local.dim / 2); maximum is 23,576"),
    ],
)
def test_a_map_that_cannot_be_packed_is_refused(change: Change, why: str, tmp_path: Path) -> None:
    assert why in refusal(write(tmp_path, changed(change)))


def test_two_views_of_the_largest_map_come_back_from_a_query_id(tmp_path: Path) -> None:
    content = changed(put("embedding.dim", 140))
    content["local"] |= {"side": 16, "dim": 180}
    spec = load_spec(write(tmp_path, content))
    view = ImageFeatures(
        np.ones(140, np.float32),
        np.ones((256, 180), np.float32),
        colours=bytes(768),
        sha256="f" * 64,
        box=Box(0.1, 0.2, 0.7, 0.9),
        seen=Box(0.1, 0.2, 0.7, 0.9),
    )
    assert len(decode_query_token(encode_query_token([view, view], spec.fingerprint), spec)) == 2
    content["embedding"]["dim"] += 1
    assert "23,578 bytes" in refusal(write(tmp_path, content))


# Files


def test_a_folder_without_a_manifest_is_refused_by_its_name(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    assert str(tmp_path / "model.json") in message
    assert "No such file" in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, manifest())
    (tmp_path / "image.onnx").unlink()
    assert str(tmp_path / "image.onnx") in refusal(tmp_path)


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, manifest())
    (tmp_path / "image.onnx").unlink()
    (tmp_path / "image.onnx").mkdir()
    assert str(tmp_path / "image.onnx") in refusal(tmp_path)


@pytest.mark.parametrize("place", range(len(WEIGHTS)))
def test_the_error_for_a_flipped_bit_names_the_file(place: int, tmp_path: Path) -> None:
    write(tmp_path, manifest())
    flipped = bytes(byte ^ (i == place) for i, byte in enumerate(WEIGHTS))
    (tmp_path / "image.onnx").write_bytes(flipped)
    message = refusal(tmp_path)
    assert str(tmp_path / "image.onnx") in message
    assert hashlib.sha256(flipped).hexdigest()[:12] in message
    assert hashlib.sha256(WEIGHTS).hexdigest()[:12] in message


@pytest.mark.parametrize("place", [0, 31, 63])
def test_every_digit_of_the_hash_counts(place: int, tmp_path: Path) -> None:
    sha256 = manifest()["files"]["image.onnx"]
    other = "0" if sha256[place] != "0" else "1"
    wrong = sha256[:place] + other + sha256[place + 1 :]
    content = changed(put("files", {"image.onnx": wrong}))
    assert "image.onnx is damaged" in refusal(write(tmp_path, content))


@pytest.mark.parametrize("weights", [b"", WEIGHTS[:-1], WEIGHTS + b"\x00"])
def test_a_shorter_or_longer_network_is_refused(weights: bytes, tmp_path: Path) -> None:
    message = refusal(write(tmp_path, manifest(), weights))
    assert "image.onnx is damaged or was replaced" in message


def test_one_flipped_byte_in_the_bundled_network_is_refused(tmp_path: Path) -> None:
    weights = bytearray((BUNDLED / "image.onnx").read_bytes())
    weights[len(weights) // 2] ^= 0x80
    write(tmp_path, (BUNDLED / "model.json").read_bytes(), bytes(weights))
    assert str(tmp_path / "image.onnx") in refusal(tmp_path)


def test_every_file_that_is_listed_is_checked(tmp_path: Path) -> None:
    content = changed(put("files", manifest()["files"] | {"tokenizer.json": "0" * 64}))
    write(tmp_path, content)
    assert "cannot read" in refusal(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "tokenizer.json is damaged" in refusal(tmp_path)


def test_the_network_must_be_among_the_files(tmp_path: Path) -> None:
    content = changed(put("image_file", "vision.onnx"))
    assert "files does not list vision.onnx" in refusal(write(tmp_path, content))


def test_the_network_may_have_another_name(tmp_path: Path) -> None:
    content = changed(put("image_file", "vision.onnx"))
    content["files"] = {"vision.onnx": hashlib.sha256(WEIGHTS).hexdigest()}
    write(tmp_path, content)
    (tmp_path / "image.onnx").rename(tmp_path / "vision.onnx")
    assert load_spec(tmp_path).image_file == "vision.onnx"


OUTSIDE = [
    "../secret",
    "a/../../secret",
    "./secret",
    "sub/secret",
    "/secret",
    "..",
    ".",
    "",
    "a\0b",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_file_outside_the_bundle_is_refused(name: str, tmp_path: Path) -> None:
    """Even one that is there and has the right hash."""
    (tmp_path / "secret").write_bytes(WEIGHTS)
    content = changed(put("files", manifest()["files"] | {name: manifest()["files"]["image.onnx"]}))
    assert refusal(write(tmp_path / "bundle", content))


@pytest.mark.parametrize("name", ["../secret", "/secret"])
def test_a_network_outside_the_bundle_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(WEIGHTS)
    content = changed(put("image_file", name))
    content["files"] = {name: manifest()["files"]["image.onnx"]}
    message = refusal(write(tmp_path / "bundle", content))
    assert message == f"model.json: {name!r} is not a plain file name"


# The fingerprint


def fingerprint(folder: Path, change: Change = lambda _: None) -> str:
    return load_spec(write(folder, changed(change))).fingerprint


def test_a_fingerprint_is_16_hex_digits_and_the_same_every_time(tmp_path: Path) -> None:
    first = fingerprint(tmp_path)
    assert len(first) == 16
    assert int(first, 16)
    assert fingerprint(tmp_path) == first


# Written down before bundles named their preprocessing: collections and stored vectors have them.
FINGERPRINTS = {
    "likeness-small 1": (FIXED_FILTERS.with_name("likeness-small-1"), "76dc42d9ddcbecb1"),
    "fixed-filters": (FIXED_FILTERS, "ad412c8ec059d2e5"),
}
PRESET_FINGERPRINTS = {
    "clip": "5d095d723b608808",
    "siglip": "571ec85252db24a0",
    "dinov2": "6846c0662d768651",
    "imagenet": "ae5e8c54f4ab2c47",
}


@pytest.mark.parametrize(("folder", "known"), FINGERPRINTS.values(), ids=FINGERPRINTS)
def test_a_bundle_of_earlier_versions_keeps_its_fingerprint(folder: Path, known: str) -> None:
    content = (folder / "model.json").read_bytes()
    assert "preprocessing" not in json.loads(content)
    assert msgspec.json.decode(content, type=ModelSpec).fingerprint == known


@pytest.mark.parametrize("preset", PRESETS)
def test_the_settings_of_known_bundles_keep_their_fingerprints(preset: PresetName) -> None:
    family = PRESETS[preset]
    short_side = None if family.rule == "squash" else round(family.size * family.margin)
    spec = ModelSpec(
        name=preset,
        version="1",
        licence="none",
        source="here",
        files={"image.onnx": "0" * 64},
        input=Input("pixel_values", family.size, family.size),
        resize=Resize(family.rule, family.filter, short_side),
        normalise=family.normalise,
        embedding=Output("embeds", 512),
    )
    assert spec.fingerprint == PRESET_FINGERPRINTS[preset]


def test_without_the_field_the_preprocessing_is_version_1(tmp_path: Path) -> None:
    absent = load_spec(write(tmp_path, changed(drop("preprocessing"))))
    assert (absent.preprocessing, absent.fingerprint) == (1, fingerprint(tmp_path))


def test_fields_that_a_bundle_does_without_are_absent_when_it_is_written(tmp_path: Path) -> None:
    """Earlier versions refuse fields that they do not know, even null."""
    content = json.loads((BUNDLED / "model.json").read_bytes())
    spec, files = load_bundle(BUNDLED)
    bundle_folder.write(tmp_path / "copy", spec, files, lambda folder: None)
    written = json.loads((tmp_path / "copy" / "model.json").read_bytes())
    assert written.keys() == content.keys()
    assert load_spec(tmp_path / "copy") == spec


def test_the_order_of_the_fields_does_not_change_the_fingerprint(tmp_path: Path) -> None:
    def reverse(content: Manifest) -> None:
        for key in list(content)[::-1]:
            value = content.pop(key)
            content[key] = dict(reversed(value.items())) if isinstance(value, dict) else value

    assert fingerprint(tmp_path, reverse) == fingerprint(tmp_path)


def test_a_default_that_is_written_out_does_not_change_the_fingerprint(tmp_path: Path) -> None:
    assert fingerprint(tmp_path, drop("input.layout")) == fingerprint(tmp_path)


@pytest.mark.parametrize("field", ["name", "version", "licence", "source"])
def test_name_and_version_do_not_change_the_fingerprint(field: str, tmp_path: Path) -> None:
    assert fingerprint(tmp_path, put(field, "another")) == fingerprint(tmp_path)


def test_other_files_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(WEIGHTS)
    with_notes = manifest()["files"] | {"notes.txt": manifest()["files"]["image.onnx"]}
    assert fingerprint(tmp_path, put("files", with_notes)) == fingerprint(tmp_path)


def test_a_text_encoder_does_not_change_the_fingerprint(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "with", with_text_encoder) == fingerprint(tmp_path / "without")


def test_the_map_of_an_adapted_bundle_is_in_its_network(tmp_path: Path) -> None:
    """So the fingerprint follows from the network's file; the map's own file must be listed."""
    adapter = put("adapter", {"base": "0" * 16, "file": "image.onnx"})
    assert fingerprint(tmp_path, adapter) == fingerprint(tmp_path)
    missing = manifest() | {"adapter": {"base": "0" * 16, "file": "adapter.npz"}}
    write(tmp_path, missing)
    with pytest.raises(ModelBundleError, match=r"files does not list adapter\.npz"):
        load_spec(tmp_path)


def test_other_weights_have_another_fingerprint(tmp_path: Path) -> None:
    other = load_spec(write(tmp_path / "other", manifest(b"other"), b"other"))
    assert other.fingerprint != fingerprint(tmp_path)


DECISIVE = {
    "input.name": "pixels",
    "input.height": 192,
    "input.width": 192,
    "input.layout": "NHWC",
    "input.dtype": "uint8",
    "input.channels": "BGR",
    "resize.rule": "squash",
    "resize.filter": "bilinear",
    "resize.short_side": 257,
    "resize.fill": 0,
    "normalise.scale": 0.25,
    "normalise.mean": [0.1, 0.2, 0.31],
    "normalise.std": [0.4, 0.6, 0.5],
    "embedding.name": "pooled",
    "embedding.dim": 384,
    "embedding.pooling": "cls",
    "embedding.skip_tokens": 0,
    "embedding.gem_p": 4.0,
    **{f"{map}.name": f"another {map}" for map in ("patches", "local")},
    **{f"{map}.side": 16 for map in ("patches", "local")},
    **{f"{map}.dim": 32 for map in ("patches", "local")},
    **{f"{map}.salience": None for map in ("patches", "local")},
    "preprocessing": 2,
}


@pytest.mark.parametrize("field", DECISIVE)
def test_each_field_that_decides_the_vectors_changes_the_fingerprint(
    field: str, tmp_path: Path
) -> None:
    assert fingerprint(tmp_path, put(field, DECISIVE[field])) != fingerprint(tmp_path)


def test_no_two_of_those_changes_have_the_same_fingerprint(tmp_path: Path) -> None:
    prints = {fingerprint(tmp_path, put(*change)) for change in DECISIVE.items()}
    assert len(prints) == len(DECISIVE)


def test_every_field_of_the_spec_is_known_to_these_tests() -> None:
    """A new field must be added to one of the two lists above, whichever it belongs to."""
    known = {"files", "image_file", "name", "version", "licence", "source", "text", "adapter"}
    assert set(ModelSpec.__struct_fields__) == known | {f.split(".")[0] for f in DECISIVE}
    for part in ("input", "resize", "normalise", "embedding", "patches", "local"):
        fields = {f.split(".")[1] for f in DECISIVE if f.startswith(f"{part}.")}
        assert fields == set(manifest()[part])
