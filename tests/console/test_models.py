"""`likeness model` as a user runs it; a server on loopback stands for the hub."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from console.bundles.bundle_reader import load_bundle
from likeness.model import NEWEST_PREPROCESSING, ModelSpec
from tests import lambda_runtime
from tests.fault_server import Answer, FaultServer, Request, closed_port, serve
from tests.networks import (
    FLOAT,
    INT32,
    UINT8,
    Network,
    clip,
    dinov2,
    mobilenet,
    resnet,
    siglip,
    text_encoder,
    tokenizer,
    transformer,
)

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "models"
LIKENESS = (sys.executable, "-c", "from console.app import main; main()")
MIB = 1024 * 1024
DINOV2 = "onnx-community/dinov2-small/resolve/main/onnx/model_int8.onnx"
CLIP = "immich-app/ViT-B-32__laion2b-s34b-b79k/resolve/6e4b2ebb0ec5f1726a919aec359fad92cd3ec021"
Files = Mapping[str, bytes]
Script = Callable[[Request], Answer]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "COLUMNS": "250", "NO_COLOR": "1", **more}


def model(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LIKENESS, "model", *arguments],
        env=environment(**env),
        capture_output=True,
        text=True,
        check=False,
    )


def done(said: subprocess.CompletedProcess[str]) -> str:
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def refused(said: subprocess.CompletedProcess[str]) -> str:
    assert said.returncode in (1, 2), said.stdout
    assert "Traceback" not in said.stderr
    return said.stderr


def spec_of(folder: Path) -> ModelSpec:
    return load_bundle(folder)[0]


# Help and list


def test_without_arguments_it_teaches() -> None:
    said = model()
    assert said.returncode in (0, 2)
    for command in ("list", "pull", "import", "check", "package"):
        assert f"likeness model {command}" in said.stdout or f"{command} FILE" in said.stdout
        assert "Usage" in model(command, "--help").stdout


def test_the_list_shows_licence_size_dimensions_and_purpose(tmp_path: Path) -> None:
    said = done(model("list", "--models", tmp_path))
    [line] = [line for line in said.splitlines() if "dinov2-small" in line]
    for word in ("Apache-2.0", "24.4 MB", "384", "landmarks"):
        assert word in line
    bundled = json.loads((ROOT / "layers" / "model" / "model.json").read_text())
    assert bundled["name"] in said
    assert "not measured here" in said.replace("\n", " ")
    assert "research only" in said.replace("\n", " ")


# Pull


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def part_of(data: bytes, request: Request) -> Answer:
    """How a file server answers, with and without a Range header."""
    asked = request.headers.get("range")
    if asked is None:
        return Answer(200, data)
    return Answer(206, data[int(asked.removeprefix("bytes=").rstrip("-")) :])


def hub(files: Files, served: Files | None = None, **headers: str) -> Script:
    """The hub with large files: it publishes their hashes and redirects to their bytes.

    `served` replaces the bytes that are sent, if they differ from those that were hashed.
    """

    def answer(request: Request) -> Answer:
        path = request.path.removeprefix("/")
        if path.startswith("cdn/"):
            return part_of({**files, **(served or {})}[path.removeprefix("cdn/")], request)
        if path not in files:
            return Answer(404, b"Entry not found")
        linked = {"x-linked-etag": f'"{sha256(files[path])}"', "location": f"/cdn/{path}"}
        return Answer(302, headers=linked | {"x-linked-size": str(len(files[path]))} | headers)

    return answer


def small_files(files: Files) -> Script:
    """The hub with small files: no hash is published, and it redirects to itself first."""

    def answer(request: Request) -> Answer:
        path = request.path.removeprefix("/api/").removeprefix("/")
        if not request.path.startswith("/api/"):
            return Answer(307, headers={"location": f"/api/{path}", "x-linked-etag": '"0a1b2c"'})
        return part_of(files[path], request)

    return answer


def pull(server: FaultServer | str, models: Path, name: str = "dinov2-small", *more: str) -> Any:
    url = server if isinstance(server, str) else server.url
    return model("pull", name, *more, "--models", models, HF_ENDPOINT=url)


def left(models: Path) -> list[str]:
    """Every file in the folder of models, complete or partial."""
    return sorted(str(path.relative_to(models)) for path in models.rglob("*") if path.is_file())


NETWORK = dinov2().SerializeToString()
BUNDLE = ["dinov2-small/image.onnx", "dinov2-small/model.json", "lock.json"]


def test_pulled_bundle_is_built_checked_and_found_by_name(tmp_path: Path) -> None:
    with serve(hub({DINOV2: NETWORK})) as server:
        said = done(pull(server, tmp_path))
    assert "likeness model check" in said
    assert left(tmp_path) == BUNDLE
    spec = spec_of(tmp_path / "dinov2-small")
    assert (spec.licence, spec.embedding.dim, spec.embedding.pooling) == ("Apache-2.0", 384, "cls")
    assert "onnx-community/dinov2-small" in spec.source
    assert "36 edited copies" in done(model("check", "dinov2-small", "--models", tmp_path))
    assert "dinov2-small" in done(model("list", "--models", tmp_path))


def test_existing_bundle_is_not_downloaded_again(tmp_path: Path) -> None:
    with serve(hub({DINOV2: NETWORK})) as server:
        done(pull(server, tmp_path))
        asked = len(server.requests)
        assert "nothing to download" in done(pull(server, tmp_path))
        assert len(server.requests) == asked


def test_damaged_bundle_is_downloaded_again(tmp_path: Path) -> None:
    with serve(hub({DINOV2: NETWORK})) as server:
        done(pull(server, tmp_path))
        (tmp_path / "dinov2-small" / "image.onnx").write_bytes(b"damaged")
        done(pull(server, tmp_path))
    assert left(tmp_path) == BUNDLE
    done(model("check", tmp_path / "dinov2-small"))


def test_download_resumes_after_a_lost_connection(tmp_path: Path) -> None:
    whole, cut = hub({DINOV2: NETWORK}), len(NETWORK) // 2
    turns: list[str] = []

    def answer(request: Request) -> Answer:
        if request.path.startswith("/cdn/"):
            turns.append(request.headers.get("range", ""))
            if len(turns) == 1:
                return Answer(200, NETWORK, sent=cut, close=True)
        return whole(request)

    with serve(answer) as server:
        done(pull(server, tmp_path))
    first, second = turns
    assert first == ""
    assert 0 < int(second.removeprefix("bytes=").rstrip("-")) <= cut


def test_download_resumes_after_the_process_was_killed(tmp_path: Path) -> None:
    whole, cut = hub({DINOV2: NETWORK}), len(NETWORK) // 2
    ranges: list[str] = []

    def answer(request: Request) -> Answer:
        if request.path.startswith("/cdn/"):
            ranges.append(request.headers.get("range", ""))
            if len(ranges) == 1:  # half of the body, then silence on an open connection
                return Answer(200, NETWORK, sent=cut)
        return whole(request)

    part = tmp_path / ".dinov2-small" / "image.onnx.part"
    with serve(answer) as server:
        killed = subprocess.Popen(
            [*LIKENESS, "model", "pull", "dinov2-small", "--models", tmp_path],
            env=environment(HF_ENDPOINT=server.url),
            stdout=subprocess.DEVNULL,
        )
        deadline_s = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size > 0):
            assert killed.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        kept = part.stat().st_size
        done(pull(server, tmp_path))
    assert ranges == ["", f"bytes={kept}-"]
    assert left(tmp_path) == BUNDLE


def test_download_restarts_if_the_server_ignores_ranges(tmp_path: Path) -> None:
    whole = hub({DINOV2: NETWORK})

    def answer(request: Request) -> Answer:
        return Answer(200, NETWORK) if request.path.startswith("/cdn/") else whole(request)

    part = tmp_path / ".dinov2-small" / "image.onnx.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 1000)
    with serve(answer) as server:
        done(pull(server, tmp_path))


@pytest.mark.parametrize("surplus", [0, 1])
def test_complete_partial_file_is_still_verified(tmp_path: Path, surplus: int) -> None:
    part = tmp_path / ".dinov2-small" / "image.onnx.part"
    part.parent.mkdir()
    part.write_bytes(NETWORK + b"x" * surplus)
    with serve(hub({DINOV2: NETWORK})) as server:
        done(pull(server, tmp_path))
        assert len(server.requests) == 1 + surplus


def test_transient_faults_are_retried(tmp_path: Path) -> None:
    whole, faults = hub({DINOV2: NETWORK}), [Answer(503), Answer(raw=b"")]
    with serve(lambda request: faults.pop() if faults else whole(request)) as server:
        done(pull(server, tmp_path))


WRONG = NETWORK[:-1] + b"x"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (hub({DINOV2: NETWORK}, {DINOV2: WRONG}), "arrived damaged"),
        (hub({DINOV2: NETWORK}, {DINOV2: NETWORK + b"x"}), "the hub says"),
        (hub({DINOV2: NETWORK}, **{"x-linked-size": "1000000000000000"}), "not enough disk space"),
        (hub({}), "it was moved or deleted"),
        (lambda request: Answer(401), "set HF_TOKEN"),
        (lambda request: Answer(403), "set HF_TOKEN"),
        (lambda request: Answer(418), "the hub answered 418"),
        (lambda request: Answer(302, headers={"location": request.path}), "in circles"),
        (hub({DINOV2: b"no network"}), "cannot load image.onnx"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_failed_download_is_explained_and_leaves_no_bundle(
    tmp_path: Path, script: Script, said: str
) -> None:
    with serve(script) as server:
        assert said in refused(pull(server, tmp_path)).replace("\n", " ")
    assert not (tmp_path / "dinov2-small").exists()
    assert not list(tmp_path.rglob("*.part"))


def test_offline_error_names_the_alternatives(tmp_path: Path) -> None:
    said = refused(pull(closed_port(), tmp_path))
    assert "offline" in said and "likeness model import" in said
    assert "must start with http" in refused(pull("nowhere", tmp_path))


def test_file_without_published_hash_is_pinned_by_its_first_download(tmp_path: Path) -> None:
    with serve(small_files({DINOV2: NETWORK})) as server:
        done(pull(server, tmp_path))
    [locked] = json.loads((tmp_path / "lock.json").read_text()).values()
    assert locked == {"sha256": sha256(NETWORK), "size": len(NETWORK)}
    (tmp_path / "dinov2-small" / "image.onnx").unlink()
    with serve(small_files({DINOV2: WRONG})) as server:
        said = refused(pull(server, tmp_path))
    assert "has changed since its first download" in said and "lock.json" in said


def test_token_is_sent_to_the_hub_and_to_no_other_host(tmp_path: Path) -> None:
    with serve(lambda request: part_of(NETWORK, request)) as store:
        with serve(hub({DINOV2: NETWORK}, location=f"{store.url}/signed")) as server:
            done(
                model(
                    "pull",
                    "dinov2-small",
                    "--models",
                    tmp_path,
                    HF_TOKEN="secret",
                    HF_ENDPOINT=server.url,
                )
            )
            assert server.requests[0].headers["authorization"] == "Bearer secret"
        assert "authorization" not in store.requests[0].headers


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("mobileclip-s0", (), "not among the known bundles"),
        ("sscd-disc-mixup", (), "export that to ONNX"),
        ("dinov2-small", ("--text",), "has no text encoder"),
    ],
)
def test_unknown_bundle_is_refused_without_a_request(
    tmp_path: Path, name: str, more: tuple[str, ...], said: str
) -> None:
    assert said in refused(pull(closed_port(), tmp_path, name, *more)).replace("\n", " ")


def test_foreign_files_in_a_bundle_are_not_lost_when_text_is_added(tmp_path: Path) -> None:
    imported(tmp_path, clip(), "clip")
    folder = (tmp_path / "bundle").rename(tmp_path / "clip-vit-b32-laion2b")
    (folder / "calibration.json").write_text("{}")
    # nobody is asked
    said = refused(pull(closed_port(), tmp_path, "clip-vit-b32-laion2b", "--text"))
    assert "calibration.json in it would be lost" in said.replace("\n", " ")
    assert (folder / "calibration.json").read_text() == "{}"


def test_float_transformer_is_pulled_with_its_text_encoder_and_quantised(tmp_path: Path) -> None:
    image = transformer("image", "image_embedding", batch=1).SerializeToString()
    tower = text_encoder(kind=INT32, tokens="text", name="text_embedding", batch=1)
    files = {
        f"{CLIP}/visual/model.onnx": image,
        f"{CLIP}/textual/model.onnx": tower.SerializeToString(),
        f"{CLIP}/textual/tokenizer.json": tokenizer().to_str().encode(),
    }
    with serve(hub(files)) as server:
        said = done(pull(server, tmp_path, "clip-vit-b32-laion2b"))
        assert "vectors agree" in said
        folder = tmp_path / "clip-vit-b32-laion2b"
        assert (folder / "image.onnx").stat().st_size < len(image) / 2
        assert spec_of(folder).text is None
        done(pull(server, tmp_path, "clip-vit-b32-laion2b", "--text"))
    text = spec_of(folder).text
    assert text is not None
    assert (text.length, text.input, text.output, text.pad) == (77, "text", "text_embedding", 0)
    assert "captions" in done(model("check", folder))


# Import


def write(folder: Path, network: Any, name: str = "net.onnx") -> Path:
    path = folder / name
    path.write_bytes(network.SerializeToString())
    return path


def imported(folder: Path, network: Any, preset: str, *more: str | Path) -> ModelSpec:
    path = write(folder, network)
    done(model("import", path, "--preset", preset, "--out", folder / "bundle", *more))
    return spec_of(folder / "bundle")


def two_outputs(first: str, second: str) -> Any:
    """Tokens (N, 196, 768) and their mean, as SigLIP gives them."""
    network = Network(["N", 3, 224, 224], name="pixel_values").patches(768, 16).tokens(768, 196)
    network.giving(first, ["N", 196, 768])
    return network.then("ReduceMean", axes=[1], keepdims=0).model(["N", 768], second)


def with_free_axes() -> Any:
    """As optimum exports: not even the channels are fixed."""
    network = Network(["batch", "channels", "height", "width"], name="pixel_values")
    return network.patches(64, 16).then("Relu").model(["batch", "dim", "h", "w"])


def test_clip_is_recognised(tmp_path: Path) -> None:
    spec = imported(tmp_path, clip(), "clip", "--licence", "MIT", "--source", "a friend")
    assert (spec.name, spec.licence, spec.source) == ("net", "MIT", "a friend")
    assert (spec.input.layout, spec.input.height, spec.embedding.dim) == ("NCHW", 224, 512)
    assert (spec.resize.rule, spec.resize.short_side) == ("crop", 224)
    assert spec.normalise.mean[0] == 0.48145466
    assert spec.preprocessing == NEWEST_PREPROCESSING


def test_of_two_outputs_siglip_gives_the_pooled_one(tmp_path: Path) -> None:
    spec = imported(tmp_path, two_outputs("last_hidden_state", "pooler_output"), "siglip")
    embedding = spec.embedding
    assert (embedding.name, embedding.dim, embedding.pooling) == ("pooler_output", 768, "none")
    assert (spec.resize.rule, spec.resize.short_side) == ("squash", None)
    assert spec.normalise.std == (0.5, 0.5, 0.5)


def test_siglip_with_one_output_is_recognised(tmp_path: Path) -> None:
    assert imported(tmp_path, siglip(), "siglip").embedding.dim == 768


@pytest.mark.parametrize(
    ("more", "pooling", "skipped"),
    [((), "cls", 0), (("--pooling", "mean"), "mean", 1), (("--pooling", "cls"), "cls", 0)],
)
def test_dinov2_is_pooled_from_its_tokens(
    tmp_path: Path, more: tuple[str, ...], pooling: str, skipped: int
) -> None:
    spec = imported(tmp_path, dinov2(), "dinov2", *more)
    embedding = spec.embedding
    assert (embedding.pooling, embedding.skip_tokens, embedding.dim) == (pooling, skipped, 384)
    assert spec.resize.short_side == 256


def test_tokens_without_a_class_token_are_averaged(tmp_path: Path) -> None:
    spec = imported(
        tmp_path,
        two_outputs("last_hidden_state", "other"),
        "siglip",
        "--output",
        "last_hidden_state",
    )
    assert (spec.embedding.pooling, spec.embedding.skip_tokens) == ("mean", 0)


def test_a_quantised_network_takes_bytes_in_rows(tmp_path: Path) -> None:
    spec = imported(tmp_path, mobilenet(), "imagenet")
    entry = spec.input
    assert (entry.layout, entry.dtype, entry.height, entry.width) == ("NHWC", "uint8", 64, 64)
    assert spec.normalise.mean == (0, 0, 0)
    assert spec.embedding.dim == 40


@pytest.mark.parametrize(("more", "side"), [((), 224), (("--size", "96"), 96)])
@pytest.mark.parametrize("network", [resnet(), with_free_axes()], ids=["size", "all"])
def test_what_the_network_leaves_open_the_preset_or_the_user_says(
    tmp_path: Path, network: Any, more: tuple[str, ...], side: int
) -> None:
    spec = imported(tmp_path, network, "imagenet", *more, "--pooling", "gem")
    assert (spec.input.height, spec.input.width) == (side, side)
    assert (spec.embedding.dim, spec.embedding.pooling) == (64, "gem")


@pytest.mark.parametrize("mask", [False, True])
def test_a_text_encoder_is_imported(tmp_path: Path, mask: bool) -> None:
    tower = write(tmp_path, text_encoder(length="T", mask=mask), "text.onnx")
    words = tmp_path / "words.json"
    tokenizer().save(str(words))
    spec = imported(tmp_path, clip(), "clip", "--text", tower, "--tokenizer", words)
    assert spec.text is not None
    assert (spec.text.length, spec.text.input) == (77, "input_ids")
    assert spec.text.mask == ("attention_mask" if mask else None)
    assert "captions" in done(model("check", tmp_path / "bundle"))


def test_clips_own_tokenizer_is_imported(tmp_path: Path) -> None:
    words = SHARED / "clip_tokenizer" / "tokenizer.json"
    if not words.is_file():
        pytest.skip("the tokenizer is not here: ../shared/models/clip_tokenizer/tokenizer.json")
    tower = write(tmp_path, text_encoder(dim=64, words=49408), "text.onnx")
    spec = imported(tmp_path, clip(dim=64), "clip", "--text", tower, "--tokenizer", words)
    assert spec.text is not None and spec.text.length == 77


REAL = {
    "mobilenetv2_fp32": ("float32", 1280),
    "mobilenetv2_int8": ("uint8", 1280),
    "mobilenetv1_int8": ("uint8", 1024),
    "squeezenet1.1_fp32": ("float32", 512),
}


@pytest.mark.parametrize("name", REAL)
def test_published_networks_are_imported_unchanged(tmp_path: Path, name: str) -> None:
    network = SHARED / f"{name}.onnx"
    if not network.is_file():
        pytest.skip(f"the network is not here: ../shared/models/{network.name}")
    done(model("import", network, "--preset", "imagenet", "--models", tmp_path))
    spec = spec_of(tmp_path / name)
    assert (spec.input.dtype, spec.embedding.dim) == REAL[name]
    assert "36 of 36 edited copies" in done(model("check", name, "--models", tmp_path))


def test_a_transformers_matrices_become_int8(tmp_path: Path) -> None:
    spec = imported(tmp_path, transformer(), "clip", "--int8")
    small = (tmp_path / "bundle" / spec.image_file).stat().st_size
    assert small < (tmp_path / "net.onnx").stat().st_size / 2
    again = model(
        "import",
        tmp_path / "bundle" / "image.onnx",
        "--preset",
        "clip",
        "--int8",
        "--out",
        tmp_path / "again",
    )
    assert "int8 already" in refused(again)


def one_vector() -> Any:
    """It gives every picture the same vector."""
    network = Network(["N", 3, 224, 224]).patches(512, 32).average()
    zero = network.constant(np.float32(0))
    return network.then("Mul", zero).then("Add", network.weights(1, 512)).model(["N", 512])


def dice() -> Any:
    network = Network(["N", 3, 224, 224]).patches(512, 32).average()
    plain = network.output
    return network.then("RandomNormalLike", scale=0.1).then("Add", plain).model(["N", 512])


def combined() -> Any:
    return Network(["N", 3, 224, 224]).patches(512, 32).average().model(["N", 512], extra=True)


def half_floats() -> Any:
    network = Network(["N", 3, 224, 224], kind=10).then("Cast", to=FLOAT)
    return network.patches(64, 32).average().model(["N", 64])


def grey() -> Any:
    return Network(["N", 1, 224, 224]).then("Flatten").model(["N", 50176])


def rows_first() -> Any:
    network = Network(["N", 224, 224, 3], UINT8).then("Cast", to=FLOAT)
    network.then("Transpose", perm=[0, 3, 1, 2]).patches(40, 32)
    return network.then("Transpose", perm=[0, 2, 3, 1]).model(["N", 7, 7, 40])


@pytest.mark.parametrize(
    ("network", "more", "said"),
    [
        (combined(), (), "takes image, text: export the image network alone"),
        (half_floats(), (), "tensor(float16): export it as float32"),
        (grey(), (), "which is not an RGB image"),
        (clip(batch=4), (), "the first one dynamic or 1"),
        (clip(), ("--size", "96"), "the network takes 224 x 224 only"),
        (clip(), ("--output", "nothing"), "no output nothing, but embedding (1, 512)"),
        (clip(), ("--pooling", "cls"), "there is nothing to pool"),
        (clip(), ("--int8",), "training/quantise.py"),
        (clip(), ("--name", "../up"), "letters, digits"),
        (clip(), ("--text", "README.md"), "go together"),
        (rows_first(), (), "a feature map must have its channels first"),
        (two_outputs("a", "b"), ("--output", "c"), "a (1, 196, 768)"),
        (one_vector(), (), "find their original"),
        (dice(), (), "two vectors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_network_that_cannot_be_a_bundle_is_refused_with_a_reason_and_leaves_nothing(
    tmp_path: Path, network: Any, more: tuple[str, ...], said: str
) -> None:
    path = write(tmp_path, network)
    models = tmp_path / "models"
    answer = model("import", path, "--preset", "clip", "--models", models, *more)
    assert said in refused(answer).replace("│", " ")
    assert not models.exists() or left(models) == []


def test_for_weights_in_a_second_file_the_error_says_how_to_merge_them(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(clip(), path, save_as_external_data=True, location="net.data", size_threshold=0)
    said = refused(model("import", path, "--preset", "clip", "--out", tmp_path / "bundle"))
    assert "merge both" in said


@pytest.mark.parametrize(
    ("preset", "tower", "said"),
    [
        ("dinov2", text_encoder(), "have no text encoder"),
        ("clip", text_encoder(dim=384), "512 dimensions"),
        ("clip", clip(), "not token ids"),
    ],
)
def test_a_text_encoder_that_does_not_fit_is_refused_with_a_reason(
    tmp_path: Path, preset: str, tower: Any, said: str
) -> None:
    text, words = write(tmp_path, tower, "text.onnx"), tmp_path / "words.json"
    tokenizer().save(str(words))
    answer = model(
        "import",
        write(tmp_path, clip()),
        "--preset",
        preset,
        "--text",
        text,
        "--tokenizer",
        words,
        "--out",
        tmp_path / "bundle",
    )
    assert said in refused(answer)


def test_a_bundle_is_replaced_by_force_only_and_anything_else_never(tmp_path: Path) -> None:
    imported(tmp_path, clip(), "clip")
    path, bundle = write(tmp_path, clip(dim=64), "other.onnx"), tmp_path / "bundle"
    command = ("import", path, "--preset", "clip", "--out", bundle)
    assert "--force" in refused(model(*command))
    assert spec_of(bundle).embedding.dim == 512
    done(model(*command, "--force"))
    assert spec_of(bundle).embedding.dim == 64
    (bundle / "diary.txt").write_text("mine")
    assert "diary.txt in it would be lost" in refused(model(*command, "--force"))
    assert (bundle / "diary.txt").read_text() == "mine"


# Check


def test_the_bundled_model_passes_its_check() -> None:
    said = done(model("check", ROOT / "layers" / "model"))
    for word in ("fingerprint", "dimensions", "determinism", "batch", "edited copies", "p50"):
        assert word in said


def test_a_bundle_that_is_damaged_or_not_there_fails_its_check(tmp_path: Path) -> None:
    imported(tmp_path, clip(), "clip")
    (tmp_path / "bundle" / "image.onnx").write_bytes(b"damaged")
    said = model("check", tmp_path / "bundle")
    assert said.returncode == 1
    assert "is damaged" in said.stdout
    assert "cannot read" in model("check", tmp_path / "nowhere").stdout


@pytest.mark.parametrize(("unit", "status"), [(True, 0), (False, 1)])
def test_local_descriptors_are_checked_where_there_are_any(
    tmp_path: Path, unit: bool, status: int
) -> None:
    network = Network(["N", 3, 224, 224]).patches(32, 32).tokens(32, 49)
    tokens = network.output
    if unit:
        network.then("LpNormalization", axis=2)
    network.giving("map", ["N", 49, 32])
    network.output = tokens
    vector = network.then("ReduceMean", axes=[1], keepdims=0).model(["N", 32])
    imported(tmp_path, vector, "clip", "--output", "embedding")
    manifest = tmp_path / "bundle" / "model.json"
    fields = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(fields | {"local": {"name": "map", "side": 7, "dim": 32}}))
    said = model("check", tmp_path / "bundle")
    assert said.returncode == status
    assert "7 × 7 descriptors of 32 dimensions" in said.stdout


# Package


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A model layer that holds another model."""
    folder = tmp_path / "layers" / "model"
    folder.mkdir(parents=True)
    (folder / "Makefile").write_text("build-ModelLayer:\n")
    (folder / "old.onnx").write_bytes(b"old")
    (folder / "model.json").write_text("{}")
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    imported(tmp_path, clip(dim=64), "clip")
    return tmp_path / "bundle"


