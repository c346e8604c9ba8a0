"""The page in a real browser, against the real local service."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, Request, Route, expect

from console.demo import sample_images
from tests.page.site import (
    Site,
    Visit,
    captioned,
    drag,
    drop,
    item,
    paste,
    result_names,
    side_by_side,
    wait_for_answer,
    wait_for_images,
)

pytestmark = pytest.mark.timeout(600)  # the first one may have to install a browser

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "functions" / "search" / "page"
SCREENSHOTS = ROOT / ".likeness" / "page"
PHONE, DESKTOP = (390, 844), (1440, 900)
CUP, MUG = "coffee.jpg", "products/mug-blue.jpg"
FORBIDDEN = {"message": "Forbidden"}


def problem(slug: str, status: int) -> dict[str, Any]:
    return {"type": f"urn:likeness:problem:{slug}", "status": status, "detail": "from a test"}


def record_searches(page: Page) -> list[Request]:
    """A list that collects every search that this tab sends from now on."""
    sent: list[Request] = []
    page.on("request", lambda each: sent.append(each) if "/v1/search" in each.url else None)
    return sent


KEEP_FORMS = """
    window.forms = [];
    const send = window.fetch;
    window.fetch = (path, options) => {
        if (options?.body instanceof FormData) window.forms.push(options.body);
        return send(path, options);
    };
