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

from tests.page.site import (
    Site,
    Visit,
    answered,
    captioned,
    drag,
    drop,
    item,
    names,
    paste,
    seen,
    side_by_side,
)

pytestmark = pytest.mark.timeout(600)  # the first one may have to install a browser

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "functions" / "search" / "page"
SHOTS = ROOT / ".likeness" / "page"
PHONE, DESK = (390, 844), (1440, 900)
CUP, MUG = "coffee.jpg", "products/mug-blue.jpg"
REFUSED = {"message": "Forbidden"}


def problem(slug: str, status: int) -> dict[str, Any]:
    return {"type": f"urn:likeness:problem:{slug}", "status": status, "detail": "said by a test"}


def searches(page: Page) -> list[Request]:
    """Every search that this tab sends from now on."""
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
    """The picture and the other fields of a form that was sent; Chromium tells nobody else."""
    picture, fields = page.evaluate(
        """async (n) => {
            const {image, ...fields} = Object.fromEntries(window.forms.at(n));
            const bytes = new Uint8Array(await image.arrayBuffer());
            return [btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")), fields];
        }""",
        n,
    )
    return base64.b64decode(picture), fields


def asked(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request.post_data or "")
    return body


def refuse(status: int, body: dict[str, Any], **headers: str) -> Callable[[Route], None]:
    return lambda route: route.fulfill(status=status, json=body, headers=headers)


# --- query ---


def test_a_dropped_picture_finds_its_like_and_a_box_on_it_something_else(visit: Visit) -> None:
    page = visit(prepare=lambda page: page.add_init_script(KEEP_FORMS))
    drop(page, side_by_side("photos/coffee.jpg", "photos/chelsea.jpg"))
    answered(page)
    stage = page.locator(".stage")
    drag(page, stage, (0.02, 0.02, 0.5, 0.98))
    expect(page.locator(".card .open").first).to_have_attribute("aria-label", re.compile("coffee"))
    page.get_by_role("button", name="Whole picture").click()
    answered(page)
    drag(page, stage, (0.52, 0.02, 0.98, 0.98))
    expect(page.locator(".card .open").first).to_have_attribute("aria-label", re.compile("chelsea"))
    box = json.loads(form(page, -1)[1]["box"])
    assert box == pytest.approx([0.52, 0.02, 0.98, 0.98], abs=0.02)
    picture = Image.open(io.BytesIO(form(page, 0)[0]))
    assert picture.format == "JPEG" and max(picture.size) == 1600
    assert picture.width > picture.height, "turned upright"
    assert not picture.getexif() and "exif" not in picture.info


def test_two_fingers_mark_a_part(visit: Visit) -> None:
    page = visit(size=PHONE, touch=True)
    drop(page, item(MUG).data)
    answered(page)
    edge = page.locator(".stage").bounding_box()
    assert edge
    touch = page.context.new_cdp_session(page)

    def touched(kind: str, *shares: float) -> None:
        points = [
            {"x": edge["x"] + edge["width"] * at, "y": edge["y"] + edge["height"] * at, "id": n}
            for n, at in enumerate(shares)
        ]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touched("touchStart", 0.45)
    touched("touchStart", 0.45, 0.55)
    touched("touchMove", 0.2, 0.8)
    touched("touchEnd")
    page.wait_for_url(re.compile("box="))
    said = re.search("box=([^&]*)", page.url)
    assert said
    box = [float(side) for side in said[1].replace("%2C", ",").split(",")]
    assert box == pytest.approx([0.2, 0.2, 0.8, 0.8], abs=0.05)


def test_things_that_were_found_are_dots_to_tap(visit: Visit) -> None:
    page = visit(touch=True)
    drop(page, side_by_side("photos/coffee.jpg", "photos/chelsea.jpg"))
    answered(page)
    page.get_by_role("button", name="Find objects").click()
    page.locator(".dot").first.tap()
    page.wait_for_url(re.compile("box="))
    answered(page)
    assert page.locator(".box").is_visible()


def test_what_is_dragged_over_the_page_is_invited(visit: Visit) -> None:
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


def test_a_pasted_picture_is_searched(visit: Visit) -> None:
    page = visit()
    image = io.BytesIO()
    item(MUG).image.save(image, "PNG")
    paste(page, image.getvalue())
    answered(page)
    assert names(page, 1) == ["mug-blue.jpg"]


def test_a_phone_offers_its_camera(visit: Visit) -> None:
    camera = visit(size=PHONE, touch=True).locator("input[capture=environment]")
    expect(camera).to_have_count(1)