def padded(bundle: Path, mib: int) -> Path:
    """The same bundle, with a further file of so many MiB."""
    (bundle / "weights.bin").write_bytes(bytes(mib * MIB))
    manifest = json.loads((bundle / "model.json").read_text())
    manifest["files"]["weights.bin"] = sha256(bytes(mib * MIB))
    (bundle / "model.json").write_text(json.dumps(manifest))
    return bundle


@contextmanager
def bucket(url: str) -> Iterator[tuple[Any, str]]:
    s3, name = lambda_runtime.client("s3", url), "models-of-tests"
    s3.create_bucket(Bucket=name)
    yield s3, name


def test_a_bundle_that_fits_replaces_the_layers_content(layer: Path, bundle: Path) -> None:
    said = done(model("package", bundle, "--layer", layer))
    assert left(layer) == ["Makefile", "golden.json", "image.onnx", "model.json"]
    assert (layer / "Makefile").read_text() == "build-ModelLayer:\n"
    assert spec_of(layer).fingerprint == spec_of(bundle).fingerprint
    assert left(layer.parent.parent / "layers") == [f"model/{name}" for name in left(layer)]
    assert "Next: make deploy" in said
    assert "of the 250 MB" in said


def test_for_a_bundle_above_the_builds_own_limit_the_output_says_how_to_build(
    layer: Path, bundle: Path
) -> None:
    said = done(model("package", padded(bundle, 60), "--layer", layer))
    assert "make deploy MAX_UNZIPPED_MB=250" in said


