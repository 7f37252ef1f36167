"""How long an answer of the page "In your browser" takes in Chromium, as it is and slowed down six times by it.

An answer is what one image costs: both networks, every local classifier and every projection. Six times slower than a
desk is a phone of about five years ago. `.venv/bin/python benchmarks/demo_speed.py`.
"""

import tempfile
from pathlib import Path

from imcl_book.site import FLAGS, chromium
from imcl_book.sphinx.demo import FILES, fact
from playwright.sync_api import sync_playwright

TIMES = """name => {
  const engine = imclNetwork(), {networks, mean, std, side} = imclDemo[name];
  const both = Object.values(networks).map(each => ({...each, layers: engine.unpack(each), mean, std, side}));
  const pixels = Uint8Array.from({length: 3 * side * side}, (_, i) => (i * 97) % 256);
  return Array.from({length: 30}, () => {
    const start = performance.now();
    both.forEach(network => engine.answer(network, pixels));
    return performance.now() - start;
  }).slice(10).sort((a, b) => a - b);
}"""


def main() -> None:
    names = ("network", "digits", "photographs")
    tags = "".join(f'<script src="{(FILES / name).as_uri()}.js"></script>' for name in names)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "bare.html"
        file.write_text(f'<!doctype html><meta charset="utf-8">{tags}', encoding="utf-8")
        page = playwright.chromium.launch(executable_path=chromium(), args=FLAGS).new_page()
        page.goto(file.as_uri())
        session = page.context.new_cdp_session(page)
        for rate in (1, 6):
            session.send("Emulation.setCPUThrottlingRate", {"rate": rate})
            for name in names[1:]:
                times = page.evaluate(TIMES, name)
                count = fact(f"{name}/both/million multiply-adds")
                print(f"{name:12} {count:>5} million multiply-adds, {rate}x slower: median {times[10]:6.1f} ms")
    print(f"{fact('size')} kB of scripts and styles")


if __name__ == "__main__":
    main()