def test_words_can_be_asked_where_the_model_knows_any(visit: Visit) -> None:
    def with_words(page: Page) -> None:
        def answer(route: Route) -> None:
            config = route.fetch().json()
            route.fulfill(json={**config, "text": True})

        page.route("**/v1/config", answer)

    page = visit(prepare=with_words, refusals=True)
    sent = searches(page)
    page.get_by_label("Search with words").fill("a blue mug")
    page.keyboard.press("Enter")
    expect(page.locator(".notice")).to_contain_text("no text encoder")  # the bundled model has none
    assert asked(sent[0])["text"] == "a blue mug"


def test_more_and_less_like_this_are_collected(visit: Visit, site: Site) -> None:
    page = visit(f"#id={site.id(MUG)}")
    sent = searches(page)
    answered(page)
    first, second = names(page, 2)
    page.locator(".answer .card").first.hover()
    page.get_by_role("button", name=f"More like {first}").click()
    answered(page)
    page.locator(".answer .card", has=page.get_by_label(f"{second}:")).hover()
    page.get_by_role("button", name=f"Less like {second}").click()
    answered(page)
    fields = asked(sent[-1])
    assert fields["positive"][0] == site.id(MUG) and len(fields["positive"]) == 2
    assert len(fields["negative"]) == 1
    expect(page.get_by_role("button", name="like: remove")).to_have_count(3)
    assert {first, second, "mug-blue.jpg"}.isdisjoint(names(page, 24))


# --- answer ---


def test_filters_and_switches_narrow_the_answer_without_sending_the_picture_again(
    visit: Visit,
) -> None:
    page = visit()
    sent = searches(page)
    drop(page, captioned(MUG))
    answered(page)
    page.get_by_role("checkbox", name="mug 5").check()
    expect(page.locator(".answer .card")).to_have_count(5)
    assert all(name.startswith("mug") for name in names(page))
    page.get_by_label("price from").fill("100")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("gte"))
    answered(page)
    dear = page.locator(".answer .card").count()
    assert 0 < dear < 5
    page.go_back()
    expect(page.locator(".answer .card")).to_have_count(5)
    page.get_by_role("checkbox", name="mug 5").uncheck()
    page.get_by_label("One result per").select_option("category")
    page.wait_for_url(re.compile("group_by"))
    answered(page)
    kinds = [name.partition("-")[0] for name in names(page, 9) if "-" in name]
    assert len(kinds) == len(set(kinds)) > 3
    page.get_by_role("switch", name="Diverse results").check()
    page.get_by_role("radio", name="Off").check()
    page.wait_for_url(re.compile("diversity=0.5&rerank=none"))
    answered(page)
    assert "multipart" in sent[0].headers["content-type"]
    assert all(asked(request)["query_id"] for request in sent[1:])


def test_the_grid_goes_on_as_it_is_scrolled(visit: Visit, site: Site) -> None:
    page = visit(f"#id={site.id(MUG)}&rerank=none")
    answered(page)
    page.mouse.move(900, 500)
    for _ in range(12):
        page.mouse.wheel(0, 2000)
        page.wait_for_timeout(50)
    expect(page.locator(".below")).to_contain_text("End of results")
    shown = names(page, 100)
    assert len(shown) == 47  # of 48; it is not its own neighbour


def test_a_copied_link_finds_the_same_without_the_picture(visit: Visit) -> None:
    page = visit()
    drop(page, captioned(MUG))
    answered(page)
    page.get_by_role("checkbox", name="blue").check()
    page.wait_for_url(re.compile("filter"))
    answered(page)
    expect(page.locator(".answer .card").first).to_be_visible()
    found = names(page, 9)
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator(".answer")).to_contain_text("Copied, without")
    copied = page.evaluate("navigator.clipboard.readText()")
    other = visit(copied.partition("/#")[2] and "#" + copied.partition("/#")[2])
    answered(other)
    assert names(other, 9) == found
    other.reload()
    answered(other)
    assert names(other, 9) == found
    page.reload()  # the history's entry has the query_id
    answered(page)
    assert names(page, 9) == found


