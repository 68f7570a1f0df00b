"""The page in a real Chromium: what somebody sees who types, clicks, drops pictures and goes back."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect

from cliphouse.encoders.words import COLOURS
from tests.web.server import ROWS, caption

Visit = Callable[..., Page]
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
SAFE = ROWS * 10 // 12


def hits(page: Page) -> Locator:
    return page.locator("li.cell:visible .open")


def first(page: Page) -> Locator:
    return page.locator("li.cell:not(.broken) .open img").first


def search(page: Page, text: str) -> None:
    page.get_by_role("searchbox").fill(text)
    page.keyboard.press("Enter")


def summary(page: Page) -> Locator:
    return page.locator("#summary")


def square(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (60, 40), COLOURS[colour]).save(out, "PNG")
    return out.getvalue()


def caption_of(page: Page) -> re.Pattern[str]:
    return re.compile(first(page).get_attribute("alt") or "")


def test_the_first_view_has_pictures_and_things_to_try(service: str, visit: Visit) -> None:
    page = visit(service)
    expect(summary(page)).to_contain_text(f"{ROWS} rows")
    expect(first(page)).to_be_visible()
    page.locator(".start a").first.click()
    expect(page.get_by_role("searchbox")).not_to_have_value("")
    expect(first(page)).to_have_attribute("alt", page.get_by_role("searchbox").input_value())
    assert "text=" in page.url


def test_words_are_looked_for_and_the_answer_is_explained(service: str, visit: Visit) -> None:
    page = visit(service)
    search(page, "grey flower number8")
    expect(first(page)).to_have_attribute("alt", caption(8))
    expect(summary(page)).to_contain_text(re.compile(r"First 60 pictures in .* rows read"))
    expect(page.locator("li.cell .distance").first).to_have_text("0.000")
    page.get_by_role("radio", name="Exact").check()
    expect(summary(page)).to_contain_text(f"every row compared · {ROWS} rows read")
    page.get_by_role("radio", name="Captions").check()
    page.wait_for_url("**column=text**")
    page.get_by_role("button", name="Show SQL").click()
    statement = page.locator("#statement")
    expect(statement.locator("pre")).to_contain_text(
        re.compile(r"cosineDistance\(text_embedding|text_embedding.*\[.* … 256 numbers\]", re.DOTALL)
    )
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    statement.get_by_role("button", name="Copy").click()
    expect(page.locator("#toast")).to_have_text("Statement copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert "…" not in copied
    assert copied.count(",") > 255
    statement.get_by_role("button", name="Open in SQL").click()
    expect(page.get_by_text("Not run yet.")).to_be_visible()
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#sql-summary")).to_contain_text("rows in")


def test_the_address_holds_everything_and_back_goes_back(service: str, visit: Visit) -> None:
    page = visit(f"{service}/?text=brown&licence=cc0&min_width=200&exact")
    expect(page.get_by_role("searchbox")).to_have_value("brown")
    expect(page.get_by_role("button", name="Remove the filter Licence: cc0")).to_be_visible()
    expect(page.get_by_role("radio", name="Exact")).to_be_checked()
    search(page, "orange")
    expect(first(page)).to_have_attribute("alt", re.compile("orange"))
    expect(page.get_by_role("button", name="Remove the filter Width from: 200")).to_be_visible()
    page.get_by_role("link", name="Status").click()
    expect(page.get_by_role("heading", name="Indexes")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("searchbox")).to_have_value("orange")
    page.go_back()
    expect(page.get_by_role("searchbox")).to_have_value("brown")
    expect(first(page)).to_have_attribute("alt", re.compile("brown"))
    page.go_forward()
    expect(first(page)).to_have_attribute("alt", re.compile("orange"))
    page.reload()
    expect(first(page)).to_have_attribute("alt", re.compile("orange"))


def test_the_list_goes_on_while_one_scrolls_and_is_kept_when_one_comes_back(service: str, visit: Visit) -> None:
    page = visit(f"{service}/?text=yellow&exact")
    expect(summary(page)).to_contain_text("First 60")
    page.mouse.move(600, 600)
    for _ in range(30):
        page.mouse.wheel(0, 2500)
        if f"{SAFE} pictures" in (summary(page).text_content() or ""):
            break
        page.wait_for_timeout(50)
    expect(summary(page)).to_contain_text(f"{SAFE} pictures")
    assert page.locator("li.cell").count() == SAFE
    assert len(set(page.locator("li.cell").evaluate_all("all => all.map(one => one.dataset.id)"))) == SAFE
    hits(page).last.focus()
    assert page.evaluate("scrollY") > 500
    page.keyboard.press("m")
    page.wait_for_url("**id=**")
    expect(summary(page)).to_contain_text("First 60")
    page.go_back()
    expect(page.locator("li.cell")).to_have_count(SAFE)
    expect(hits(page).last).to_be_in_viewport()
    page.get_by_role("link", name="SQL").evaluate("link => link.click()")  # a mouse would have scrolled up to it
    expect(page.get_by_role("heading", name="SQL")).to_be_visible()
    page.go_back()
    expect(hits(page).last).to_be_in_viewport()


@pytest.mark.parametrize("way", ["chosen", "dropped", "pasted"])
def test_a_picture_is_looked_for(service: str, visit: Visit, way: str) -> None:
    page = visit(service)
    expect(first(page)).to_be_visible()
    if way == "chosen":
        page.locator("#file").set_input_files({"name": "mine.png", "mimeType": "image/png", "buffer": square("purple")})
    else:
        page.evaluate(
            """([data, way]) => {
                const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
                const moved = new DataTransfer();
                moved.items.add(new File([bytes], "mine.png", { type: "image/png" }));
                document.body.dispatchEvent(way === "pasted"
                    ? new ClipboardEvent("paste", { clipboardData: moved, bubbles: true, cancelable: true })
                    : new DragEvent("drop", { dataTransfer: moved, bubbles: true, cancelable: true }));
            }""",
            [base64.b64encode(square("purple")).decode(), way],
        )
    expect(page.locator(".target")).to_contain_text("mine.png")
    expect(first(page)).to_have_attribute("alt", re.compile("purple"))
    if way == "chosen":
        # The address has the vector: it leads another profile to the same rows.
        found = page.locator("li.cell").evaluate_all("all => all.slice(0, 9).map(one => one.dataset.id)")
        other = visit(page.url)
        expect(other.locator(".target")).to_contain_text("your picture")
        expect(first(other)).to_have_attribute("alt", re.compile("purple"))
        assert other.locator("li.cell").evaluate_all("all => all.slice(0, 9).map(one => one.dataset.id)") == found
        page.get_by_role("button", name="Stop searching by").click()
        expect(page.locator(".target")).to_be_hidden()


def test_what_is_no_picture_is_refused_kindly(service: str, visit: Visit) -> None:
    page = visit(service)
    page.locator("#file").set_input_files({"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"})
    expect(page.get_by_role("alert")).to_contain_text("That cannot be asked")


def test_more_like_this_by_picture_and_by_caption(service: str, visit: Visit) -> None:
    page = visit(f"{service}/?text=pink+flower")
    name = first(page).get_attribute("alt") or ""
    page.locator("li.cell").first.hover()
    page.get_by_role("button", name=f"More like this: {name}").click()
    page.wait_for_url("**id=**")
    expect(page.locator(".target")).to_contain_text(f"like “{name}”")
    expect(first(page)).to_have_attribute("alt", name)
    hits(page).nth(1).click()
    dialog = page.get_by_role("dialog")
    title = dialog.get_by_role("heading").inner_text()
    dialog.get_by_role("button", name="Like this caption").click()
    page.wait_for_url("**by=text**")
    expect(page.locator(".target")).to_contain_text(f"caption “{title}”")
    expect(dialog).to_be_hidden()


def test_one_row_in_full(service: str, visit: Visit) -> None:
    page = visit(f"{service}/?text=red+car")
    hits(page).first.click()
    dialog = page.get_by_role("dialog")
    for name in ("similarity", "license", "original_width", "url", "distance"):
        expect(dialog.locator("dt", has_text=re.compile(f"^{name}$"))).to_be_visible()
    link = dialog.get_by_role("link", name="Open at its source")
    assert link.get_attribute("rel") == "noopener noreferrer"
    title = dialog.get_by_role("heading").inner_text()
    dialog.get_by_role("button", name="Next").click()
    expect(dialog.get_by_role("heading")).not_to_have_text(title)
    page.keyboard.press("ArrowLeft")
    expect(dialog.get_by_role("heading")).to_have_text(title)
    address = page.url
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert "item=" not in page.url
    expect(hits(page).first).to_be_focused()
    page.goto(address)
    expect(page.get_by_role("dialog").get_by_role("heading")).to_have_text(title)


def test_filters_have_counts_and_keep_rows(service: str, visit: Visit) -> None:
    page = visit(f"{service}/?text=house")
    expect(page.get_by_role("searchbox")).to_have_value("house")
    page.get_by_role("button", name="Filters", exact=True).click()
    panel = page.get_by_role("complementary", name="Filters")
    licence = panel.get_by_role("group", name="Licence")
    expect(licence.locator("label", has_text="cc0")).to_contain_text("45")
    licence.get_by_text("cc0").click()
    expect(summary(page)).to_contain_text("45 pictures")
    expect(licence.locator("label", has_text="cc-by")).to_contain_text("60")  # counts beside what is chosen
    domain = panel.get_by_role("group", name="Domain")
    domain.get_by_text("b.pictures.example").click()
    page.wait_for_url("**domain=b.pictures.example**")
    panel.get_by_label("Least size").select_option("256")
    page.wait_for_url("**min_width=256**")
    panel.get_by_label("Caption contains").fill("NUMBER1")
    panel.get_by_label("Caption contains").press("Enter")
    page.wait_for_url("**caption_contains=NUMBER1**")
    panel.get_by_role("group", name="Similarity").get_by_label("from").fill("0.25")
    panel.get_by_role("group", name="Similarity").get_by_label("from").press("Enter")
    page.wait_for_url("**min_similarity=0.25**")
    page.get_by_label("SQL condition").fill("id % 5 != 2")
    page.get_by_label("SQL condition").press("Enter")
    page.wait_for_url("**where=**")
    wanted = {
        row
        for row in range(ROWS)
        if row % 3 == 1
        and row % 2 == 1
        and row % 12 < 10
        and 300 * (row % 5) >= 256
        and row % 5 != 2
        and "number1" in caption(row)
        and row % 4 >= 1
    }
    assert wanted
    expect(summary(page)).to_contain_text(f"{len(wanted)} picture")
    assert set(map(int, page.locator("li.cell").evaluate_all("all => all.map(one => one.dataset.id)"))) == wanted
    page.get_by_role("button", name="Remove the filter SQL").click()
    page.wait_for_url(lambda url: "where" not in url)
    page.get_by_role("button", name="Reset").click()
    expect(summary(page)).to_contain_text("First 60")


def test_unsafe_pictures_come_only_when_asked_for(service: str, visit: Visit) -> None:
    page = visit(f"{service}/?where=id+%3C+12")
    expect(page.locator("li.cell")).to_have_count(10)
    page.get_by_role("button", name="Filters").click()
    panel = page.get_by_role("complementary", name="Filters")
    expect(panel.get_by_role("checkbox", name=re.compile("^Safe"))).to_be_checked()
    panel.get_by_text("Not safe for work").click()
    expect(page.locator("li.cell")).to_have_count(11)
    panel.get_by_text("All, unsafe ones too").click()
    expect(page.locator("li.cell")).to_have_count(12)
    page.go_back()
    expect(page.locator("li.cell")).to_have_count(11)


def test_nothing_found_offers_to_loosen(service: str, visit: Visit) -> None:
    page = visit(f"{service}/?text=car&caption_contains=elephant")
    expect(page.get_by_role("heading", name="Nothing passes these filters")).to_be_visible()
    page.get_by_role("button", name="Remove all filters").click()
    expect(first(page)).to_be_visible()
    assert "caption_contains" not in page.url


def test_pictures_that_are_gone_collapse_and_are_counted(service: str, visit: Visit) -> None:
    gone = [row for row in range(ROWS) if row % 10 == 4 and row % 3 and row % 12 < 10]
    page = visit(f"{service}/?text=car&where=id+IN+({','.join(map(str, [*gone[:3], 0, 3]))})")
    expect(page.locator(".gone")).to_contain_text("3 pictures could not be loaded")
    expect(hits(page)).to_have_count(2)
    page.get_by_role("button", name="Show them").click()
    expect(hits(page)).to_have_count(5)
    expect(page.locator("li.cell.broken .words").first).to_be_visible()
    page.get_by_role("button", name="Hide them").click()
    expect(hits(page)).to_have_count(2)


def test_the_service_shows_files_of_this_machine(service: str, visit: Visit) -> None:
    page = visit(f"{service}/?id=0&where=id+%3D+0")
    expect(first(page)).to_have_attribute("src", re.compile(r"/api/v1/pictures/0\?size=\d+"))
    expect(page.locator("li.cell.loaded")).to_have_count(1)


def test_rows_are_selected_and_saved(service: str, visit: Visit) -> None:
    page = visit(f"{service}/?text=blue&where=id+%25+10+!=+4")
    cells = page.locator("li.cell:visible")
    expect(page.locator("li.cell")).to_have_count(60)
    cells.nth(0).hover()
    cells.nth(0).locator("label.pick").click()
    cells.nth(3).hover()
    cells.nth(3).locator("label.pick").click(modifiers=["Shift"])
    bar = page.get_by_role("region", name="Selected pictures")
    chosen = page.locator("li.cell.chosen").evaluate_all("all => all.map(one => Number(one.dataset.id))")
    expect(bar).to_contain_text(f"{len(chosen)} selected")
    assert len(chosen) == 4
    read: dict[str, Callable[[bytes], list[int]]] = {
        "CSV": lambda data: [int(row["id"]) for row in csv.DictReader(io.StringIO(data.decode()))],
        "JSON lines": lambda data: [json.loads(line)["id"] for line in data.splitlines()],
        "Parquet": lambda data: pq.read_table(io.BytesIO(data)).column("id").to_pylist(),
    }
    for name, ids in read.items():
        with page.expect_download() as download:
            bar.get_by_role("button", name=name).click()
        assert sorted(ids(Path(download.value.path()).read_bytes())) == sorted(chosen)
    search(page, "red")
    expect(bar).to_contain_text(f"{len(chosen)} selected")
    bar.get_by_role("button", name="Clear").click()
    expect(bar).to_be_hidden()
    page.get_by_text("Download", exact=True).click()
    page.get_by_label("Rows to download").fill("7")
    with page.expect_download() as download:
        page.get_by_role("group", name="Download the results").get_by_role("button", name="CSV").click()
    assert len(read["CSV"](Path(download.value.path()).read_bytes())) == 7


def test_everything_goes_by_the_keyboard(service: str, visit: Visit) -> None:
    page = visit(f"{service}/?text=car")
    expect(page.locator("li.cell")).to_have_count(60)
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.press("Escape")
    hits(page).first.focus()
    page.keyboard.press("ArrowRight")
    expect(hits(page).nth(1)).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(hits(page).nth(1)).to_be_focused()
    page.keyboard.press("x")
    expect(page.get_by_role("region", name="Selected pictures")).to_contain_text("1 selected")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(hits(page).nth(1)).to_be_focused()
    page.keyboard.press("m")
    page.wait_for_url("**id=**")
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    expect(page.get_by_role("complementary", name="Filters")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("complementary", name="Filters")).to_be_hidden()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    page.reload()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()


def test_sql_is_asked_and_its_mistakes_are_told(service: str, visit: Visit) -> None:
    page = visit(f"{service}/?view=sql")
    area = page.get_by_label("SQL statement")
    area.fill("SELECT NSFW, count() AS n, any(image_embedding) AS v FROM laion GROUP BY NSFW ORDER BY n DESC")
    area.press("Control+Enter")
    table = page.get_by_role("region", name="Answer")
    expect(table.locator("tbody tr").first).to_contain_text("UNLIKELY150")
    expect(table).to_contain_text("… 256 numbers]")
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON").click()
    rows = json.loads(Path(download.value.path()).read_bytes())
    assert (rows[0]["NSFW"], rows[0]["n"], len(rows[0]["v"])) == ("UNLIKELY", 150, 256)
    area.fill("SELECT nonsense FROM laion")
    area.press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("nonsense")
    area.fill("DROP TABLE laion")
    area.press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("not run")
    page.go_back()
    page.go_back()
    expect(table.locator("tbody tr").first).to_contain_text("UNLIKELY150")
    # A link shows its statement and does not run it.
    other = visit(f"{service}/?view=sql#sql=SELECT+count()+FROM+laion")
    expect(other.get_by_text("Not run yet.")).to_be_visible()
    other.get_by_role("button", name="Run").click()
    expect(other.get_by_role("region", name="Answer")).to_contain_text(str(ROWS))


def test_the_status_shows_indexes_and_what_was_measured(service: str, visit: Visit) -> None:
    page = visit(f"{service}/?view=status")
    expect(page.locator(".card", has_text="Rows")).to_contain_text(str(ROWS))
    expect(page.locator(".card", has_text="Encoder")).to_contain_text("test-words")
    expect(page.get_by_role("region", name="Indexes")).to_contain_text("hnsw")
    expect(page.get_by_role("region", name="Indexes")).to_contain_text("ready")
    marks = page.locator("circle.mark.hnsw")
    marks.first.focus()
    expect(page.locator(".tip").first).to_contain_text(re.compile(r"recall@10 [01]\.\d{3}, p50 .*ms"))
    page.get_by_text("The same as a table").click()
    assert (
        page.get_by_role("region", name="Measured points").locator("tbody tr").count() == page.locator("circle").count()
    )


def test_a_busy_service_is_asked_again(service: str, visit: Visit) -> None:
    page = visit(service)
    expect(first(page)).to_be_visible()
    answers = iter([503])

    def busy(route: Route) -> None:
        if next(answers, None):
            problem = {"type": "busy", "status": 503, "detail": "all places are taken"}
            route.fulfill(status=503, headers={"Retry-After": "1"}, json=problem)
        else:
            route.continue_()

    page.route("**/api/v1/search", busy)
    search(page, "green")
    expect(summary(page)).to_contain_text("trying again in 1 s")
    expect(first(page)).to_have_attribute("alt", re.compile("green"))


def test_mistakes_are_told_with_a_way_on(service: str, visit: Visit) -> None:
    page = visit(f"{service}/?text=car&where=nonsense+%2B")
    expect(page.get_by_role("alert")).to_contain_text("That cannot be asked")
    page.get_by_role("button", name="Remove all filters").click()
    expect(first(page)).to_be_visible()
    page.route("**/api/v1/search", lambda route: route.abort())
    search(page, "bird")
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    page.unroute("**/api/v1/search")
    page.get_by_role("button", name="Try again").click()
    expect(first(page)).to_have_attribute("alt", re.compile("bird"))
    page.goto(f"{service}/?item=99999999")
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("Not there")


def test_a_collection_without_rows_says_how_to_fill_it(service: str, visit: Visit) -> None:
    page = visit("about:blank")

    def emptied(route: Route) -> None:
        status = route.fetch().json()
        status["collection"]["rows"] = 0
        route.fulfill(json=status)

    page.route("**/api/v1/status", emptied)
    page.goto(service)
    expect(page.get_by_role("heading", name="No pictures yet")).to_be_visible()
    expect(page.get_by_text("cliphouse add")).to_be_visible()


def test_a_key_is_asked_for_and_a_missing_encoder_named(locked: str, visit: Visit) -> None:
    page = visit(locked)
    dialog = page.get_by_role("dialog", name="This service wants a key")
    dialog.get_by_label("API key").fill("wrong")
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog.get_by_label("API key")).to_have_value("")
    dialog.get_by_label("API key").fill("sesame")
    dialog.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("Words and pictures cannot be looked for yet.")).to_be_visible()
    expect(page.locator(".notice")).to_contain_text("cliphouse encoder fetch")
    search(page, "car")
    expect(page.get_by_role("alert")).to_contain_text("cliphouse encoder fetch")
    search(page, "id:3")
    expect(summary(page)).to_contain_text("8 pictures")
    page.reload()  # the tab keeps the key
    expect(summary(page)).to_contain_text("8 pictures")


def test_the_theme_is_chosen_and_remembered(service: str, visit: Visit) -> None:
    page = visit(service, color_scheme="light")
    shade = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(shade)
    button = page.get_by_role("button", name="Theme")
    button.click()
    button.click()
    dark = page.evaluate(shade)
    assert dark != light
    page.reload()
    assert page.evaluate(shade) == dark


def test_a_phone_loads_little_and_shows_no_sideways_scroll(service: str, visit: Visit) -> None:
    page = visit("about:blank", **PHONE)
    sizes: list[int] = []
    page.on(
        "requestfinished",
        lambda request: (
            sizes.append(request.sizes()["responseBodySize"])
            if "/static/" in request.url or request.url == f"{service}/"
            else None
        ),
    )
    page.goto(service)
    expect(first(page)).to_be_visible()
    assert len(sizes) > 10
    assert sum(sizes) < 100_000
    for view in ("", "?text=car", "?view=sql", "?view=status"):
        page.goto(f"{service}/{view}")
        expect(page.get_by_role("heading", level=1)).to_be_attached()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
    page.goto(f"{service}/?text=car")
    page.get_by_role("button", name="Filters").click()
    expect(page.get_by_role("complementary", name="Filters")).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(service: str, visit: Visit, scheme: str) -> None:
    page = visit(service, color_scheme=scheme)
    page.emulate_media(reduced_motion="reduce")
    axe = Axe()

    def check(view: str) -> None:
        found = [one for one in axe.run(page).response["violations"] if one["impact"] in ("serious", "critical")]
        assert [(view, one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found] == []

    expect(first(page)).to_be_visible()
    check("start")
    search(page, "car")
    page.get_by_role("button", name="Filters").click()
    expect(page.get_by_role("group", name="Licence")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Filters").click()
    page.get_by_role("button", name="Show SQL").click()
    hits(page).first.focus()
    page.keyboard.press("x")
    check("search")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").locator("dt", has_text="similarity")).to_be_visible()
    check("detail")
    page.goto(f"{service}/?view=sql")
    page.get_by_role("button", name="By tag").click()
    expect(page.get_by_role("region", name="Answer")).to_be_visible()
    check("sql")
    page.goto(f"{service}/?view=status")
    expect(page.locator("circle").first).to_be_visible()
    check("status")
    page.goto(f"{service}/?text=car&caption_contains=elephant")
    expect(page.get_by_role("button", name="Remove all filters")).to_be_visible()
    check("nothing")
