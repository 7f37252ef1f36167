for (const table of document.querySelectorAll("table.imcl:not([data-sortable])")) {
  table.dataset.sortable = "";
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const compare = (a, b, sign) => {
    if (!a.textContent || !b.textContent) return !a.textContent - !b.textContent;
    if (a.dataset.value && b.dataset.value) return sign * (a.dataset.value - b.dataset.value);
    return sign * a.textContent.localeCompare(b.textContent, "en", {numeric: true});
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      body.append(...[...body.rows].sort((a, b) => compare(a.cells[column], b.cells[column], sign)));
    });
  });
}
