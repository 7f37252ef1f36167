"""Figures to move through: frames behind a slider, in a page that asks no other host."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from imcl_book.figures.style import STYLE
from imcl_core.errors import ImclError

DPI, COLOURS = 130, 256  # of every frame; pictures without loss and with few colours are small
_KEYS = 'data-lm-suppress-shortcuts="true"'  # else Jupyter Lab takes the arrow keys for its own


class Slider:
    """Frames of one figure behind a slider, moved by pointer or keyboard in Jupyter, on Colab and in the book.

    What cannot move, as paper, a page without scripts or a mere picture, shows three: first, middle and last.

    `frames` are figures of one size, `labels` their values of what the slider changes, `name`; each frame gets both
    for a title. `alt` says what is to be seen in all of them.

    Raises:
        ImclError: fewer than two frames, a number of labels that is not theirs, or frames of several sizes.
    """

    def __init__(self, frames: Sequence[Figure], labels: Sequence[str], name: str, alt: str):
        if len(frames) < 2 or len(labels) != len(frames):
            raise ImclError(
                f"{len(labels)} labels for {len(frames)} frames: give a label each, and two frames or more."
            )
        self.name, self.labels, self.alt = name, list(labels), alt
        pictures = [_drawn(frame, f"{name}: {label}") for frame, label in zip(frames, labels, strict=True)]
        if len({picture.shape for picture in pictures}) > 1:
            raise ImclError("The frames of a slider differ in size: draw them all with one figsize.")
        sheet = Image.fromarray(np.vstack(pictures)).quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
        self.palette = sheet.getpalette()
        self.frames = np.asarray(sheet).reshape(len(frames), *pictures[0].shape[:2])
        self.stills = sorted({0, len(frames) // 2, len(frames) - 1})

    def _repr_html_(self) -> str:
        images = "\n".join(map(self._image, range(len(self.frames))))
        return (
            f'<div class="imcl-slider">\n<style>{_STYLE}</style>\n'
            f'<div class="imcl-controls" hidden><label>{html.escape(self.name)} <input type="range" min="0" value="0" '
            f'max="{len(self.frames) - 1}" {_KEYS}></label><output aria-live="off"></output></div>\n'
            f"{images}\n<script>{_SCRIPT}</script>\n</div>\n"
        )

    def _image(self, i: int) -> str:
        """The element of one frame; those that are no stills wait for the script."""
        height, width = (round(pixels * STYLE["figure.dpi"] / DPI) for pixels in self.frames[i].shape)
        data = base64.b64encode(self._file(self.frames[i], "webp", lossless=True)).decode()
        return (
            f'<img {"class=imcl-still" if i in self.stills else "hidden"} width="{width}" height="{height}" '
            f'data-label="{html.escape(self.labels[i])}" src="data:image/webp;base64,{data}" '
            f'alt="{html.escape(f"{self.name}: {self.labels[i]}. {self.alt}")}">'
        )

    def _repr_png_(self) -> bytes:
        """The stills below one another."""
        return self._file(np.vstack(self.frames[self.stills]), "png", optimize=True)

    def _file(self, indices: np.ndarray, form: str, **options: bool) -> bytes:
        picture, file = Image.fromarray(indices), io.BytesIO()
        picture.putpalette(self.palette)
        picture.save(file, form, **options)
        return file.getvalue()

    def __repr__(self) -> str:
        return f"Slider({self.name}: {', '.join(self.labels)})"


def _drawn(figure: Figure, title: str) -> np.ndarray:
    """The pixels (H, W, 3) of a figure with a title."""
    figure.suptitle(title, fontsize=10, fontweight="bold")
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


_STYLE = """
.imcl-slider { margin: 1rem 0; }
.imcl-slider .imcl-controls { display: flex; gap: 0.8rem; align-items: center; }
.imcl-slider label { display: flex; flex: 0 1 26rem; gap: 0.6rem; align-items: center; margin: 0; }
.imcl-slider input { flex: 1; min-width: 6rem; height: 1.5rem; margin: 0; }
.imcl-slider output { font-weight: bold; white-space: nowrap; font-variant-numeric: tabular-nums; }
.imcl-slider img { display: block; max-width: 100%; height: auto; margin: 0.3rem 0; box-sizing: border-box; }
.imcl-slider [hidden] { display: none; }
html[data-theme=dark] .bd-content div.cell_output .text_html:has(div.imcl-slider) { background: none; color: inherit;
  padding: 0; }
@media print {
  .imcl-slider .imcl-controls, .imcl-slider img:not(.imcl-still) { display: none; }
  .imcl-slider img.imcl-still { display: block !important; max-width: 80%; }
}
"""
_SCRIPT = """
for (const box of document.querySelectorAll(".imcl-slider")) {
  const range = box.querySelector("input"), said = box.querySelector("output");
  const frames = [...box.querySelectorAll("img")];
  const show = () => {
    frames.forEach((frame, place) => { frame.hidden = place !== range.valueAsNumber; });
    said.value = frames[range.valueAsNumber].dataset.label;
    range.setAttribute("aria-valuetext", said.value);
  };
  range.oninput = show;
  box.querySelector(".imcl-controls").hidden = false;
  show();
}
"""