def test_any_host_that_hands_the_api_on_can_serve_the_plain_files(visit: Visit, site: Site) -> None:
    def serve(route: Route) -> None:
        path = route.request.url.partition("/elsewhere/")[2] or "index.html"
        if path.startswith("v1/"):
            route.fulfill(response=route.fetch(url=f"{site.url}/{path}"))
        else:
            route.fulfill(path=PAGE / path)

    page = visit("elsewhere/", prepare=lambda page: page.route("**/elsewhere/**", serve))
    drop(page, captioned(MUG))
    answered(page)
    seen(page)
    assert names(page, 1) == ["mug-blue.jpg"]
    expect(page.get_by_role("link", name="Search", exact=True)).to_have_attribute(
        "aria-current", "page"
    )


def test_a_key_of_the_bucket_is_a_link_too(visit: Visit, site: Site) -> None:
    page = visit(f"#key={MUG}")
    answered(page)
    assert site.id(MUG) in page.url
    expect(page.locator(".stage img.loaded")).to_be_visible()


@pytest.mark.parametrize("chosen", ["#id={other}", "#", "#upload"])
def test_a_key_that_is_looked_up_late_takes_nobody_back(
    visit: Visit, site: Site, chosen: str
) -> None:
    page, chosen = visit(), chosen.format(other=site.id("photos/coffee.jpg"))
    held = answered_late(page, "**/v1/status?*", lambda: page.goto(f"{site.url}/#key={MUG}"))
    page.goto(f"{site.url}/{chosen}")
    release(page, held)
    assert page.url.endswith(chosen)


def test_things_of_another_picture_are_not_offered(visit: Visit, site: Site) -> None:
    page = visit(f"#id={site.id('photos/coffee.jpg')}")
    answered(page)
    find = page.get_by_role("button", name="Find objects")
    held = answered_late(page, "**/v1/search", find.click)
    page.goto(f"{site.url}/#id={site.id(MUG)}")
    answered(page)
    release(page, held)
    assert page.locator(".dot").count() == 0
    assert "objects found" not in page.locator(".answer").inner_text()


def answered_late(page: Page, address: str, ask: Callable[[], object]) -> Route:
    """Ask something, of which the first answer is held back."""
    held: list[Route] = []
    page.route(address, lambda route: held.append(route), times=1)  # noqa: PLW0108 - as above
    with page.expect_request(address):
        ask()
    while not held:  # the request is told of before its route
        page.wait_for_timeout(10)
    return held[0]


def release(page: Page, held: Route) -> None:
    held.continue_()
    page.wait_for_timeout(500)


# --- proof ---


def test_the_proof_joins_what_matches_and_lays_one_over_the_other(visit: Visit, site: Site) -> None:
    page = visit()
    sent: list[Request] = []
    page.on("request", lambda each: sent.append(each) if "feedback" in each.url else None)
    drop(page, captioned("photos/coffee.jpg"))
    answered(page)
    first = page.locator(".card .open").first
    first.click()
    proof = page.get_by_role("dialog")
    expect(proof.locator("line")).to_have_count(4)
    expect(proof.locator(".pair img.loaded")).to_have_count(1)
    # drawn anew once the pictures have their sizes
    page.wait_for_function(
        """() => [...document.querySelectorAll("dialog rect")].map((each) => each.getBBox().width)
            .every((width, n, all) => all.length === 2 && width > 100 && width < 700)"""
    )
    expect(proof).to_contain_text(re.compile("Query area found in the result.*[89][0-9]|100"))
    for stage in ("Overall similarity", "Matching details", "Final score"):
        expect(proof).to_contain_text(stage)
    proof.get_by_label("Overlay").check()
    over = proof.locator(".laid img").last
    for value, opacity in (("100", "1"), ("0", "0")):
        proof.get_by_role("slider").fill(value)
        expect(over).to_have_css("opacity", opacity)
    below, above = (proof.locator(".laid img").nth(n).bounding_box() for n in (0, 1))
    assert below and above
    for side in ("x", "y", "width", "height"):
        assert above[side] == pytest.approx(below[side], abs=0.1 * below["width"])
    with page.expect_response("**/v1/feedback") as told:
        proof.get_by_role("button", name="Yes").click()
    assert told.value.status == 200
    assert asked(sent[0])["kind"] == "relevant" and asked(sent[0])["query_id"]
    page.keyboard.press("Escape")
    expect(proof).to_be_hidden()
    expect(first).to_be_focused()


# --- upload, delete, duplicates ---


