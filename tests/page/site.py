"""Shared by the page's tests: the service, its images, and how an image gets into a browser."""

from __future__ import annotations

import base64
import functools
import io
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from playwright.sync_api import Locator, Page

from console.client import Client
from console.demo import sample_images
from likeness.records import ObjectRef

_WAIT_S = 60


class Visit(Protocol):
    """Opens a tab at an address within the page; with `refusals`, HTTP errors are expected."""

    def __call__(
        self,
        address: str = "",
        size: tuple[int, int] = (1440, 900),
        dark: bool = False,
        touch: bool = False,
        refusals: bool = False,
        motion: bool = True,
        prepare: object = None,
    ) -> Page: ...


@dataclass(frozen=True)
class Site:
    url: str
    aws_url: str
    bucket: str
    client: Client

    def id(self, key: str) -> str:
        return ObjectRef(self.bucket, key).point_id

    def wait_until_live(self, keys: Iterable[str]) -> None:
        self.wait_for(keys, "live")

    def wait_for(self, keys: Iterable[str], state: str) -> None:
        deadline_s = time.monotonic() + _WAIT_S
        for key in keys:
            while self.client.status(key)["state"] != state:
                assert time.monotonic() < deadline_s, f"{key} is not {state}"
                time.sleep(0.05)


@functools.cache
def gallery() -> dict[str, sample_images.Item]:
    return {item.key: item for item in [*sample_images.photographs(), *sample_images.products()]}


def item(key: str) -> sample_images.Item:
    return gallery()[key]


def captioned(key: str) -> bytes:
    return sample_images.edited(item(key), "captioned")


def side_by_side(*keys: str) -> bytes:
    """Images side by side on grey, in one JPEG rotated by its EXIF orientation, as by a camera."""
    height = 1200
    images = [item(key).image for key in keys]
    images = [image.resize((image.width * height // image.height, height)) for image in images]
    canvas = Image.new("RGB", (sum(image.width for image in images) + 100, height + 100), "grey")
    left = 50
    for image in images:
        canvas.paste(image, (left, 50))
        left += image.width
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate clockwise to display
    exif[0x010F] = "a camera's maker"
    exif.get_ifd(0x8825)[1] = "N"  # GPS
    out = io.BytesIO()
    canvas.transpose(Image.Transpose.ROTATE_90).save(out, "JPEG", quality=92, exif=exif)
    return out.getvalue()


def drop(page: Page, data: bytes, name: str = "photo.jpg", kind: str = "image/jpeg") -> None:
    """Drop a file on the page, as a user would."""
    _dispatch_file(page, "drop", "DragEvent", "dataTransfer", data, name, kind)


def paste(page: Page, data: bytes) -> None:
    _dispatch_file(page, "paste", "ClipboardEvent", "clipboardData", data, "image.png", "image/png")


def _dispatch_file(
    page: Page, event: str, interface: str, field: str, data: bytes, name: str, kind: str
) -> None:
    page.wait_for_selector("footer a")  # the page is ready once it knows the service
    page.evaluate(
        """([event, interface_, field, data, name, type]) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, {type}));
            const options = {bubbles: true, cancelable: true, [field]: transfer};
            document.querySelector("main").dispatchEvent(new window[interface_](event, options));
        }""",
        [event, interface, field, base64.b64encode(data).decode(), name, kind],
    )


def wait_for_answer(page: Page) -> None:
    """Wait until a search has finished."""
    page.wait_for_selector(".answer:not([aria-busy]) .head h1:text-matches('result|found|answer')")


def wait_for_images(page: Page) -> None:
    """Wait until every image on the screen is drawn."""
    page.wait_for_function(
        """() => [...document.querySelectorAll("[data-id]")].every((image) => {
            const {top, bottom} = image.getBoundingClientRect();
            const away = bottom < 0 || top > innerHeight || !image.checkVisibility();
            return away || image.matches(".loaded, .missing");
        })"""
    )


def result_names(page: Page, count: int = 5) -> list[str]:
    """File names of the first results."""
    labels = page.locator(".card .open").evaluate_all(
        "(cards) => cards.map((card) => card.getAttribute('aria-label'))"
    )
    return [label.partition(":")[0] for label in labels[:count]]


def drag(page: Page, stage: Locator, box: tuple[float, float, float, float]) -> None:
    """Draw a box with the mouse; coordinates are fractions of the image's sides."""
    edge = stage.bounding_box()
    assert edge
    x = [edge["x"] + edge["width"] * fraction for fraction in (box[0], box[2])]
    y = [edge["y"] + edge["height"] * fraction for fraction in (box[1], box[3])]
    page.mouse.move(x[0], y[0])
    page.mouse.down()
    page.mouse.move(x[1], y[1], steps=4)
    page.mouse.up()
