"""A real local service with the demo's images, and a real browser."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from playwright.sync_api import Browser, BrowserContext, BrowserType, Error, Page, sync_playwright

from console.client import Client
from console.demo import sample_images
from console.local.data_folder import LocalService
from tests.page.site import Site, Visit, gallery

_START_S = 60
_INSTALL_S = 240
_INSTALLERS = (
    (sys.executable, "-m", "playwright", "install", "--only-shell", "chromium"),
    ("apt-get", "install", "--yes", "--quiet", "chromium"),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """`likeness serve` with the demo's photographs and products, and edited copies of two."""
    data = tmp_path_factory.mktemp("page")
    serve = "from console.app import main; main()"
    command = [sys.executable, "-c", serve, "serve", "--data", str(data), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--schema", json.dumps(sample_images.SCHEMA)], stdout=subprocess.DEVNULL
    )
    try:
        deadline_s = time.monotonic() + _START_S
        while (service := LocalService.running(data)) is None or service.pid != process.pid:
            assert process.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.05)
        site = Site(service.api_url, service.aws_url, service.bucket, Client(service.api_url))
        _upload_images(site)
        yield site
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def _upload_images(site: Site) -> None:
    images = gallery()
    s3 = boto3.client(
        "s3",
        endpoint_url=site.aws_url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )
    for item in images.values():
        s3.put_object(Bucket=site.bucket, Key=item.key, Body=item.data, Metadata=item.metadata)
    copies = {"photos/coffee.jpg": "half size", "photos/chelsea.jpg": "brighter"}
    for key, edit in copies.items():
        body = sample_images.edited(images[key], edit)
        s3.put_object(Bucket=site.bucket, Key=f"copies/{Path(key).name}", Body=body)
    site.wait_until_live([*images, *(f"copies/{Path(key).name}" for key in copies)])


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = _launch(playwright.chromium)
        yield browser
        browser.close()


def _launch(chromium: BrowserType) -> Browser:
    """The installed Chromium, or one that is installed now."""
    installers = iter(_INSTALLERS)
    while True:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        try:
            return chromium.launch(executable_path=path)
        except Error as error:
            reason = str(error).partition("\n")[0]
        installer = next(installers, None)
        if path or installer is None:
            pytest.skip(f"needs Chromium, which could not be started or installed: {reason}")
        if not shutil.which(installer[0]):
            continue
        try:
            subprocess.run(installer, capture_output=True, check=False, timeout=_INSTALL_S)
        except subprocess.TimeoutExpired:
            continue


@pytest.fixture
def visit(site: Site, chromium: Browser) -> Iterator[Visit]:
    """Opens tabs; after the test, fails if a tab had errors or sent requests to another host."""
    contexts: list[BrowserContext] = []
    violations: list[str] = []
    allowed = {urlsplit(url).netloc for url in (site.url, site.aws_url)}

    def open_tab(
        address: str = "",
        size: tuple[int, int] = (1440, 900),
        dark: bool = False,
        touch: bool = False,
        refusals: bool = False,
        motion: bool = True,
        prepare: object = None,
    ) -> Page:
        context = chromium.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            has_touch=touch,
            reduced_motion="no-preference" if motion else "reduce",
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: violations.append(f"error: {error}"))
        page.on("console", lambda message: record_console(message.type, message.text))
        page.on("request", lambda request: record_request(request.url))
        if callable(prepare):
            prepare(page)
        page.goto(f"{site.url}/{address}")

        def record_console(kind: str, text: str) -> None:
            if kind == "error" and not (refusals and "Failed to load resource" in text):
                violations.append(f"console: {text}")

        return page

    def record_request(url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("blob", "data") and parts.netloc not in allowed:
            violations.append(f"request to {url}")

    yield open_tab
    for context in contexts:
        for page in context.pages:  # pending requests need no answer any more
            page.unroute_all(behavior="ignoreErrors")
        context.close()
    assert not violations
