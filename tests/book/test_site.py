"""The built book in Chromium: every page at the width of a phone in the dark, and of a desk in the light."""

import asyncio
import html
import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
import yaml
from axe_playwright_python.base import AXE_SCRIPT
from imcl_book import site as book_site
from imcl_book.sphinx.pages import PDF_LINK
from imcl_book.stamps import code_digest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright
from pypdf import PdfReader

ROOT = Path(__file__).parents[2]
VIEWS = {"phone": (390, 844, "dark"), "desk": (1280, 800, "light")}
AT_ONCE = 3  # pages open at the same time
HEAVIEST = 1_000_000  # bytes of a page and its own pictures
pytestmark = pytest.mark.skipif(book_site.chromium() is None, reason=f"{book_site.NO_BROWSER} The site was not tried.")

# Code and formulas that are wider than their boxes, and cells that reach beyond what their table, or a box around it,
# can scroll to.
CUT = """() => {
  const wide = e => e.scrollWidth > e.clientWidth + 1;
  const scrolls = e => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
  const cells = [...document.querySelectorAll(".bd-article :is(td, th)")].filter(e => e.checkVisibility());
  const box = cell => { let e = cell.closest("table"); while (e && !scrolls(e)) e = e.parentElement; return e; };
  const end = e => e ? e.getBoundingClientRect().left + e.scrollWidth + 1 : document.documentElement.clientWidth;
  const cut = cell => wide(cell) || cell.getBoundingClientRect().right > end(box(cell)) + 1;
  return {
    code: [...document.querySelectorAll(".bd-article .highlight pre")].filter(e => !e.closest(".cell_output"))
      .filter(wide).map(e => e.textContent.slice(0, 60)),
    formulas: [...document.querySelectorAll(".bd-article div.math")].filter(wide).map(e => e.textContent.slice(0, 60)),
    cells: cells.filter(cut).map(e => e.textContent.slice(0, 60)),
    tables: [...document.querySelectorAll(".bd-article table")].filter(wide).map(e => e.textContent.slice(0, 60)),
  };
}"""
LOOK = """async () => {
  await window.MathJax?.startup?.promise;
  const own = [...document.images].map(image => image.src).filter(source => source.includes("/_images/"));
  return {
    links: [...document.querySelectorAll("a[href]")].map(a => a.href),
    ids: [...document.querySelectorAll("[id]")].map(element => element.id),
    equations: document.querySelectorAll("mjx-container").length,
    unrendered: [...document.querySelectorAll(".math")].filter(e => !e.querySelector("mjx-container")).length,
    wrong: [...document.querySelectorAll("mjx-merror, [data-mjx-error]")].map(e => e.textContent),
    width: document.documentElement.scrollWidth,
    pictures: [...new Set(own)],
    heads: [...document.querySelectorAll("table.dataframe thead tr + tr:has(> :last-child:empty)")]
      .filter(row => !row.previousElementSibling.cells[0].textContent.trim()).map(row => row.textContent.trim()),
    words: [...document.querySelectorAll("table.dataframe tbody td")].filter(cell => /^[a-z]+$/.test(cell.textContent)
        && [...cell.closest("tbody").rows]
          .map(row => [...row.cells].at(cell.cellIndex - cell.parentElement.cells.length))
          .every(other => /[a-z]{2}/.test(other?.textContent)))
      .filter(cell => getComputedStyle(cell).textAlign !== "left").map(cell => cell.textContent),
    bare: [...document.images].filter(image => !image.complete || !image.naturalWidth).map(image => image.src),
  };
}"""
# The colours of code are the same on every page, and slow to look at: on one page they are looked at in full.
CODE = "notebooks/3-output-layer.html"
DEMO = "book/in-your-browser.html"
AXE = """async (code) => {
  if (!code) axe.configure({rules: [{id: "color-contrast", selector: ":not(pre *, mjx-container *)"}]});
  const found = await axe.run(document, {resultTypes: ["violations"], preload: false});
  return found.violations.map(({id, nodes}) => [id, nodes.map(node => node.target.flat().join(" "))]);
}"""
# Everything that can be seen and used, by a place that tells it apart, with its words.
REACHABLE = """() => {
  const all = [...document.querySelectorAll("a[href], button, input, summary, [tabindex='0']")];
  all.forEach((element, place) => element.dataset.place = place);
  const seen = e => !e.disabled && e.checkVisibility({visibilityProperty: true, opacityProperty: true});
  const name = e => e.getAttribute("aria-label") || e.textContent.trim() || e.outerHTML.slice(0, 80);
  return Object.fromEntries(all.filter(seen).map(e => [e.dataset.place, name(e)]));
}"""