def test_an_upload_becomes_searchable_is_found_and_once_deleted_gone(
    visit: Visit, site: Site, tmp_path: Path
) -> None:
    picture = item("photos/rocket.jpg").image.rotate(90, expand=True)
    picture.save(tmp_path / "turned.jpg")
    (tmp_path / "letter.jpg").write_bytes(b"Dear Sir or Madam")
    (tmp_path / "notes.txt").write_text("no picture")
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
    answered(other)
    assert names(other, 1) == ["turned.jpg"]
    expect(other.locator(".answer .card").first).to_contain_text("Fjell")
    seen(page)
    seen(other)
    uploaded = site.client.search_image((tmp_path / "turned.jpg").read_bytes())["results"][0]["key"]
    delete = rows["turned"].get_by_role("button", name="Delete")
    delete.click()
    rows["turned"].get_by_role("button", name="Really delete?").click()
    expect(rows["turned"]).to_contain_text("deleted")
    site.wait_for([uploaded], "gone")
    other.reload()
    answered(other)
    expect(other.get_by_label("turned.jpg:")).to_have_count(0)


def test_what_is_decided_about_duplicates_is_remembered(visit: Visit) -> None:
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


# --- when something is in the way ---


def test_the_key_is_asked_for_once_and_kept(visit: Visit) -> None:
    def lock(page: Page) -> None:
        def answer(route: Route) -> None:
            right = route.request.headers.get("x-api-key") == "right"
            route.fallback() if right else route.fulfill(status=403, json=REFUSED)

        page.route("**/v1/**", answer)

    page = visit(prepare=lock, refusals=True)
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
    ("status", "body", "said"),
    [
        (401, REFUSED, "An API key is needed"),
        (404, problem("not-indexed", 404), "Search with another picture"),
        (409, problem("model-mismatch", 409), "Choose the picture again"),
        (413, problem("image-too-large", 413), "Choose a smaller one"),
        (422, problem("no-detail", 422), "Select another area"),
        (429, {"message": "Too Many Requests"}, "Too many requests"),
        (500, problem("internal", 500), "Something went wrong"),
    ],
)
def test_every_refusal_says_what_to_do(
    visit: Visit, site: Site, status: int, body: dict[str, Any], said: str
) -> None:
    page = visit(refusals=True)
    page.route("**/v1/search", refuse(status, body))
    page.goto(f"{site.url}/#id={site.id(MUG)}")
    if status == 401:
        page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".notice")).to_contain_text(said)
    page.unroute("**/v1/search")
    page.get_by_role("button", name=re.compile("^Try")).click()
    expect(page.locator(".card .open").first).to_be_visible()


def test_an_index_that_does_not_answer_is_asked_again_when_it_says(
    visit: Visit, site: Site
) -> None:
    page = visit(refusals=True)
    down = refuse(503, problem("index-unavailable", 503), **{"Retry-After": "1"})
    page.route("**/v1/search", down, times=1)
    page.goto(f"{site.url}/#id={site.id(MUG)}")
    expect(page.locator(".notice")).to_contain_text("automatically in 1 s")
    expect(page.locator(".card .open").first).to_be_visible()


def test_offline_it_waits_for_the_connection(visit: Visit, site: Site) -> None:
    page = visit(refusals=True)
    expect(page.locator(".strip a").first).to_be_visible()
    page.context.set_offline(True)
    page.locator(".strip a").first.click()
    expect(page.locator(".notice")).to_contain_text("You are offline")
    page.context.set_offline(False)
    expect(page.locator(".card .open").first).to_be_visible()


def test_a_slow_answer_is_spoken_of(visit: Visit, site: Site) -> None:
    page = visit()
    held: list[Route] = []
    page.route("**/v1/search", lambda route: held.append(route))  # noqa: PLW0108 - it needs a name
    page.clock.install()
    page.goto(f"{site.url}/#id={site.id(MUG)}")
    expect(page.get_by_text("Searching …")).to_be_visible()
    page.wait_for_timeout(200)
    page.clock.fast_forward(4000)
    expect(page.locator(".below")).to_contain_text("Still searching")
    held[0].continue_()
    expect(page.locator(".card .open").first).to_be_visible()


def test_without_results_it_says_what_to_take_away(visit: Visit, site: Site) -> None:
    dear = json.dumps({"must": [{"key": "price", "range": {"gte": 1e6}}]})
    page = visit(f"#id={site.id(MUG)}&filter={dear}")
    expect(page.locator(".notice")).to_contain_text("No matches")
    page.get_by_role("button", name="Remove all").click()
    expect(page.locator(".card .open").first).to_be_visible()


