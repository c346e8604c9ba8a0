"""What version 2 of the preprocessing does to the pictures of DATA, with the bundled network.

By family of pictures: how many keep their vector (cosine ≥ .999 to version 1), how many lose bars,
and how often an edited copy finds its original first among PICTURES under version 1 → version 2.
DATA holds clothing/, caltech101/, grocery/ and varied/, each with a labels.csv.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from likeness.embedding import Embedder
from likeness.errors import NoDetail
from likeness.pixels.bars import content_box
from likeness.records import WHOLE
from likeness.settings import Limits

BUNDLED = Path(__file__).resolve().parent.parent / "layers" / "model"
Edit = Callable[[Image.Image, np.random.Generator], Image.Image]


def dimmed(light: float, noise: float) -> Edit:
    """A picture in less light, with a sensor's noise in levels of 255."""

    def edit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        pixels = np.asarray(image, np.float32) * light
        noisy = pixels + rng.normal(0, noise, pixels.shape)
        return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))

    return edit


def washed_out(image: Image.Image, _rng: np.random.Generator) -> Image.Image:
    """Contrast × .3 around a pale grey."""
    return image.point([round(150 + 0.3 * (level - 128)) for level in range(256)] * 3)


def letterboxed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Between black bars above and below, 12 to 28 % of the height each."""
    above, below = (round(image.height * share) for share in rng.uniform(0.12, 0.28, 2))
    return ImageOps.expand(image, (0, above, 0, below), "black")


EDITS: dict[str, Edit] = {
    "light × .3": dimmed(0.3, 4),
    "light × .13": dimmed(0.13, 3),
    "washed out": washed_out,
    "letterboxed": letterboxed,
}


def families(data: Path) -> dict[str, list[Path]]:
    """Files by set, those of varied/ by kind."""
    found: dict[str, list[Path]] = {}
    for name in ("clothing", "caltech101", "grocery", "varied"):
        with (data / name / "labels.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                family = row["kind"] if name == "varied" else name
                if row.get("split") == "iconic":
                    family = "catalogue"
                found.setdefault(family, []).append(data / name / row["path"])
    return found


def of_version(version: int, folder: Path) -> Embedder:
    """The bundled network with another version of the preprocessing."""
    manifest = json.loads((BUNDLED / "model.json").read_text(encoding="utf-8"))
    (folder / "image.onnx").write_bytes((BUNDLED / "image.onnx").read_bytes())
    (folder / "model.json").write_text(json.dumps(manifest | {"preprocessing": version}), "utf-8")
    return Embedder(folder)


def vectors(embedder: Embedder, files: list[bytes]) -> NDArray[np.float32]:
    """Unit rows (N, D); zeros for a picture without detail."""
    rows = []
    for data in files:
        image, _ = embedder.decode(data, Limits())
        try:
            rows.append(embedder.extract([embedder.to_tensor(image)]).vectors[0])
        except NoDetail:
            rows.append(np.zeros(embedder.spec.embedding.dim, np.float32))
    return np.stack(rows)


def as_jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the sets of pictures")
    parser.add_argument("--pictures", type=int, default=500, help="of a family (default: 500)")
    parser.add_argument("--queries", type=int, default=167, help="edited ones (default: 167)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        versions = [of_version(1, Path(first)), of_version(2, Path(second))]
    print("| family | cosine ≥ .999 | cut, of all | " + " | ".join(EDITS) + " |")
    print("|---" * (3 + len(EDITS)) + "|")
    for family, paths in families(arguments.data).items():
        rng = np.random.default_rng(0)
        chosen = rng.permutation(len(paths))[: arguments.pictures]
        files = [paths[number].read_bytes() for number in chosen]
        galleries = [vectors(embedder, files) for embedder in versions]
        kept = ((galleries[0] * galleries[1]).sum(axis=1) >= 0.999).mean()
        cut = sum(content_box(Image.open(path).convert("RGB")) != WHOLE for path in paths)
        cells = []
        for edit in EDITS.values():
            images = [Image.open(io.BytesIO(f)).convert("RGB") for f in files[: arguments.queries]]
            edited = [as_jpeg(edit(image, rng)) for image in images]
            right = [
                (
                    (vectors(embedder, edited) @ gallery.T).argmax(axis=1) == range(len(edited))
                ).mean()
                for embedder, gallery in zip(versions, galleries, strict=True)
            ]
            cells.append(f"{right[0]:.2f} → {right[1]:.2f}")
        print(
            f"| {family} | {kept:.1%} | {cut} of {len(paths)} | {' | '.join(cells)} |", flush=True
        )


if __name__ == "__main__":
    main()