@dataclass
class Visit:
    """One page at one width: what Chromium said, and what the page held."""

    page: str
    view: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    violations: list[tuple[str, list[str]]] = field(default_factory=list)
    seen: dict = field(default_factory=dict)

    def listen(self, page: Page) -> None:
        page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on(
            "response", lambda reply: reply.status >= 400 and self.complaints.append(f"{reply.status}: {reply.url}")
        )


@dataclass(frozen=True)
class Site:
    """The built book, served, and a browser to look at it with; `run` runs a coroutine of the browser's."""

    folder: Path
    address: str
    browser: Browser
    run: Callable[[Coroutine], Any]


def build(target: Path, *options: str | Path) -> Path:
    """Builds the book from the notebooks as they are; returns the folder of its pages."""
    program = Path(sys.executable).with_name("jupyter-book")
    command = [program, "build", ".", "-n", "--all", "--path-output", target]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = target / "_build" / "html"
    assert (folder / "index.html").exists()
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    folder = build(tmp_path_factory.mktemp("book"))
    with book_site.serving(folder) as address, asyncio.Runner() as runner:
        playwright = runner.run(async_playwright().start())
        start = playwright.chromium.launch(executable_path=book_site.chromium(), args=book_site.FLAGS)
        browser = runner.run(start)
        yield Site(folder, address, browser, runner.run)
        runner.run(browser.close())
        runner.run(playwright.stop())


async def context(browser: Browser, view: str) -> BrowserContext:
    width, height, theme = VIEWS[view]
    return await browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)


