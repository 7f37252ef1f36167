"""Sliders: what a reader can move, what stands still, and that both are the frames given."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.base import AXE_SCRIPT
from imcl_book import site
from imcl_book.figures.collaborative_learning import heads_at_temperature
from imcl_book.figures.shared import matrices
from imcl_book.sliders import Slider
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from imcl_core.errors import ImclError

CSS = Path(__file__).parents[2] / "book" / "_static" / "custom.css"
THEMES = {"light": ("#fff", "#222"), "dark": ("#121212", "#ddd")}
THEME = (  # what the book's theme does to outputs
    "[hidden] { display: none !important } "
    "html[data-theme=dark] .bd-content div.cell_output .text_html:not(:has(table.dataframe)) "
    "{ background: #fff; color: #000; padding: 8px }"
)
SHOWN = """() => [...document.querySelectorAll(".imcl-slider")].map(
  box => [...box.querySelectorAll("img")].filter(image => image.checkVisibility()).map(image => image.dataset.label))"""
needs_browser = pytest.mark.skipif(site.chromium() is None, reason=f"{site.NO_BROWSER} The sliders were not moved.")


def frame(shade: str, width: float = 3) -> Figure:
    return Figure(figsize=(width, 2), facecolor=shade)


def shades(count: int) -> list[str]:
    return [f"#{30 * i:02x}5050" for i in range(count)]


def slider(count: int, name: str = "step") -> Slider:
    return Slider([frame(shade) for shade in shades(count)], [f"no. {i}" for i in range(count)], name, "A plain sheet.")


def pictures(html: str) -> list[Image.Image]:
    found = re.findall(r"data:image/webp;base64,([^\"]+)", html)
    return [Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB") for text in found]


def corner(picture: Image.Image) -> str:
    return "#{:02x}{:02x}{:02x}".format(*picture.getpixel((2, picture.height - 2)))


def test_every_frame_is_there_in_order_with_its_label():
    html = slider(5)._repr_html_()
    assert [corner(picture) for picture in pictures(html)] == shades(5)
    assert re.findall(r'data-label="([^"]+)"', html) == [f"no. {i}" for i in range(5)]
    assert 'alt="step: no. 3. A plain sheet."' in html
    assert 'min="0" value="0" max="4"' in html


def test_the_frames_are_drawn_as_given_with_few_colours():
    values = np.linspace(-1, 1, 400).reshape(20, 20)
    drawn = [frame("white"), frame("white")]
    for given, sign in zip(drawn, (1, -1), strict=True):
        given.add_axes((0, 0, 1, 0.9)).imshow(sign * values, cmap="RdBu_r", aspect="auto", interpolation="nearest")
    shown = [np.asarray(picture).astype(int) for picture in pictures(Slider(drawn, "ab", "x", "y")._repr_html_())]
    for given, picture in zip(drawn, shown, strict=True):
        buffer = io.BytesIO()
        given.savefig(buffer, dpi=130)
        exact = np.asarray(Image.open(buffer).convert("RGB"))
        assert picture.shape == exact.shape == (260, 390, 3)
        assert np.abs(picture - exact).max() < 12
    assert np.abs(shown[0] - shown[1]).max() > 100


@pytest.mark.parametrize(("count", "stills"), [(2, [0, 1]), (3, [0, 1, 2]), (6, [0, 3, 5])])
def test_the_still_is_the_first_middle_and_last_frame(count, stills):
    made = slider(count)
    sheet = Image.open(io.BytesIO(made._repr_png_())).convert("RGB")
    height = sheet.height // len(stills)
    parts = [sheet.crop((0, i * height, sheet.width, (i + 1) * height)) for i in range(len(stills))]
    assert [corner(part) for part in parts] == [shades(count)[i] for i in stills]
    images = re.findall("<img[^>]*>", made._repr_html_())
    assert [i for i, text in enumerate(images) if "class=imcl-still" in text] == stills
    assert [i for i, text in enumerate(images) if " hidden " in text] == [i for i in range(count) if i not in stills]


def test_the_same_frames_give_the_same_bytes_and_text_is_escaped():
    twice = [Slider([frame("red"), frame("blue")], ["<1>", '"2"'], "T & t", "a < b") for _ in range(2)]
    assert twice[0]._repr_html_() == twice[1]._repr_html_()
    assert twice[0]._repr_png_() == twice[1]._repr_png_()
    html = twice[0]._repr_html_()
    assert "T &amp; t" in html and "&lt;1&gt;" in html and "&quot;2&quot;" in html and "a &lt; b" in html
    assert "T & t" not in html and "<1>" not in html


def test_a_notebook_keeps_the_page_the_still_and_a_line_of_text():
    data, _ = DisplayFormatter().format(slider(3))
    assert set(data) == {"text/html", "image/png", "text/plain"}
    assert data["text/plain"] == "Slider(step: no. 0, no. 1, no. 2)"


def test_it_is_small():
    rng = np.random.default_rng(0)
    rows = [{"a": {"b": rng.normal(size=(50, 50)), "c": rng.normal(size=(50, 50))}} for _ in range(2)]
    made = Slider([matrices(row, "value") for row in rows], "12", "epoch", "Noise.")
    assert len(made._repr_html_()) < 100_000
    assert len(made._repr_png_()) < 100_000


@pytest.mark.parametrize(
    ("frames", "labels", "remedy"),
    [
        (["red"], ["1"], "two frames or more"),
        (["red", "blue"], ["1"], "a label each"),
    ],
)
def test_frames_without_labels_are_refused(frames, labels, remedy):
    with pytest.raises(ImclError, match=remedy):
        Slider([frame(shade) for shade in frames], labels, "x", "y")


def test_frames_of_several_sizes_are_refused():
    with pytest.raises(ImclError, match="one figsize"):
        Slider([frame("red"), frame("red", width=4)], ["1", "2"], "x", "y")


def test_heads_at_temperature_shows_each_head_its_teacher_and_the_place_of_the_temperature():
    rng = np.random.default_rng(0)
    opinions, teachers = rng.random((2, 4, 3))
    lengths = rng.random((5, 4))
    made = heads_at_temperature(opinions, teachers, list("abc"), 1, [1, 2, 4, 8, 16], lengths, place=3)
    *panels, gradients = made.get_axes()
    for axis, head, teacher in zip(panels, opinions, teachers, strict=True):
        assert [bar.get_height() for bar in axis.patches] == [*head, *teacher]
    assert [label.get_text() for label in panels[2].get_xticklabels()] == ["a", "[b]", "c"]
    for line, values in zip(gradients.get_lines(), lengths.T, strict=True):
        assert line.get_ydata().tolist() == values.tolist()
        assert line.get_markevery() == [3]


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """A page like the book's, with two sliders, served."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "custom.css").write_text(CSS.read_text(encoding="utf-8"), encoding="utf-8")
    outputs = "".join(
        f'<div class="cell_output"><div class="output text_html">{slider(count, name)._repr_html_()}</div></div>'
        for count, name in ((6, "step"), (3, "epoch"))
    )
    for theme, (ground, ink) in THEMES.items():
        (folder / f"{theme}.html").write_text(
            f'<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>Sliders</title>'
            '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
            f'<link rel="stylesheet" href="custom.css"><style>:root {{ color-scheme: {theme} }} '
            f"body {{ background: {ground}; color: {ink} }} {THEME}"
            f'</style></head><body><main class="bd-content"><h1>Sliders</h1>{outputs}</main></body></html>',
            encoding="utf-8",
        )
    with site.serving(folder) as root:
        yield root


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=site.chromium(), args=site.FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 390, "height": 844})
    opened.goto(address + "light.html")
    yield opened
    opened.close()


