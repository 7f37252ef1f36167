"""The built book on this machine: served as a host would, and printed to one PDF."""

import io
import shutil
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urldefrag

from playwright.sync_api import Page, sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, NameObject

from imcl_book.sphinx.pages import PDF, PDF_LINK
from imcl_core.errors import ImclError
from imcl_core.files import write_whole

BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)  # fmt: skip
NO_BROWSER = "There is no Chromium here: install it (Debian, Ubuntu: apt install chromium)."
# The last four: it asks other hosts for nothing, not even for its own updates.
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
CONTENTS = "#pst-primary-sidebar nav a.reference.internal"
READY = """async () => {
  document.querySelectorAll("details").forEach(box => box.open = true);
  document.querySelectorAll("img[loading=lazy]").forEach(image => image.loading = "eager");
  await window.MathJax?.startup?.promise;
  await Promise.all([...document.images].map(image => image.decode().catch(() => null)));
}"""


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder; for an address that is not there, its 404.html."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        page = Path(self.directory) / "404.html"
        if code != 404 or not page.exists():
            super().send_error(code, message, explain)
            return
        content = page.read_bytes()
        self.send_response(404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Listens to this machine alone. Port 0: any that is free."""
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ImclError(f"Port {port} cannot be had ({why}): name another, as in PORT=8001.") from None


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serves a folder in the background; gives its address."""
    server = _server(folder, 0)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def serve(folder: Path, port: int) -> None:
    """Serves the book and opens it in the reader's browser, until interrupted."""
    with _server(folder, port) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        print(f"The book: {address} (Ctrl+C ends it)", flush=True)
        Thread(target=webbrowser.open, args=[address], daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def chromium() -> str | None:
    """The path of a Chromium on this machine, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def print_book(folder: Path) -> Path:
    """Prints the first page and every page of the contents into one PDF beside them; shows the links to it."""
    path = chromium()
    if path is None:
        raise ImclError(NO_BROWSER)
    with serving(folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(color_scheme="light")
        page.goto(address + "index.html")
        contents = page.eval_on_selector_all(CONTENTS, "links => links.map(a => [a.href, a.innerText.trim()])")
        printed = {
            url: (title, _printed(page, url)) for url, title in [[address + "index.html", page.title()], *contents]
        }
        browser.close()
    book = io.BytesIO()
    _joined(printed, address).write(book)
    write_whole(folder / PDF, book.getvalue())
    for file in folder.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        if PDF_LINK in text:
            write_whole(file, text.replace(PDF_LINK, PDF_LINK.replace(" hidden", "")).encode())
    return folder / PDF


def _printed(page: Page, url: str) -> bytes:
    page.goto(url)
    page.evaluate(READY)
    return page.pdf(prefer_css_page_size=True, print_background=True)


def _joined(printed: dict[str, tuple[str, bytes]], address: str) -> PdfWriter:
    """One document of several, a bookmark each: links to one another lead there, to other files of the site nowhere."""
    writer, starts = PdfWriter(), {}
    for url, (title, content) in printed.items():
        starts[url] = len(writer.pages)
        writer.append(PdfReader(io.BytesIO(content)), outline_item=title)
    for page in writer.pages:
        for annotation in page.get("/Annots", []):
            link = annotation.get_object()
            target = urldefrag(str(link.get("/A", {}).get("/URI", ""))).url
            if target.startswith(address):
                del link["/A"]
            if target in starts:
                start = writer.pages[starts[target]].indirect_reference
                link[NameObject("/Dest")] = ArrayObject([start, NameObject("/Fit")])
    return writer