def pages_of(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.html") if "_static" not in file.parts)


async def look_at(opened: BrowserContext, address: str, visit: Visit) -> None:
    page = await opened.new_page()
    visit.listen(page)
    await page.goto(address + visit.page)
    if visit.page == DEMO:  # whose last table is made by its script
        await page.wait_for_selector(".demo-norms td", timeout=30_000)
    visit.seen = await page.evaluate(LOOK) | await page.evaluate(CUT)
    await page.evaluate(AXE_SCRIPT)
    visit.violations = await page.evaluate(AXE, visit.page == CODE)
    await page.close()


async def look_at_all(site: Site) -> list[Visit]:
    visits, slots = [Visit(page, view) for view in VIEWS for page in pages_of(site.folder)], asyncio.Semaphore(AT_ONCE)
    opened = {view: await context(site.browser, view) for view in VIEWS}

    async def one(visit: Visit) -> None:
        async with slots:
            await look_at(opened[visit.view], site.address, visit)

    await asyncio.gather(*map(one, visits))
    return visits


@pytest.fixture(scope="module")
def visits(site) -> list[Visit]:
    return site.run(look_at_all(site))


def test_nothing_goes_wrong_on_any_page(visits):
    assert not [(visit.page, visit.view, visit.complaints) for visit in visits if visit.complaints]
    assert not [(visit.page, visit.seen["bare"]) for visit in visits if visit.seen["bare"]]


def test_no_page_asks_another_host(site, visits):
    asked = {url for visit in visits for url in visit.requests if not url.startswith(("data:", "blob:"))}
    assert len(asked) > 50
    assert not [url for url in asked if not url.startswith(site.address)]


def test_each_internal_link_leads_somewhere(site, visits):
    ids = {site.address + visit.page: {"", *visit.seen["ids"]} for visit in visits}
    links = {(visit.page, link) for visit in visits for link in visit.seen["links"] if link.startswith(site.address)}
    assert len(links) > 100
    broken = []
    for page, link in links:
        url, anchor = urldefrag(link)
        file = site.folder / unquote(urlsplit(url).path).lstrip("/")
        file = file / "index.html" if file.is_dir() else file
        known = ids.get(site.address + file.relative_to(site.folder).as_posix(), {"", anchor})
        if not (file.exists() or file.name == book_site.PDF) or unquote(anchor) not in known:
            broken.append((page, link))
    assert not broken


def test_equations_are_rendered(visits):
    assert sum(visit.seen["equations"] for visit in visits) > 100
    assert not [(visit.page, visit.seen["wrong"]) for visit in visits if visit.seen["wrong"]]
    assert not [visit.page for visit in visits if visit.seen["unrendered"]]


def test_no_page_scrolls_sideways(visits):
    assert not [(v.page, v.view, v.seen["width"]) for v in visits if v.seen["width"] > VIEWS[v.view][0]]


@pytest.mark.parametrize("kind", ["code", "formulas", "cells"])
def test_nothing_is_cut(visits, kind):
    assert len(visits) > 50
    assert not [(visit.page, visit.view, visit.seen[kind]) for visit in visits if visit.seen[kind]]


def test_on_a_desk_only_the_papers_tables_scroll(visits):
    """Those lie in a box of their own, which scrolls; on a phone others do too."""
    assert not [(v.page, v.seen["tables"]) for v in visits if v.view == "desk" and v.seen["tables"]]


@pytest.mark.parametrize("kind", ["heads", "words"])
def test_tables_of_pandas_have_no_row_for_one_name_and_words_to_the_left(visits, kind):
    assert not [(visit.page, visit.seen[kind]) for visit in visits if visit.seen[kind]]


def test_axe_finds_nothing(visits):
    assert not [(visit.page, visit.view, visit.violations) for visit in visits if visit.violations]


def test_pages_are_light(site, visits):
    def size(url: str) -> int:
        return (site.folder / unquote(urlsplit(url).path).lstrip("/")).stat().st_size

    sizes = {v.page: size(v.page) + sum(map(size, v.seen["pictures"])) for v in visits}
    assert not {page: size for page, size in sizes.items() if size > HEAVIEST}


def on_page(site: Site, path: str, act: Callable[[Page], Awaitable[Any]], view: str = "desk") -> Any:
    """What `act` returns for a page opened at an address of the site."""

    async def opened() -> Any:
        async with await context(site.browser, view) as browser:
            page = await browser.new_page()
            await page.goto(site.address + path)
            await page.wait_for_load_state("networkidle")
            return await act(page)

    return site.run(opened())


@pytest.mark.parametrize(
    ("path", "view"),
    [("index.html", "desk"), ("notebooks/results.html", "desk"), ("notebooks/3-output-layer.html", "phone")],
)
def test_tab_reaches_everything_from_the_skip_link_on(site, path, view):
    async def walk(page: Page) -> tuple[dict[str, str], list[str]]:
        expected, order = await page.evaluate(REACHABLE), []
        while len(order) < 1000 and (not order or order[-1]):
            await page.keyboard.press("Tab")
            order.append(await page.evaluate("document.activeElement.dataset.place ?? ''"))
        return expected, order

    expected, order = on_page(site, path, walk, view)
    names = [expected.get(place, "") for place in order]
    assert "Skip to main content" in names[0]
    early = ["Search", "Preface", "Start here"] if path == "index.html" else ["Search"]
    places = [next(i for i, name in enumerate(names) if word in name) for word in early]
    assert places == sorted(places)
    assert not [name for place, name in expected.items() if place not in order]


def test_the_first_page_answers_in_one_screen(site):
    boxes = """() => ["article h1", ".landing-words p", ".landing .sd-btn", ".landing svg"].map(
      name => document.querySelector(name).getBoundingClientRect().toJSON())"""

    async def measure(page: Page) -> list[dict[str, float]]:
        return await page.evaluate(boxes)

    for view, (width, height, _) in VIEWS.items():
        for box in on_page(site, "", measure, view):
            assert box["width"] > 100 and box["top"] >= 0, view
            assert box["right"] <= width and box["bottom"] <= height, view


def test_search_finds_pull_push(site):
    async def search(page: Page) -> list[str]:
        await page.keyboard.press("Control+k")
        await page.keyboard.type("pull-push")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#search-results li a")
        await page.wait_for_function("document.querySelector('#search-results h2')?.textContent !== 'Searching'")
        return await page.eval_on_selector_all("#search-results li a", "links => links.map(a => a.href)")

    assert any("5-pull-and-push" in link for link in on_page(site, "notebooks/run.html", search))


def test_tables_sort_by_click_and_by_key(site):
    state = """() => {
      const table = document.querySelector("table.imcl"), head = table.tHead.rows[0].cells[3];
      return [head.getAttribute("aria-sort"), [...table.tBodies[0].rows].map(row => row.cells[3].dataset.value)];
    }"""

    async def sort(page: Page) -> list:
        button, states = page.locator("table.imcl").first.locator("thead button").nth(3), [await page.evaluate(state)]
        await button.click()
        states.append(await page.evaluate(state))
        await page.keyboard.press("Enter")
        return [*states, await page.evaluate(state)]

    (before, old), (first, rising), (second, falling) = on_page(site, "notebooks/results.html", sort)
    assert (before, first, second) == (None, "ascending", "descending")
    assert rising == sorted(old, key=float) and falling == rising[::-1] and len(set(old)) > 1


@pytest.mark.parametrize("page", ["1-collaborative-learning", "5-pull-and-push"])
def test_sliders_move_by_key(site, page):
    shown = (
        """() => [...document.querySelectorAll(".imcl-slider img")].filter(i => i.checkVisibility()).map(i => i.alt)"""
    )

    async def move(page: Page) -> list[list[str]]:
        await page.locator(".imcl-slider input").first.focus()
        states = []
        for key in ("Home", "ArrowRight", "End"):
            await page.keyboard.press(key)
            states.append(await page.evaluate(shown))
        return states

    states = on_page(site, f"notebooks/{page}.html", move)
    assert all(len(state) == 1 for state in states)
    assert len({state[0] for state in states}) == 3


def test_a_solution_is_folded_and_opens_by_key(site):
    async def unfold(page: Page) -> list[bool]:
        summary = page.locator("details summary", has_text="Show the solution").first
        solution, states = page.locator("details", has=page.get_by_text("Exercise 1: right.")).first, []
        states.append(await solution.get_by_text("Exercise 1: right.").is_visible())
        await summary.focus()
        await page.keyboard.press("Enter")
        return [*states, await solution.get_by_text("Exercise 1: right.").is_visible()]

    assert on_page(site, "notebooks/3-output-layer.html", unfold, "phone") == [False, True]


def test_the_theme_follows_the_reader(site):
    async def ground(page: Page) -> str:
        return await page.evaluate("getComputedStyle(document.body).backgroundColor")

    phone, desk = (on_page(site, "", ground, view) for view in VIEWS)
    assert phone != desk == "rgb(255, 255, 255)"


def test_a_missing_page_is_told_and_leads_home(site):
    async def home(page: Page) -> tuple[str, str, str]:
        value = await page.input_value("input[name=q]")
        await page.click("button")
        await page.wait_for_selector("#search-results li a")
        found = await page.locator("#search-results").inner_text()
        await page.go_back()
        await page.click("a")
        return value, found, page.url

    value, found, url = on_page(site, "notebooks/of/old/notation.html", home)
    assert value == "notation" and "Notation" in found
    assert url == site.address + "index.html"


def test_each_executed_page_says_what_its_run_took(site):
    recorded = json.loads((ROOT / "book" / "executions.json").read_text(encoding="utf-8"))
    table = (site.folder / "book" / "status.html").read_text(encoding="utf-8")
    for path, run in recorded.items():
        assert (ROOT / path).exists(), f"{path} is gone: take it out of book/executions.json"
        page = (site.folder / path).with_suffix(".html").read_text(encoding="utf-8")
        said = f"Runs in {run['seconds']} s on {run['hardware']}" in html.unescape(page)
        assert said == (run["code"] == code_digest(ROOT / path)), path
        assert f'href="../{Path(path).with_suffix(".html")}"' in table


def test_buttons_and_previews_follow_the_repository_address(site, tmp_path):
    page, kept = "notebooks/1-collaborative-learning.html", "_static/readme.png"
    without = (site.folder / page).read_text(encoding="utf-8")
    assert "colab" not in without and "og:image" not in without and "og:title" in without
    (words,) = re.findall(r'<meta name="description" content="([^"]*)"', without)
    assert words.startswith("What can several classifiers teach one another")  # not what its last run took
    assert f'property="og:description" content="{words}"' in without and "summary_large_image" in without
    assert (site.folder / kept).exists()
    text = (ROOT / "_config.yml").read_text(encoding="utf-8").replace('url: ""', "url: https://github.com/ann/book")
    (tmp_path / "_config.yml").write_text(text, encoding="utf-8")
    toc = {"format": "jb-book", "root": "index", "chapters": [{"file": page.removesuffix(".html")}]}
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf-8")
    folder = build(tmp_path, "--config", tmp_path / "_config.yml", "--toc", tmp_path / "_toc.yml")
    with_address = (folder / page).read_text(encoding="utf-8")
    source = "ann/book/blob/main/notebooks/1-collaborative-learning.ipynb"
    assert f"https://colab.research.google.com/github/{source}" in with_address
    assert "https://github.com/ann/book/edit/main/notebooks/1-collaborative-learning.ipynb" in with_address
    assert f'content="https://ann.github.io/book/{kept}"' in with_address
    assert 'href="/book/index.html"' in (folder / "404.html").read_text(encoding="utf-8")


def test_the_pdf_has_every_page_and_its_links(tmp_path):
    nav = '<div id="pst-primary-sidebar"><nav>{}</nav></div>'.format(
        "".join(f'<a class="reference internal" href="{name}.html">{name.upper()}</a>' for name in "ab")
    )
    (tmp_path / "index.html").write_text(f"<title>Book</title>{nav}{PDF_LINK}")
    (tmp_path / "a.html").write_text('<details><summary>Q</summary>hidden answer</details><a href="b.html#x">to b</a>')
    (tmp_path / "b.html").write_text('<p id="x">the end</p><a href="records.json">a record</a>')
    reader = PdfReader(book_site.print_book(tmp_path))
    assert [mark.title for mark in reader.outline] == ["Book", "A", "B"]
    assert "hidden answer" in reader.pages[1].extract_text()
    (link,) = (annotation.get_object() for annotation in reader.pages[1]["/Annots"])
    assert link["/Dest"][0] == reader.pages[2].indirect_reference and "/A" not in link
    assert all("/A" not in annotation.get_object() for annotation in reader.pages[2]["/Annots"])
    assert 'class="pdf">' in (tmp_path / "index.html").read_text()