"""


def form(page: Page, n: int) -> tuple[bytes, dict[str, str]]:
    """The image and the other fields of a sent form, which Playwright cannot read from Chromium."""
    image, fields = page.evaluate(
        """async (n) => {
            const {image, ...fields} = Object.fromEntries(window.forms.at(n));
            const bytes = new Uint8Array(await image.arrayBuffer());
            return [btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")), fields];
        }""",
        n,
    )
    return base64.b64decode(image), fields


def request_body(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request.post_data or "")
    return body


def refuse(status: int, body: dict[str, Any], **headers: str) -> Callable[[Route], None]:
    return lambda route: route.fulfill(status=status, json=body, headers=headers)


# --- query ---


def test_a_dropped_image_finds_its_match_and_a_box_on_it_another(visit: Visit) -> None:
    page = visit(prepare=lambda page: page.add_init_script(KEEP_FORMS))
    drop(page, side_by_side("photos/coffee.jpg", "photos/chelsea.jpg"))
    wait_for_answer(page)
    stage = page.locator(".stage")
    drag(page, stage, (0.02, 0.02, 0.5, 0.98))
    expect(page.locator(".card .open").first).to_have_attribute("aria-label", re.compile("coffee"))
    page.get_by_role("button", name="Whole picture").click()
    wait_for_answer(page)
    drag(page, stage, (0.52, 0.02, 0.98, 0.98))
    expect(page.locator(".card .open").first).to_have_attribute("aria-label", re.compile("chelsea"))
    box = json.loads(form(page, -1)[1]["box"])
    assert box == pytest.approx([0.52, 0.02, 0.98, 0.98], abs=0.02)
    sent = Image.open(io.BytesIO(form(page, 0)[0]))
    assert sent.format == "JPEG" and max(sent.size) == 1600
    assert sent.width > sent.height, "rotated upright"
    assert not sent.getexif() and "exif" not in sent.info


def test_two_fingers_select_an_area(visit: Visit) -> None:
    page = visit(size=PHONE, touch=True)
    drop(page, item(MUG).data)
    wait_for_answer(page)
    edge = page.locator(".stage").bounding_box()
    assert edge
    touch = page.context.new_cdp_session(page)

    def dispatch(kind: str, *fractions: float) -> None:
        points = [
            {"x": edge["x"] + edge["width"] * at, "y": edge["y"] + edge["height"] * at, "id": n}
            for n, at in enumerate(fractions)
        ]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    dispatch("touchStart", 0.45)
    dispatch("touchStart", 0.45, 0.55)
    dispatch("touchMove", 0.2, 0.8)
    dispatch("touchEnd")
    page.wait_for_url(re.compile("box="))
    parameter = re.search("box=([^&]*)", page.url)
    assert parameter
    box = [float(side) for side in parameter[1].replace("%2C", ",").split(",")]
    assert box == pytest.approx([0.2, 0.2, 0.8, 0.8], abs=0.05)


def test_detected_objects_are_dots_to_tap(visit: Visit) -> None:
    page = visit(touch=True)
    drop(page, side_by_side("photos/coffee.jpg", "photos/chelsea.jpg"))
    wait_for_answer(page)
    page.get_by_role("button", name="Find objects").click()
    page.locator(".dot").first.tap()
    page.wait_for_url(re.compile("box="))
    wait_for_answer(page)
    assert page.locator(".box").is_visible()


def test_dragging_a_file_over_the_page_shows_a_hint(visit: Visit) -> None:
    page = visit()
    hint = page.get_by_text("Drop it anywhere")
    drag_over = """() => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File(["x"], "x.jpg", {type: "image/jpeg"}));
        const send = (kind, relatedTarget) => document.body.dispatchEvent(
            new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer, relatedTarget}));
        send("dragover");
        send("dragleave", document.querySelector("main"));
        window.leave = () => send("dragleave", null);
    }"""
    expect(hint).to_be_hidden()
    page.evaluate(drag_over)
    expect(hint).to_be_visible()
    page.evaluate("window.leave()")
    expect(hint).to_be_hidden()


def test_a_pasted_image_is_searched(visit: Visit) -> None:
    page = visit()
    image = io.BytesIO()
    item(MUG).image.save(image, "PNG")
    paste(page, image.getvalue())
    wait_for_answer(page)
    assert result_names(page, 1) == ["mug-blue.jpg"]


def test_a_phone_offers_its_camera(visit: Visit) -> None:
    camera = visit(size=PHONE, touch=True).locator("input[capture=environment]")
    expect(camera).to_have_count(1)


def test_text_search_is_offered_if_the_model_supports_it(visit: Visit) -> None:
    def claim_text_support(page: Page) -> None:
        def answer(route: Route) -> None:
            config = route.fetch().json()
            route.fulfill(json={**config, "text": True})

        page.route("**/v1/config", answer)

    page = visit(prepare=claim_text_support, refusals=True)
    sent = record_searches(page)
    page.get_by_label("Search with words").fill("a blue mug")
    page.keyboard.press("Enter")
    expect(page.locator(".notice")).to_contain_text("no text encoder")  # the bundled model has none
    assert request_body(sent[0])["text"] == "a blue mug"


def test_positive_and_negative_examples_are_collected(visit: Visit, site: Site) -> None:
    page = visit(f"#id={site.id(MUG)}")
    sent = record_searches(page)
    wait_for_answer(page)
    first, second = result_names(page, 2)
    page.locator(".answer .card").first.hover()
    page.get_by_role("button", name=f"More like {first}").click()
    wait_for_answer(page)
    page.locator(".answer .card", has=page.get_by_label(f"{second}:")).hover()
    page.get_by_role("button", name=f"Less like {second}").click()
    wait_for_answer(page)
    fields = request_body(sent[-1])
    assert fields["positive"][0] == site.id(MUG) and len(fields["positive"]) == 2
    assert len(fields["negative"]) == 1
    expect(page.get_by_role("button", name="like: remove")).to_have_count(3)
    assert {first, second, "mug-blue.jpg"}.isdisjoint(result_names(page, 24))


# --- answer ---


def test_filters_and_switches_change_the_results_without_sending_the_image_again(
    visit: Visit,
) -> None:
    page = visit()
    sent = record_searches(page)
    drop(page, captioned(MUG))
    wait_for_answer(page)
    page.get_by_role("checkbox", name="mug 5").check()
    expect(page.locator(".answer .card")).to_have_count(5)
    assert all(name.startswith("mug") for name in result_names(page))
    page.get_by_label("price from").fill("100")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("gte"))
    wait_for_answer(page)
    expensive = page.locator(".answer .card").count()
    assert 0 < expensive < 5
    page.go_back()
    expect(page.locator(".answer .card")).to_have_count(5)
    page.get_by_role("checkbox", name="mug 5").uncheck()
    page.get_by_label("One result per").select_option("category")
    page.wait_for_url(re.compile("group_by"))
    wait_for_answer(page)
    categories = [name.partition("-")[0] for name in result_names(page, 9) if "-" in name]
    assert len(categories) == len(set(categories)) > 3
    page.get_by_role("switch", name="Diverse results").check()
    page.get_by_role("radio", name="Off").check()
    page.wait_for_url(re.compile("diversity=0.5&rerank=none"))
    wait_for_answer(page)
    assert "multipart" in sent[0].headers["content-type"]
    assert all(request_body(request)["query_id"] for request in sent[1:])


def test_scrolling_loads_more_results(visit: Visit, site: Site) -> None:
    page = visit(f"#id={site.id(MUG)}&rerank=none")
    wait_for_answer(page)
    page.mouse.move(900, 500)
    for _ in range(12):
        page.mouse.wheel(0, 2000)
        page.wait_for_timeout(50)
    expect(page.locator(".below")).to_contain_text("End of results")
    shown = result_names(page, 100)
    assert len(shown) == 47  # of 48: the query image is not its own neighbour


def test_a_copied_link_finds_the_same_results_without_the_image(visit: Visit) -> None:
    page = visit()
    drop(page, captioned(MUG))
    wait_for_answer(page)
    page.get_by_role("checkbox", name="blue").check()
    page.wait_for_url(re.compile("filter"))
    wait_for_answer(page)
    expect(page.locator(".answer .card").first).to_be_visible()
    found = result_names(page, 9)
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator(".answer")).to_contain_text("Copied, without")
    copied = page.evaluate("navigator.clipboard.readText()")
    other = visit(copied.partition("/#")[2] and "#" + copied.partition("/#")[2])
    wait_for_answer(other)
    assert result_names(other, 9) == found
    other.reload()
    wait_for_answer(other)
    assert result_names(other, 9) == found
    page.reload()  # the history entry has the query_id
    wait_for_answer(page)
    assert result_names(page, 9) == found


def test_any_host_that_forwards_the_api_can_serve_the_page(visit: Visit, site: Site) -> None:
    def serve(route: Route) -> None:
        path = route.request.url.partition("/elsewhere/")[2] or "index.html"
        if path.startswith("v1/"):
            route.fulfill(response=route.fetch(url=f"{site.url}/{path}"))
        else:
            route.fulfill(path=PAGE / path)

    page = visit("elsewhere/", prepare=lambda page: page.route("**/elsewhere/**", serve))
    drop(page, captioned(MUG))
    wait_for_answer(page)
    wait_for_images(page)
    assert result_names(page, 1) == ["mug-blue.jpg"]
    expect(page.get_by_role("link", name="Search", exact=True)).to_have_attribute(
        "aria-current", "page"
    )


def test_an_object_key_works_as_a_link(visit: Visit, site: Site) -> None:
    page = visit(f"#key={MUG}")
    wait_for_answer(page)
    assert site.id(MUG) in page.url
    expect(page.locator(".stage img.loaded")).to_be_visible()


@pytest.mark.parametrize("chosen", ["#id={other}", "#", "#upload"])
def test_a_late_answer_for_a_key_does_not_navigate_back(
    visit: Visit, site: Site, chosen: str
) -> None:
    page, chosen = visit(), chosen.format(other=site.id("photos/coffee.jpg"))
    delayed = delay_first_answer(
        page, "**/v1/status?*", lambda: page.goto(f"{site.url}/#key={MUG}")
    )
    page.goto(f"{site.url}/{chosen}")
    release(page, delayed)
    assert page.url.endswith(chosen)


def test_objects_of_the_previous_image_are_not_shown(visit: Visit, site: Site) -> None:
    page = visit(f"#id={site.id('photos/coffee.jpg')}")
    wait_for_answer(page)
    find = page.get_by_role("button", name="Find objects")
    delayed = delay_first_answer(page, "**/v1/search", find.click)
    page.goto(f"{site.url}/#id={site.id(MUG)}")
    wait_for_answer(page)
    release(page, delayed)
    assert page.locator(".dot").count() == 0
    assert "objects found" not in page.locator(".answer").inner_text()


def delay_first_answer(page: Page, address: str, send: Callable[[], object]) -> Route:
    """Send a request whose answer waits until `release`."""
    delayed: list[Route] = []
    page.route(address, lambda route: delayed.append(route), times=1)  # noqa: PLW0108 - as below
    with page.expect_request(address):
        send()
    while not delayed:  # the request event comes before the route's
        page.wait_for_timeout(10)
    return delayed[0]


def release(page: Page, delayed: Route) -> None:
    delayed.continue_()
    page.wait_for_timeout(500)


# --- proof ---


def test_the_proof_draws_the_matches_and_an_overlay(visit: Visit, site: Site) -> None:
    page = visit()
    sent: list[Request] = []
    page.on("request", lambda each: sent.append(each) if "feedback" in each.url else None)
    drop(page, captioned("photos/coffee.jpg"))
    wait_for_answer(page)
    first = page.locator(".card .open").first
    first.click()
    proof = page.get_by_role("dialog")
    expect(proof.locator("line")).to_have_count(4)
    expect(proof.locator(".pair img.loaded")).to_have_count(1)
    # drawn again once the image sizes are known
    page.wait_for_function(
        """() => [...document.querySelectorAll("dialog .both")].map((each) => each.getBBox().width)
            .every((width, n, all) => all.length === 2 && width > 100 && width < 700)"""
    )
    expect(proof).to_contain_text(
        re.compile("(Agreeing pixels|Query area found in the result) *([89][0-9]|100)")
    )
    for stage in ("Overall similarity", "Matching details", "Final score"):
        expect(proof).to_contain_text(stage)
    proof.get_by_label("Overlay").check()
    overlay_image = proof.locator(".laid img").last
    for value, opacity in (("100", "1"), ("0", "0")):
        proof.get_by_role("slider").fill(value)
        expect(overlay_image).to_have_css("opacity", opacity)
    below, above = (proof.locator(".laid img").nth(n).bounding_box() for n in (0, 1))
    assert below and above
    for side in ("x", "y", "width", "height"):
        assert above[side] == pytest.approx(below[side], abs=0.1 * below["width"])
    with page.expect_response("**/v1/feedback") as feedback:
        proof.get_by_role("button", name="Yes").click()
    assert feedback.value.status == 200
    assert request_body(sent[0])["kind"] == "relevant" and request_body(sent[0])["query_id"]
    page.keyboard.press("Escape")
    expect(proof).to_be_hidden()
    expect(first).to_be_focused()


MIRRORED = [-1, 0, 1, 0, 1, 0, 0, 0, 1]
TURNED = [0, -1, 1, 1, 0, 0, 0, 0, 1]  # a quarter turn against the clock
QUARTER = [2, 0, -1, 0, 2, 0, 0, 0, 1]  # the result is the upper right part of the query


@pytest.mark.parametrize(
    ("transform", "corners"),
    [
        (MIRRORED, [(1, 0), (0, 0), (0, 1), (1, 1)]),
        (TURNED, [(0, 1), (0, 0), (1, 0), (1, 1)]),
        (QUARTER, [(0.5, 0), (1, 0), (1, 0.5), (0.5, 0.5)]),
    ],
    ids=["mirrored", "turned", "a part"],
)
def test_the_result_is_laid_over_the_query_by_its_transform(
    visit: Visit, transform: list[float], corners: list[tuple[float, float]]
) -> None:
    """`corners`: where the corners of the result come to lie in the query, clockwise."""
    page = visit(prepare=lambda page: answering(page, transform=transform))
    open_overlay(page)
    found = page.evaluate(
        """() => {
            const [below, above] = document.querySelectorAll(".laid img");
            const matrix = new DOMMatrix(getComputedStyle(above).transform);
            const {clientWidth: width, clientHeight: height} = below;
            return [[0, 0], [width, 0], [width, height], [0, height]].map(([x, y]) => {
                const {x: left, y: top, w} = matrix.transformPoint(new DOMPoint(x, y));
                return [left / w / width, top / w / height];
            });
        }"""
    )
    for place, expected in zip(found, corners, strict=True):
        assert place == pytest.approx(expected, abs=0.01)


def test_the_proof_names_the_edits_and_outlines_the_differences(visit: Visit) -> None:
    areas = [{"query": [0.1, 0.1, 0.4, 0.2], "target": [0.5, 0.5, 0.8, 0.6]}]
    page = visit(
        prepare=lambda page: answering(
            page, transform=MIRRORED, differences=areas, edits=["mirrored", "part_of"]
        )
    )
    open_overlay(page)
    proof = page.get_by_role("dialog")
    expect(proof.locator(".edits")).to_have_text("mirrored, part of a larger picture")
    expect(proof).to_contain_text(re.compile("Areas that differ *1"))
    below, mark = proof.locator(".laid").bounding_box(), proof.locator(".laid i").bounding_box()
    assert below and mark
    assert (mark["x"] - below["x"]) / below["width"] == pytest.approx(0.1, abs=0.02)
    assert mark["width"] / below["width"] == pytest.approx(0.3, abs=0.02)
    proof.get_by_label("Side by side").check()
    expect(proof.locator("polygon.differs")).to_have_count(2)


def test_a_result_without_pixels_is_compared_when_it_is_opened(visit: Visit) -> None:
    page = visit()
    drop(page, captioned("photos/coffee.jpg"))
    wait_for_answer(page)
    with page.expect_response("**/v1/compare") as compared:
        page.locator(".card .open").nth(3).click()
    assert compared.value.status == 200
    expect(page.get_by_role("dialog")).to_contain_text(re.compile("Compared by *pixels"))
    with page.expect_response("**/thumbnail*"):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("dialog")).to_contain_text(re.compile("Compared by *pixels"))


def test_what_pixels_said_still_holds_when_only_the_filter_changes(visit: Visit) -> None:
    """The second search is by the query_id, which has no pixels."""
    page = visit()
    drop(page, sample_images.jpeg(item("photos/coffee.jpg").image, quality=85))
    wait_for_answer(page)
    copied = page.locator(".answer .badge").first
    expect(copied).to_contain_text("Copy")
    with page.expect_response("**/v1/search*") as searched:
        page.get_by_label("Diverse results").check()
    assert searched.value.json()["results"][0]["rests_on"] == "index"
    wait_for_answer(page)
    expect(copied).to_contain_text("Copy")


def answering(page: Page, edits: tuple[str, ...] | list[str] = (), **explain: object) -> None:
    """The first result of every search is an edit with this explanation."""

    def change(route: Route) -> None:
        response = route.fetch()
        body = response.json()
        first = body["results"][0]
        first.update(verdict="edited", probability=0.98, rests_on="pixels", edits=edits)
        first["explain"].update({"agreeing": 95.0, "differences": [], **explain})
        route.fulfill(response=response, json=body)

    page.route("**/v1/search*", change)


def open_overlay(page: Page) -> None:
    drop(page, captioned("photos/coffee.jpg"))
    wait_for_answer(page)
    page.locator(".card .open").first.click()
    page.get_by_label("Overlay").check()
    page.wait_for_function("() => document.querySelector('.laid img')?.clientWidth > 100")
    page.wait_for_function("() => document.querySelector('.laid img + img').style.transform")


# --- upload, delete, duplicates ---


def test_an_uploaded_image_is_found_until_it_is_deleted(
    visit: Visit, site: Site, tmp_path: Path
) -> None:
    image = item("photos/rocket.jpg").image.rotate(90, expand=True)
    image.save(tmp_path / "turned.jpg")
    (tmp_path / "letter.jpg").write_bytes(b"Dear Sir or Madam")
    (tmp_path / "notes.txt").write_text("no image")
    page = visit("#upload")
    page.get_by_text("Add metadata").click()
    page.get_by_label("brand").fill("Fjell")
    page.locator(".zone input").set_input_files(sorted(tmp_path.iterdir()))
    rows = {name: page.locator(".uploads li", has_text=name) for name in ("turned", "letter")}
    expect(rows["letter"]).to_contain_text("rejected: no image signature")
    expect(page.locator(".uploads li", has_text="notes")).to_contain_text("not a picture")
    expect(rows["turned"]).to_contain_text("searchable")
    other = visit()
    drop(other, (tmp_path / "turned.jpg").read_bytes())
    wait_for_answer(other)
    assert result_names(other, 1) == ["turned.jpg"]
    expect(other.locator(".answer .card").first).to_contain_text("Fjell")
    wait_for_images(page)
    wait_for_images(other)
    uploaded = site.client.search_image((tmp_path / "turned.jpg").read_bytes())["results"][0]["key"]
    delete = rows["turned"].get_by_role("button", name="Delete")
    delete.click()
    rows["turned"].get_by_role("button", name="Really delete?").click()
    expect(rows["turned"]).to_contain_text("deleted")
    site.wait_for([uploaded], "gone")
    other.reload()
    wait_for_answer(other)
    expect(other.get_by_label("turned.jpg:")).to_have_count(0)


def test_decisions_about_duplicates_are_remembered(visit: Visit) -> None:
    page = visit("#duplicates")
    cups, cats = (page.locator(".group", has_text=name) for name in (CUP, "chelsea.jpg"))
    expect(cups.locator("li")).to_have_count(2)
    cups.get_by_role("button", name="Not a duplicate").click()
    expect(cups.get_by_role("button", name="Undo")).to_be_visible()
    cats.get_by_role("button", name="Keep all").click()
    expect(cats).to_have_count(0)
    page.reload()
    expect(page.get_by_role("button", name="Show 1 that you kept")).to_be_visible()
    expect(cups).to_have_count(0)
    expect(cats).to_have_count(0)


def test_variants_are_listed_apart_and_never_to_delete(visit: Visit, site: Site) -> None:
    keys = [f"products/mug-{colour}.jpg" for colour in ("blue", "red")]
    first, second = ({"id": site.id(key), "key": key} for key in keys)
    variant = {**second, "verdict": "variant", "probability": 0.95}
    group = {"id": site.id(keys[0]), "original": first, "copies": [variant], "more": False}

    def prepare(page: Page) -> None:
        page.route(
            "**/v1/duplicates?relation=variant",
            lambda route: route.fulfill(json={"groups": [group], "next_cursor": None}),
        )

    page = visit("#duplicates", prepare=prepare)
    page.get_by_label("Variants").check()
    shown = page.locator(".group")
    expect(shown).to_have_count(1)
    expect(shown.locator("li")).to_have_count(2)
    expect(shown).to_contain_text("Variant, very likely")
    expect(shown.get_by_role("button")).to_have_count(0)
    page.get_by_label("Duplicates").check()
    expect(page.get_by_role("heading", level=1)).to_have_text("Duplicates")


# --- errors ---


def test_the_api_key_is_asked_for_once_and_stored(visit: Visit) -> None:
    def require_key(page: Page) -> None:
        def answer(route: Route) -> None:
            accepted = route.request.headers.get("x-api-key") == "right"
            route.fallback() if accepted else route.fulfill(status=403, json=FORBIDDEN)

        page.route("**/v1/**", answer)

    page = visit(prepare=require_key, refusals=True)
    dialog = page.get_by_role("dialog", name="Key")
    dialog.get_by_label("API key").fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("refused")
    dialog.get_by_label("API key").fill("right")
    page.keyboard.press("Enter")
    expect(page.locator(".strip img.loaded").first).to_be_visible()
    page.reload()
    expect(page.locator(".strip img.loaded").first).to_be_visible()
    expect(dialog).to_be_hidden()


@pytest.mark.parametrize(
    ("status", "body", "notice"),
    [
        (401, FORBIDDEN, "An API key is needed"),
        (404, problem("not-indexed", 404), "Search with another picture"),
        (409, problem("model-mismatch", 409), "Choose the picture again"),
        (413, problem("image-too-large", 413), "Choose a smaller one"),
        (422, problem("no-detail", 422), "Select another area"),
        (429, {"message": "Too Many Requests"}, "Too many requests"),
        (500, problem("internal", 500), "Something went wrong"),
    ],
)
def test_every_error_says_what_to_do(
    visit: Visit, site: Site, status: int, body: dict[str, Any], notice: str
) -> None:
    page = visit(refusals=True)
    page.route("**/v1/search", refuse(status, body))
    page.goto(f"{site.url}/#id={site.id(MUG)}")
    if status == 401:
        page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".notice")).to_contain_text(notice)
    page.unroute("**/v1/search")
    page.get_by_role("button", name=re.compile("^Try")).click()
    expect(page.locator(".card .open").first).to_be_visible()


def test_an_unavailable_index_is_retried_after_the_announced_time(visit: Visit, site: Site) -> None:
    page = visit(refusals=True)
    down = refuse(503, problem("index-unavailable", 503), **{"Retry-After": "1"})
    page.route("**/v1/search", down, times=1)
    page.goto(f"{site.url}/#id={site.id(MUG)}")
    expect(page.locator(".notice")).to_contain_text("automatically in 1 s")
    expect(page.locator(".card .open").first).to_be_visible()


def test_the_page_waits_for_the_connection_while_offline(visit: Visit, site: Site) -> None:
    page = visit(refusals=True)
    expect(page.locator(".strip a").first).to_be_visible()
    page.context.set_offline(True)
    page.locator(".strip a").first.click()
    expect(page.locator(".notice")).to_contain_text("You are offline")
    page.context.set_offline(False)
    expect(page.locator(".card .open").first).to_be_visible()


def test_a_slow_search_is_announced(visit: Visit, site: Site) -> None:
    page = visit()
    delayed: list[Route] = []
    page.route("**/v1/search", lambda route: delayed.append(route))  # noqa: PLW0108 - Playwright needs the parameter's name
    page.clock.install()
    page.goto(f"{site.url}/#id={site.id(MUG)}")
    expect(page.get_by_text("Searching …")).to_be_visible()
    page.wait_for_timeout(200)
    page.clock.fast_forward(4000)
    expect(page.locator(".below")).to_contain_text("Still searching")
    delayed[0].continue_()
    expect(page.locator(".card .open").first).to_be_visible()


def test_an_empty_result_offers_to_remove_the_filters(visit: Visit, site: Site) -> None:
    expensive = json.dumps({"must": [{"key": "price", "range": {"gte": 1e6}}]})
    page = visit(f"#id={site.id(MUG)}&filter={expensive}")
    expect(page.locator(".notice")).to_contain_text("No matches")
    page.get_by_role("button", name="Remove all").click()
    expect(page.locator(".card .open").first).to_be_visible()


def test_an_empty_index_offers_the_upload(visit: Visit) -> None:
    empty = {"images": [], "next_cursor": None}
    page = visit(prepare=lambda page: page.route("**/v1/images?*", refuse(200, empty)))
    page.get_by_role("link", name="Upload pictures").click()
    expect(page.get_by_role("heading", name="Upload")).to_be_focused()


def test_a_file_that_is_no_image_is_not_sent(visit: Visit) -> None:
    page = visit()
    sent = record_searches(page)
    drop(page, b"Dear Sir or Madam", "letter.jpg")
    expect(page.locator(".notice")).to_contain_text("cannot open letter.jpg")
    assert not sent


def test_a_link_to_an_unavailable_image_asks_for_it(visit: Visit) -> None:
    page = visit("#picture=elsewhere")
    expect(page.locator(".notice")).to_contain_text("Choose it again")


# --- accessibility and layout ---


def test_the_keyboard_alone_searches_selects_an_area_and_reads_the_proof(
    visit: Visit, site: Site
) -> None:
    page = visit()
    expect(page.locator(".strip img.loaded").first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    for _ in range(6):  # brand, three views, file chooser, first image
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    wait_for_answer(page)
    page.get_by_role("button", name="Select an area").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".box")).to_be_focused()
    before = page.url
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    page.wait_for_function("(before) => location.href !== before", arg=before)
    assert "box=0.23%2C0.25%2C0.73%2C0.77" in page.url
    wait_for_answer(page)
    page.locator(".card .open").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("heading")).to_be_focused()
    title = page.locator("#proof .small").first.text_content()
    page.keyboard.press("ArrowRight")
    assert page.locator("#proof .small").first.text_content() != title
    page.keyboard.press("Escape")
    expect(page.locator(".card .open").first).to_be_focused()


STATES: dict[str, Callable[[Page, Site], None]] = {}


def state(show: Callable[[Page, Site], None]) -> Callable[[Page, Site], None]:
    STATES[show.__name__] = show
    return show


@state
def start(page: Page, site: Site) -> None:
    expect(page.locator(".strip img.loaded").first).to_be_visible()


@state
def answer(page: Page, site: Site) -> None:
    drop(page, captioned(MUG))
    wait_for_answer(page)


@state
def area(page: Page, site: Site) -> None:
    drop(page, side_by_side("photos/coffee.jpg", "photos/chelsea.jpg"))
    wait_for_answer(page)
    page.get_by_role("button", name="Find objects").click()
    expect(page.locator(".dot").first).to_be_visible()
    drag(page, page.locator(".stage"), (0.53, 0.04, 0.97, 0.96))
    wait_for_answer(page)


@state
def proof(page: Page, site: Site) -> None:
    drop(page, captioned("photos/coffee.jpg"))
    wait_for_answer(page)
    page.locator(".card .open").first.click()
    expect(page.locator("#proof line").first).to_be_attached()


@state
def overlay(page: Page, site: Site) -> None:
    proof(page, site)
    page.get_by_label("Overlay").check()


@state
def examples(page: Page, site: Site) -> None:
    ids = [site.id(f"products/mug-{colour}.jpg") for colour in ("blue", "green", "red")]
    page.goto(f"{site.url}/#positive={ids[0]},{ids[1]}&negative={ids[2]}")
    wait_for_answer(page)


@state
def upload(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/#upload")
    files = [("flag.jpg", b"Dear Sir or Madam"), ("notes.txt", b"text")]
    types = {"jpg": "image/jpeg", "txt": "text/plain"}
    page.locator(".zone input").set_input_files(
        [{"name": n, "mimeType": types[n[-3:]], "buffer": data} for n, data in files]
    )
    expect(page.locator(".uploads .bad")).to_have_count(2)


@state
def duplicates(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/#duplicates")
    expect(page.locator(".group").first).to_be_visible()


@state
def unavailable(page: Page, site: Site) -> None:
    page.route(
        "**/v1/search", refuse(503, problem("index-unavailable", 503), **{"Retry-After": "9"})
    )
    page.goto(f"{site.url}/#id={site.id(MUG)}")
    expect(page.locator(".notice")).to_be_visible()


@state
def no_results(page: Page, site: Site) -> None:
    expensive = json.dumps({"must": [{"key": "price", "range": {"gte": 1e6}}]})
    page.goto(f"{site.url}/#id={site.id(MUG)}&filter={expensive}")
    expect(page.locator(".notice")).to_be_visible()


@pytest.mark.parametrize(
    ("size", "dark"), [(DESKTOP, False), (DESKTOP, True), (PHONE, False), (PHONE, True)]
)
def test_axe_finds_nothing_serious_in_the_main_states(
    visit: Visit, site: Site, size: tuple[int, int], dark: bool
) -> None:
    """Screenshots for inspection are in .likeness/page."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page = visit(size=size, dark=dark, touch=size == PHONE, refusals=True, motion=False)
    for name, show in STATES.items():
        page.unroute_all()
        page.goto("about:blank")
        page.goto(site.url)
        show(page, site)
        wait_for_images(page)
        page.screenshot(path=SCREENSHOTS / f"{name}-{size[0]}-{'dark' if dark else 'light'}.png")
        if size == PHONE and dark:
            continue  # colours and layout have been checked by now
        found = Axe().run(page).response["violations"]
        assert not [each for each in found if each["impact"] in ("serious", "critical")], (
            name,
            [(each["id"], each["nodes"][0]["html"]) for each in found],
        )