@needs_browser
def test_the_arrow_keys_change_one_slider_its_frame_and_what_is_said(page):
    assert page.evaluate(SHOWN) == [["no. 0"], ["no. 0"]]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('label').textContent.trim()") == "step"
    for key, expected in (("ArrowRight", 1), ("End", 5), ("ArrowLeft", 4), ("Home", 0), ("ArrowUp", 1)):
        page.keyboard.press(key)
        assert page.evaluate(SHOWN) == [[f"no. {expected}"], ["no. 0"]]
        assert page.locator("output").first.inner_text() == f"no. {expected}"
        assert page.get_by_label("step").get_attribute("aria-valuetext") == f"no. {expected}"
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    assert page.evaluate(SHOWN) == [["no. 1"], ["no. 2"]]


@needs_browser
def test_a_pointer_moves_it(page):
    box = page.get_by_label("epoch").bounding_box()
    page.mouse.click(box["x"] + box["width"] - 4, box["y"] + box["height"] / 2)
    assert page.evaluate(SHOWN) == [["no. 0"], ["no. 2"]]


@needs_browser
def test_paper_shows_the_stills_wherever_the_slider_stands(page):
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.emulate_media(media="print")
    assert page.evaluate(SHOWN) == [["no. 0", "no. 3", "no. 5"], ["no. 0", "no. 1", "no. 2"]]
    assert not page.get_by_label("step").is_visible()


@needs_browser
def test_without_scripts_the_stills_are_shown_and_no_control(browser, address):
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(address + "light.html")
        shown = [image.get_attribute("data-label") for image in page.locator("img").all() if image.is_visible()]
        assert shown == ["no. 0", "no. 3", "no. 5", "no. 0", "no. 1", "no. 2"]
        assert not page.get_by_label("step").is_visible()


@needs_browser
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("theme", THEMES)
def test_it_fits_is_readable_in_either_theme_and_asks_nobody(browser, address, theme, width):
    page, asked = browser.new_page(viewport={"width": width, "height": 800}), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}{theme}.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("getComputedStyle(document.querySelector('.text_html')).backgroundColor") == "rgba(0, 0, 0, 0)"
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth)")
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("axe.run(document)")
    assert not [(rule["id"], [node["target"] for node in rule["nodes"]]) for rule in found["violations"]]
    assert "color-contrast" in {rule["id"] for rule in found["passes"]}
    assert {url.split(",")[0] for url in asked if not url.startswith(address)} <= {"data:image/webp;base64", "data:"}
    page.close()
