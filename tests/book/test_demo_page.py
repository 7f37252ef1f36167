"""The page "In your browser" as readers have it: from a file, by pointer and by keyboard, without scripts, printed."""

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from axe_playwright_python.base import AXE_SCRIPT
from imcl_book import site
from imcl_book.sphinx.demo import FILES, PAGE, SCRIPTS, fact
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from imcl_core.errors import ImclError

ROOT = Path(__file__).parents[2]
HEAVIEST = 2_000_000  # bytes of all the page's files
MOST = 40  # million multiply-adds for an answer: within 200 ms on a phone that is a sixth as fast as a desk
PANELS = ("choose", "output", "layers", "similarity", "kernel", "training")
VIEWS = {"phone": (390, 844, "dark"), "desk": (1280, 900, "light")}
needs_browser = pytest.mark.skipif(site.chromium() is None, reason=f"{site.NO_BROWSER} The page was not tried.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The page and the first page, built as in the book."""
    target = tmp_path_factory.mktemp("book")
    toc = {"format": "jb-book", "root": "index", "chapters": [{"file": PAGE}]}
    (target / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf-8")
    program = Path(sys.executable).with_name("jupyter-book")
    command = [program, "build", ".", "--all", "--path-output", target, "--toc", target / "_toc.yml"]
    done = subprocess.run([*command, "--config", "_config.yml"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return target / "_build" / "html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=site.chromium(), args=site.FLAGS)
        yield opened
        opened.close()


@dataclass
class Visit:
    """The page opened from a file, and what Chromium said of it."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def panel(self, name: str):
        return self.page.locator(f"[data-demo={name}]")

    def told(self, name: str) -> list[str]:
        """What the pictures of a panel say."""
        return self.page.eval_on_selector_all(
            f"[data-demo={name}] [role=img]", "all => all.map(each => each.getAttribute('aria-label'))"
        )


def opened(browser: Browser, folder: Path, view: str = "desk") -> Visit:
    width, height, theme = VIEWS[view]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
    visit = Visit(context.new_page())
    page = visit.page
    page.on("console", lambda said: said.type in ("error", "warning") and visit.complaints.append(said.text))
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("request", lambda request: visit.asked.append(request.url))
    page.goto((folder / f"{PAGE}.html").as_uri())
    page.wait_for_selector("html.demo-on")
    return visit


@pytest.fixture
def visit(browser, folder) -> Iterator[Visit]:
    made = opened(browser, folder)
    yield made
    made.page.context.close()
    assert not made.complaints
    assert not [url for url in made.asked if not url.startswith(("file:", "blob:", "data:"))]


# --- what there is to load --------------------------------------------------------------------------------------------


def test_the_scripts_are_loaded_on_their_page_alone_and_the_large_one_when_asked_for(folder):
    page, first = ((folder / name).read_text(encoding="utf-8") for name in (f"{PAGE}.html", "index.html"))
    assert re.findall(r'src="[./]*_static/demo/(\w+\.js)', page) == list(SCRIPTS)
    assert "demo.css" in page and "_static/demo" not in first


def test_the_page_is_light_and_its_networks_are_small():
    assert sum(file.stat().st_size for file in FILES.rglob("*") if file.is_file()) < HEAVIEST
    for name in ("digits", "photographs"):
        assert 0 < float(fact(f"{name}/both/million multiply-adds")) < MOST


def test_a_fact_that_is_not_there_is_named():
    with pytest.raises(ImclError, match="Did you mean 'baseline'"):
        fact("digits/baselin/error")


@needs_browser
def test_it_works_from_a_file_without_a_worker(browser, folder):
    context = browser.new_context()
    context.add_init_script("delete window.Worker")
    page = context.new_page()
    page.goto((folder / f"{PAGE}.html").as_uri())
    page.wait_for_selector("html.demo-on")
    assert "says" in page.locator("[data-demo=choose] .demo-answer").inner_text()
    context.close()


# --- every control ----------------------------------------------------------------------------------------------------


@needs_browser
def test_a_drawn_digit_is_looked_at_kept_and_removed(visit):
    panel, tray = visit.panel("choose"), visit.panel("choose").locator(".demo-tray canvas")
    before = tray.count()

    def draw(points: list[tuple[float, float]]) -> None:
        box = panel.locator(".demo-pad").bounding_box()
        start, *rest = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        visit.page.mouse.move(*start)
        visit.page.mouse.down()
        for point in rest:
            visit.page.mouse.move(*point)
        visit.page.mouse.up()

    panel.locator(".demo-pad").scroll_into_view_if_needed()
    draw([(0.3, 0.2), (0.75, 0.2), (0.45, 0.85)])
    visit.page.wait_for_function(f"document.querySelectorAll('.demo-tray canvas').length === {before + 1}")
    assert "Collaboration says 7" in panel.locator(".demo-answer").inner_text()
    draw([(0.3, 0.5), (0.7, 0.5)])  # a second stroke of the same drawing
    visit.page.wait_for_timeout(300)
    assert tray.count() == before + 1
    panel.get_by_role("button", name="Keep, draw another").click()
    draw([(0.5, 0.2), (0.5, 0.85)])
    visit.page.wait_for_function(f"document.querySelectorAll('.demo-tray canvas').length === {before + 2}")
    panel.get_by_role("button", name="Clear").click()
    assert visit.page.evaluate(
        "(pad => pad.getContext('2d').getImageData(0, 0, 240, 240).data.every(v => v === 0))"
        "(document.querySelector('.demo-pad'))"
    )
    panel.get_by_role("button", name="Remove").click()
    assert tray.count() == before + 1


@needs_browser
def test_images_are_chosen_and_named_by_keyboard(visit):
    panel = visit.panel("choose")
    panel.get_by_role("button", name="Take a test digit").focus()
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_function("document.querySelectorAll('.demo-tray canvas').length > 13")
    before = visit.told("output")
    panel.locator(".demo-tray button").last.focus()
    panel.locator(".demo-tray button[aria-pressed=false]").first.focus()
    visit.page.keyboard.press("Enter")
    assert panel.locator(".demo-tray button[aria-pressed=true]").count() == 1
    assert visit.told("output") != before
    labels = visit.told("similarity")
    panel.get_by_label("It is").focus()
    visit.page.keyboard.press("End")
    assert visit.told("similarity") != labels
    assert visit.page.evaluate("document.activeElement.value") == "9"


@needs_browser
def test_photographs_come_from_code_and_from_files(visit):
    panel, tray = visit.panel("choose"), visit.panel("choose").locator(".demo-tray canvas")
    panel.get_by_label("Photographs").check()
    panel.get_by_role("button", name="Draw it").wait_for()
    visit.page.wait_for_function("document.querySelectorAll('.demo-tray canvas').length === 12")
    assert "airplane" in visit.told("layers")[0] or "with" in visit.told("layers")[0]
    panel.get_by_label("Or one drawn by code").select_option("ship")
    panel.get_by_role("button", name="Draw it").click()
    visit.page.wait_for_function("document.querySelectorAll('.demo-tray canvas').length === 13")
    assert panel.get_by_label("It is").evaluate("list => list.selectedOptions[0].text") == "ship"
    picture = io.BytesIO()
    Image.new("RGB", (300, 200), (40, 120, 220)).save(picture, "png")
    given = {"name": "mine.png", "mimeType": "image/png", "buffer": picture.getvalue()}
    panel.locator("input[type=file]").set_input_files(given)
    visit.page.wait_for_function("document.querySelectorAll('.demo-tray canvas').length === 14")
    pixel = "([canvas]) => Array.from(canvas.getContext('2d').getImageData(16, 16, 1, 1).data)"
    assert visit.page.eval_on_selector_all(".demo-looked canvas", pixel) == [40, 120, 220, 255]
    panel.locator("input[type=file]").set_input_files(given | {"name": "no.png", "buffer": b"no picture"})
    visit.page.get_by_text("no.png is no picture that this browser can read.").wait_for()
    assert tray.count() == 14
    panel.get_by_label("Handwritten digits").check()
    visit.page.wait_for_selector(".demo-pad")


@needs_browser
def test_masks_and_temperature_change_the_four_predictions(visit):
    panel, first = visit.panel("output"), visit.told("output")
    assert len(first) == 12 and sum("; taught " in each for each in first) == 8
    heights = "all => all.map(each => each.style.height)"
    before = panel.locator(".demo-bars i").evaluate_all(heights)
    panel.get_by_role("button", name="Draw new masks").click()
    redrawn = panel.locator(".demo-bars i").evaluate_all(heights)
    assert redrawn != before and redrawn[50:60] == before[50:60]  # without dropout nothing changes
    slider = panel.get_by_label("Temperature T")
    slider.focus()
    visit.page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == "8"
    assert panel.locator(".demo-bars i").evaluate_all(heights) != redrawn


@needs_browser
def test_a_layer_shows_who_teaches_it(visit):
    panel = visit.panel("layers")
    assert panel.locator(".demo-teaches").count() == 9
    panel.get_by_role("button", name="Who teaches block 6?").focus()
    visit.page.keyboard.press("Enter")
    assert panel.locator(".demo-teaches").count() == 3
    assert "Its teachers are the 3 rows above it" in panel.inner_text()
    assert visit.page.evaluate("document.activeElement.textContent") == "block 6"


@needs_browser
def test_the_layer_slider_and_the_convolution_change_their_pictures(visit):
    before = visit.told("similarity")
    assert len(before) == 6
    visit.panel("similarity").get_by_role("slider", name="Layer").focus()
    visit.page.keyboard.press("Home")
    after = visit.told("similarity")
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False, False, True, True]
    filters = visit.told("kernel")
    visit.panel("kernel").get_by_label("Convolution").select_option("7")
    assert len(filters) == 8 and visit.told("kernel") != filters


@needs_browser
def test_the_small_network_learns_pauses_and_starts_anew(visit):
    panel, steps = visit.panel("training"), "imclDemo.training.state.steps"
    panel.get_by_role("button", name="One step").click()
    assert visit.page.evaluate(steps) == 1
    panel.get_by_role("button", name="Train", exact=True).click()
    visit.page.wait_for_function(f"{steps} >= 150", timeout=120_000)
    panel.get_by_role("button", name="Pause").click()
    at = visit.page.evaluate(steps)
    visit.page.wait_for_timeout(300)
    assert visit.page.evaluate(steps) == at
    errors = visit.page.evaluate("imclDemo.training.state.errors")
    assert all(row[-1] < row[0] / 2 for row in errors)
    assert re.search(r"plain \d+\.\d %, with your losses \d+\.\d %", panel.inner_text())
    panel.get_by_role("button", name="Start anew").click()
    assert visit.page.evaluate(steps) == 0
    panel.get_by_label("Training images").select_option("400")
    assert "One run on 400 images" in panel.inner_text()


@needs_browser
def test_switches_and_weights_change_the_table_of_gradients(visit):
    panel = visit.panel("training")

    def table() -> dict[str, list[float]]:
        rows = panel.locator("tbody tr").all()
        return {row.locator("th").inner_text(): [float(t) for t in row.locator("td").all_inner_texts()] for row in rows}

    local = table()
    assert list(local) == ["out", "mid / 1", "mid / 2", "pull-push / 1", "pull-push / 2", "kernel / 1", "kernel / 2"]
    assert [value > 0 for value in local["mid / 2"]] == [False, True, False, False, True]
    panel.get_by_label("Local gradients stop at their layer").uncheck()
    assert [value > 0 for value in table()["mid / 2"]] == [True, True, False, False, True]
    panel.get_by_label("no two filters alike").uncheck()
    panel.get_by_label("four masks teach one another").uncheck()
    assert list(table()) == ["hard", "mid / 1", "mid / 2", "pull-push / 1", "pull-push / 2"]
    weight = panel.get_by_label("weight").first
    weight.focus()
    visit.page.keyboard.press("End")
    assert table()["mid / 1"][0] > 3 * local["mid / 1"][0]


# --- for everybody ----------------------------------------------------------------------------------------------------


@needs_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_it_fits_and_axe_finds_nothing(browser, folder, view, theme):
    visit = opened(browser, folder, view)
    page = visit.page
    page.evaluate(f"document.documentElement.dataset.theme = document.documentElement.dataset.mode = '{theme}'")
    for name in ("digits", "photographs"):
        page.locator(f"input[value={name}]").check()
        page.wait_for_function(f"imclDemo.network.state.set === '{name}'")
        assert page.evaluate("document.documentElement.scrollWidth") <= VIEWS[view][0]
        page.evaluate(AXE_SCRIPT)
        found = page.evaluate("axe.run(document.querySelector('article'), {preload: false})")
        assert not [(rule["id"], [node["target"] for node in rule["nodes"]]) for rule in found["violations"]]
        assert "color-contrast" in {rule["id"] for rule in found["passes"]}
    page.context.close()
    assert not visit.complaints


@needs_browser
def test_pictures_follow_the_theme(visit):
    corner = "document.querySelectorAll('.demo-matrices canvas')[4].toDataURL()"
    before = visit.page.evaluate(corner)
    visit.page.evaluate("document.documentElement.dataset.theme = 'dark'")
    visit.page.wait_for_timeout(100)
    assert visit.page.evaluate(corner) != before


@needs_browser
def test_paper_and_pages_without_scripts_have_stills(browser, folder):
    shown = "all => all.filter(each => each.checkVisibility()).length"
    visit = opened(browser, folder)
    assert visit.page.eval_on_selector_all(".demo-still", shown) == 0
    assert visit.page.eval_on_selector_all("[data-demo]", shown) == len(PANELS)
    visit.page.emulate_media(media="print")
    assert visit.page.eval_on_selector_all(".demo-still", shown) == len(PANELS)
    assert visit.page.eval_on_selector_all("[data-demo]", shown) == 0
    visit.page.context.close()
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / f"{PAGE}.html").as_uri())
    assert all(still.is_visible() for still in page.locator(".demo-still").all())
    assert not any(panel.is_visible() for panel in page.locator("[data-demo]").all())
    pictures = page.locator(".demo-still img")
    assert pictures.count() == len(PANELS) - 1
    context.close()