def test_an_empty_index_leads_to_the_upload(visit: Visit) -> None:
    nothing = {"images": [], "next_cursor": None}
    page = visit(prepare=lambda page: page.route("**/v1/images?*", refuse(200, nothing)))
    page.get_by_role("link", name="Upload pictures").click()
    expect(page.get_by_role("heading", name="Upload")).to_be_focused()


def test_what_is_no_picture_is_not_sent(visit: Visit) -> None:
    page = visit()
    sent = searches(page)
    drop(page, b"Dear Sir or Madam", "letter.jpg")
    expect(page.locator(".notice")).to_contain_text("cannot open letter.jpg")
    assert not sent


def test_a_link_to_a_picture_that_is_not_here_asks_for_it(visit: Visit) -> None:
    page = visit("#picture=elsewhere")
    expect(page.locator(".notice")).to_contain_text("Choose it again")


# --- for everybody ---


def test_the_keyboard_alone_searches_marks_a_part_and_reads_the_proof(
    visit: Visit, site: Site
) -> None:
    page = visit()
    expect(page.locator(".strip img.loaded").first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    for _ in range(6):  # brand, three views, choose a picture, the first picture
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    answered(page)
    page.get_by_role("button", name="Select an area").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".box")).to_be_focused()
    before = page.url
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    page.wait_for_function("(before) => location.href !== before", arg=before)
    assert "box=0.23%2C0.25%2C0.73%2C0.77" in page.url
    answered(page)
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
    answered(page)


@state
def part(page: Page, site: Site) -> None:
    drop(page, side_by_side("photos/coffee.jpg", "photos/chelsea.jpg"))
    answered(page)
    page.get_by_role("button", name="Find objects").click()
    expect(page.locator(".dot").first).to_be_visible()
    drag(page, page.locator(".stage"), (0.53, 0.04, 0.97, 0.96))
    answered(page)


@state
def proof(page: Page, site: Site) -> None:
    drop(page, captioned("photos/coffee.jpg"))
    answered(page)
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
    answered(page)


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
def nothing(page: Page, site: Site) -> None:
    dear = json.dumps({"must": [{"key": "price", "range": {"gte": 1e6}}]})
    page.goto(f"{site.url}/#id={site.id(MUG)}&filter={dear}")
    expect(page.locator(".notice")).to_be_visible()


@pytest.mark.parametrize(
    ("size", "dark"), [(DESK, False), (DESK, True), (PHONE, False), (PHONE, True)]
)
def test_the_main_states_are_pictured_and_axe_finds_nothing_serious(
    visit: Visit, site: Site, size: tuple[int, int], dark: bool
) -> None:
    """The pictures, to be looked at: .likeness/page."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page = visit(size=size, dark=dark, touch=size == PHONE, refusals=True, motion=False)
    for name, show in STATES.items():
        page.unroute_all()
        page.goto("about:blank")
        page.goto(site.url)
        show(page, site)
        seen(page)
        page.screenshot(path=SHOTS / f"{name}-{size[0]}-{'dark' if dark else 'light'}.png")
        if size == PHONE and dark:
            continue  # colours and shape are checked by now
        found = Axe().run(page).response["violations"]
        assert not [each for each in found if each["impact"] in ("serious", "critical")], (
            name,
            [(each["id"], each["nodes"][0]["html"]) for each in found],
        )


def test_the_picture_for_the_readme_is_small(visit: Visit, site: Site) -> None:
    """`make page` copies it to docs/page.png."""
    page = visit(size=(1120, 690), motion=False)
    part(page, site)
    seen(page)
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    SHOTS.mkdir(parents=True, exist_ok=True)
    shot.quantize(256, Image.Quantize.FASTOCTREE).save(SHOTS / "readme.png", optimize=True)
    assert (SHOTS / "readme.png").stat().st_size < 200_000


@pytest.mark.parametrize("width", [320, 3840])
def test_nothing_is_wider_than_the_screen(visit: Visit, site: Site, width: int) -> None:
    page = visit(size=(width, width * 9 // 16 + 400))
    for name in ("answer", "proof", "upload", "duplicates"):
        page.goto("about:blank")
        page.goto(site.url)
        STATES[name](page, site)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


def test_less_motion_is_none(visit: Visit) -> None:
    page = visit(motion=False)
    expect(page.locator(".strip img").first).to_have_css("transition-property", "none")


def test_the_page_weighs_less_than_90_kb_and_30_kb_compressed() -> None:
    files = [path.read_bytes() for path in PAGE.iterdir()]
    assert sum(map(len, files)) < 90_000
    assert sum(len(gzip.compress(file)) for file in files) < 30_000