def test_the_screenshot_for_the_readme_is_small(visit: Visit, site: Site) -> None:
    """`make page` copies it to docs/page.png."""
    page = visit(size=(1120, 690), motion=False)
    area(page, site)
    wait_for_images(page)
    screenshot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    screenshot.quantize(256, Image.Quantize.FASTOCTREE).save(
        SCREENSHOTS / "readme.png", optimize=True
    )
    assert (SCREENSHOTS / "readme.png").stat().st_size < 200_000


@pytest.mark.parametrize("width", [320, 3840])
def test_nothing_is_wider_than_the_screen(visit: Visit, site: Site, width: int) -> None:
    page = visit(size=(width, width * 9 // 16 + 400))
    for name in ("answer", "proof", "upload", "duplicates"):
        page.goto("about:blank")
        page.goto(site.url)
        STATES[name](page, site)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


def test_reduced_motion_disables_transitions(visit: Visit) -> None:
    page = visit(motion=False)
    expect(page.locator(".strip img").first).to_have_css("transition-property", "none")


def test_the_page_is_smaller_than_90_kb_and_30_kb_compressed() -> None:
    files = [path.read_bytes() for path in PAGE.iterdir()]
    assert sum(map(len, files)) < 90_000
    assert sum(len(gzip.compress(file)) for file in files) < 30_000
