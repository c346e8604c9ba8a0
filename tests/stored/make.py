"""Writes `service.tar.xz`: what a service stored before bundles named their preprocessing.

Run it at commit c5bca64, the last one before that, in the root of the repository:

    .venv/bin/python -m tests.stored.make

The archive holds the embedded index of `tests.test_migration.World` with the bundle fixed-filters,
the bundle itself, the objects of the bucket and in which order they were put there, messages that
wait in the queue for two of them, and query_ids of earlier answers. The second bundle is
likeness-small, without its network: a query_id is all that was kept of it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from likeness.adapters.sqs import hint_message
from likeness.records import ObjectRef
from tests.pictures import encoded, picture
from tests.service import BUNDLED, FIXED_FILTERS, Service
from tests.test_migration import LASTING, World, small_image

ARCHIVE = Path(__file__).parent / "service.tar.xz"
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def odd_images() -> dict[str, bytes]:
    """Files whose pixels depend on the version of the preprocessing."""
    drawing = Image.new("RGBA", (40, 40), (255, 255, 255, 0))
    drawing.paste((255, 255, 255, 255), (8, 8, 20, 32))
    letterboxed = Image.new("RGB", (64, 64))
    letterboxed.paste(picture(102, 64, 36), (0, 14))
    ramp = np.add.outer(np.arange(40), np.arange(40) ** 2).astype(np.uint16)
    frames = [picture(104, 40, 40).convert("P")] * 2
    turned = PngImagePlugin.PngInfo()
    turned.add_itxt("XML:com.adobe.xmp", _XMP)
    return {
        "white-on-clear.png": encoded(drawing),  # rejected: flat on white
        "dark.png": encoded(picture(101, 40, 40).point(lambda value: value // 8)),
        "letterboxed.png": encoded(letterboxed),
        "12-bit.png": encoded(Image.fromarray(ramp)),
        "fade-in.gif": encoded(
            Image.new("P", (40, 40)), "GIF", save_all=True, append_images=frames
        ),  # rejected: its first frame is black
        "turned-by-xmp.png": encoded(picture(105, 40, 40), pnginfo=turned),
    }


def write(folder: Path) -> None:
    shutil.copytree(FIXED_FILTERS, folder / "bundle")
    objects = {key: small_image(seed) for seed, key in enumerate(LASTING)} | odd_images()
    waiting = {f"waiting-{seed}.png": small_image(seed) for seed in (200, 201)}
    world = World(folder / "index", [folder / "bundle"])
    world.put(**objects)
    tokens = [world.search(small_image(seed)).json()["query_id"] for seed in range(2)]
    world.index.close()
    objects |= waiting
    messages = [hint_message(ObjectRef("photos", key)) for key in waiting]
    with tempfile.TemporaryDirectory() as other, Service(Path(other), BUNDLED) as service:
        service.fill({"a.png": small_image(1)})
        answer = service.http.post(
            "/v1/search", content=small_image(1), headers={"content-type": "image/png"}
        )
        (folder / "likeness-small").mkdir()
        shutil.copy(BUNDLED / "model.json", folder / "likeness-small")
    contents = {
        "order": list(objects),
        "messages": messages,
        "query_ids": tokens,
        "query_id_of_likeness_small": answer.json()["query_id"],
    }
    (folder / "contents.json").write_text(json.dumps(contents, indent=1))
    (folder / "objects").mkdir()
    for key, data in objects.items():
        (folder / "objects" / key).write_bytes(data)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
        # the engine's files are mostly holes: 250 MB, of which a few kB are written
        command = ["tar", "--sparse", "--format=gnu", "--sort=name", "--owner=0", "--group=0"]
        tar = [*command, "--mtime=@0", "--xz", "-cf", str(ARCHIVE), "-C", name]
        folders = ("bundle", "contents.json", "index", "likeness-small", "objects")
        return subprocess.run([*tar, *folders], check=True).returncode


if __name__ == "__main__":
    sys.exit(main())