def test_a_bundle_that_does_not_fit_changes_nothing(layer: Path, bundle: Path) -> None:
    before = left(layer)
    said = refused(model("package", padded(bundle, 104), "--layer", layer))
    assert "does not fit" in said and "of the 250 MB" in said
    assert "--s3" in said and "int8" in said
    assert left(layer) == before


def test_a_bundle_that_does_not_fit_is_stored_in_s3_and_reported_as_not_deployed(
    layer: Path, bundle: Path, aws: str
) -> None:
    padded(bundle, 104)
    env = {"AWS_ENDPOINT_URL": aws, "AWS_DEFAULT_REGION": lambda_runtime.REGION}
    with bucket(aws) as (s3, name):
        command = ("package", bundle, "--layer", layer, "--s3", f"s3://{name}/likeness")
        said = done(model(*command, **env, **lambda_runtime.CREDENTIALS))
        listed = s3.list_objects_v2(Bucket=name)["Contents"]
        absent = model(*command[:-1], "s3://absent-bucket/x", **env, **lambda_runtime.CREDENTIALS)
    folder = f"likeness/net-{spec_of(bundle).fingerprint}"
    assert [item["Key"] for item in listed] == [
        f"{folder}/{name}" for name in ("image.onnx", "model.json", "weights.bin")
    ]
    assert "stored, not deployed" in said
    assert "do not load it from S3 yet" in said
    assert "old.onnx" in left(layer)
    assert "cannot upload" in refused(absent)


def test_what_fits_is_not_uploaded(layer: Path, bundle: Path) -> None:
    said = done(model("package", bundle, "--layer", layer, "--s3", "s3://bucket/prefix"))
    assert "nothing was uploaded" in said


def test_a_folder_that_is_not_a_layer_is_left_unchanged(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    assert "is not a model layer" in refused(model("package", bundle, "--layer", tmp_path))
    assert (tmp_path / "diary.txt").read_text() == "mine"
    wrong = model("package", bundle, "--layer", tmp_path, "--s3", "bucket/prefix")
    assert "s3://bucket/prefix" in refused(wrong)
