// What the theme, docutils and pandas leave out, for those who read by keyboard or by ear.
document.getElementById("pst-primary-sidebar")?.setAttribute("role", "complementary");
document.getElementById("pst-primary-sidebar")?.setAttribute("aria-label", "Book");
document.querySelectorAll("[role=doc-biblioentry]").forEach(entry => entry.setAttribute("role", "listitem"));

// pandas writes the names of an index in a row of their own, though the one above has room, and words to the right.
const text = cell => cell.textContent.trim();
function joinHeads([names, above]) {
  const named = above ? [...names.cells].filter(text) : [];
  if (!named.length || named.some((cell, i) => cell.cellIndex !== i || text(above.cells[i]))) return;
  named.forEach((cell, i) => above.cells[i].replaceWith(cell));
  names.remove();
}
function markWords(heads, rows) { // columns are counted from the right: an index has cells of several rows
  for (let i = 1; i <= rows[0]?.cells.length; i++) {
    const column = of => of.map(row => [...row.cells].at(-i)).filter(Boolean), cells = column(rows);
    const words = cells.filter(cell => /\p{L}{2}/u.test(text(cell).replace("<NA>", "")));
    if (words.length * 2 > cells.length) [...column(heads), ...cells].forEach(cell => cell.classList.add("word"));
  }
}
for (const { tHead, tBodies } of document.querySelectorAll(".bd-article table.dataframe")) {
  joinHeads([...tHead.rows].reverse());
  markWords([...tHead.rows].filter(row => [...row.cells].every(cell => cell.colSpan === 1)), [...tBodies[0].rows]);
}
document.querySelectorAll("th").forEach(head => head.textContent.trim() || head.setAttribute("role", "cell"));

// In a table, a long name may break behind a dot, a slash, a plus or an underscore.
for (const cell of document.querySelectorAll(".bd-article tbody :is(td, th)")) {
  const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), names = [];
  while (walker.nextNode())
    if (/[\w./+]{14}/.test(walker.currentNode.data)) names.push(walker.currentNode);
  for (const text of names.filter(name => !name.parentElement.closest(".math"))) {
    const parts = text.data.split(/(?<=[a-z\d][./_+])(?=[a-z])/i);
    text.replaceWith(...parts.flatMap((part, i) => (i ? [document.createElement("wbr"), part] : [part])));
  }
}

// A picture leads to itself, where a phone can enlarge it.
for (const image of document.querySelectorAll(".bd-article .cell_output :is(figure, .output) > img[src]")) {
  const link = document.createElement("a");
  Object.assign(link, { href: image.src, className: "whole" });
  image.replaceWith(link);
  link.append(image);
}

// A box that scrolls sideways can be reached with Tab, and then scrolled with the arrow keys.
function reachScrolling() {
  for (const box of document.querySelectorAll(".bd-article :is(table, pre, div.math, mjx-container)")) {
    const formula = box.matches("div.math");
    if (formula) box.style.overflow = "";
    const scrolls = box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "visible";
    if (scrolls) box.tabIndex = 0;
    else if (box.getAttribute("tabindex") === "0") box.removeAttribute("tabindex");
    if (formula && !scrolls) box.style.overflow = "visible"; // else Chromium stops at it for a fraction of a pixel
  }
}

// Of a table that scrolls, the first column stays, unless it would take half of the box.
function keepFirstColumn() {
  for (const table of document.querySelectorAll(".bd-article table")) {
    const cells = [...table.rows].map(row => row.cells[0]).filter(cell => cell && cell.colSpan === 1);
    const scrolls = table.scrollWidth > table.clientWidth;
    const narrow = cells.length && cells[0].offsetWidth < table.clientWidth / 2;
    table.classList.toggle("scrolls", scrolls);
    cells.forEach(cell => cell.classList.toggle("kept", scrolls && narrow));
  }
}
addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  keepFirstColumn();
  reachScrolling();
});
addEventListener("resize", () => { keepFirstColumn(); reachScrolling(); });
