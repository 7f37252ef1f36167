// What the theme, docutils and pandas leave out, for those who read by keyboard or by ear.
document.getElementById("pst-primary-sidebar")?.setAttribute("role", "complementary");
document.getElementById("pst-primary-sidebar")?.setAttribute("aria-label", "Book");
document.querySelectorAll("[role=doc-biblioentry]").forEach(entry => entry.setAttribute("role", "listitem"));
document.querySelectorAll("th").forEach(head => head.textContent.trim() || head.setAttribute("role", "cell"));

// A box that scrolls sideways can be reached with Tab, and then scrolled with the arrow keys.
function reachScrolling() {
  for (const box of document.querySelectorAll(".bd-article :is(table, pre, div.math, mjx-container)")) {
    const scrolls = box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "visible";
    if (scrolls) box.tabIndex = 0;
    else if (box.getAttribute("tabindex") === "0") box.removeAttribute("tabindex");
  }
}
addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  reachScrolling();
});
addEventListener("resize", reachScrolling);
