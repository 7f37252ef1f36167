// Small pictures of numbers: bars, strips, matrices, filters, lines. Colours are those of the theme, by day and night.
(() => {
  "use strict";
  const demo = window.imclDemo ??= {};

  // An element: attributes by name, functions as event listeners, then children.
  function el(name, attributes = {}, ...children) {
    const svg = ["svg", "path", "line", "circle", "text", "g"].includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (typeof value === "function") made.addEventListener(key, value);
      else if (value === true) made.setAttribute(key, "");
      else if (value !== false && value != null) made.setAttribute(key, value);
    }
    made.append(...children.flat().filter(child => child != null));
    return made;
  }

  const percent = p => `${Math.round(100 * p)} %`;
  const best = p => p.indexOf(Math.max(...p));

  // What is said of a distribution to those who cannot see it.
  const told = (p, classes) => `${classes[best(p)]} with ${percent(Math.max(...p))}`;

  // Ten bars; `teacher` is drawn as a line across each.
  function bars(p, { classes, teacher, name }) {
    const said = `${name}: ${told(p, classes)}${teacher ? `; taught ${told(teacher, classes)}` : ""}`;
    return el("div", { class: "demo-bars", role: "img", "aria-label": said },
      p.map((value, k) => el("span", { title: `${classes[k]}: ${percent(value)}` },
        el("i", { style: `height:${(100 * value).toFixed(1)}%` }),
        teacher ? el("b", { style: `bottom:${(100 * teacher[k]).toFixed(1)}%` }) : null)));
  }

  // The same ten numbers as shades.
  function strip(p, { classes, name, kind = "" }) {
    return el("div", { class: `demo-strip ${kind}`, role: "img", "aria-label": `${name}: ${told(p, classes)}` },
      p.map((value, k) => el("span", { title: `${classes[k]}: ${percent(value)}` },
        el("i", { style: `opacity:${value.toFixed(3)}` }))));
  }

  // The names of the classes above bars or strips.
  function heads(classes) {
    const long = classes.some(name => name.length > 2);
    return el("div", { class: `demo-heads${long ? " demo-long" : ""}`, "aria-hidden": "true" },
      classes.map(name => el("span", {}, name)));
  }

  // --- pictures in pixels, drawn again when the theme changes

  let theme = null;

  function colours() {
    if (theme) return theme;
    const probe = el("span", { class: "demo-probe" });
    document.body.append(probe);
    const style = getComputedStyle(probe);
    const rgb = text => text.match(/[\d.]+/g).slice(0, 3).map(Number);
    theme = { ground: rgb(style.backgroundColor), plus: rgb(style.color), minus: rgb(style.borderTopColor) };
    theme.gap = rgb(style.outlineColor);
    probe.remove();
    return theme;
  }

  // A canvas of `rows` x `columns` values from -1 to 1; null is a gap.
  function pixels(canvas, rows, said) {
    canvas.width = rows[0].length;
    canvas.height = rows.length;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", said);
    const paint = () => {
      const { ground, plus, minus, gap } = colours(), context = canvas.getContext("2d");
      const image = context.createImageData(canvas.width, canvas.height);
      rows.forEach((row, y) => row.forEach((value, x) => {
        const at = 4 * (y * canvas.width + x), share = Math.min(Math.abs(value), 1), end = value < 0 ? minus : plus;
        for (let c = 0; c < 3; c++) image.data[at + c] = value === null ? gap[c] : ground[c] + share * (end[c] - ground[c]);
        image.data[at + 3] = 255;
      }));
      context.putImageData(image, 0, 0);
    };
    canvas.paint = paint;
    paint();
    return canvas;
  }

  new MutationObserver(() => {
    theme = null;
    for (const canvas of document.querySelectorAll(".demo-panel canvas")) canvas.paint?.();
  }).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });

  // The channels of a filter side by side, in a nearly square grid; its own deviations are the unit.
  function tiles(row, kernel) {
    const channels = row.length / (kernel * kernel), columns = Math.ceil(Math.sqrt(channels));
    const lines = Math.ceil(channels / columns), mean = row.reduce((a, b) => a + b, 0) / row.length;
    const deviation = Math.sqrt(row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / row.length) || 1;
    const grid = Array.from({ length: lines * (kernel + 1) - 1 }, () => Array(columns * (kernel + 1) - 1).fill(null));
    for (let c = 0; c < channels; c++) {
      const top = Math.floor(c / columns) * (kernel + 1), left = (c % columns) * (kernel + 1);
      for (let i = 0; i < kernel * kernel; i++) {
        grid[top + Math.floor(i / kernel)][left + i % kernel] = (row[c * kernel * kernel + i] - mean) / (3 * deviation);
      }
    }
    return grid;
  }

  // An image of 32 x 32 bytes in three planes, on a canvas.
  function thumbnail(bytes, side, said) {
    const canvas = el("canvas", { width: side, height: side, role: said ? "img" : null, "aria-label": said });
    const context = canvas.getContext("2d"), image = context.createImageData(side, side), area = side * side;
    for (let i = 0; i < area; i++) {
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = bytes[c * area + i];
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  // Lines over whole numbers. `series`: {name, kind, values}; `marker`: a place to point out; `top`: of the axis.
  function lines(series, { said, xLabel, yLabel, top, marker, last, end = last, ticks = [] }) {
    const W = 340, H = 170, left = 34, right = 8, up = 10, down = 30;
    const x = i => left + (W - left - right) * (last ? i / last : 0), y = v => up + (H - up - down) * (1 - Math.min(v, top) / top);
    const path = values => values.map((v, i) => v == null ? "" : `${i && values[i - 1] != null ? "L" : "M"}${x(i).toFixed(1)},${y(v).toFixed(1)}`).join("");
    const svg = el("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": said, class: "demo-lines" });
    for (const tick of ticks) {
      svg.append(el("line", { x1: left, x2: W - right, y1: y(tick), y2: y(tick), class: "demo-grid" }));
      svg.append(el("text", { x: left - 4, y: y(tick) + 4, "text-anchor": "end" }, String(tick)));
    }
    if (marker != null) svg.append(el("line", { x1: x(marker), x2: x(marker), y1: up, y2: H - down, class: "demo-marker" }));
    for (const { kind, values } of series) svg.append(el("path", { d: path(values), class: `demo-line ${kind}` }));
    svg.append(el("text", { x: (left + W - right) / 2, y: H - 4, "text-anchor": "middle" }, xLabel));
    svg.append(el("text", { x: left, y: H - 15, "text-anchor": "middle" }, "0"));
    if (last) svg.append(el("text", { x: W - right, y: H - 15, "text-anchor": "end" }, String(end)));
    svg.append(el("text", { x: -(H - down + up) / 2, y: 9, transform: "rotate(-90)", "text-anchor": "middle" }, yLabel));
    return svg;
  }

  function legend(entries) {
    return el("p", { class: "demo-legend" }, entries.map(([kind, text]) => el("span", {}, el("i", { class: kind }), text)));
  }

  // A labelled slider; `show` turns its number into words.
  function slider({ label, min, max, step, value, show, act }) {
    const said = el("output", { "aria-live": "off" }, show(value));
    const input = el("input", { type: "range", min, max, step, value, "aria-valuetext": show(value) });
    input.addEventListener("input", () => {
      said.textContent = show(input.valueAsNumber);
      input.setAttribute("aria-valuetext", said.textContent);
      act(input.valueAsNumber);
    });
    return el("label", { class: "demo-slider" }, el("span", {}, label), input, said);
  }

  function choice(label, options, value, act) {
    const list = el("select", { change: () => act(list.value) },
      options.map(([key, text]) => el("option", { value: key, selected: key === value }, text)));
    return el("label", { class: "demo-choice" }, el("span", {}, label), list);
  }

  // The name of a loss, as the chapters write it.
  const lossName = name => el("span", { class: "demo-loss-name" }, "ℒ", el("sub", {}, name));

  const button = (text, act, attributes = {}) => el("button", { type: "button", click: act, ...attributes }, text);

  demo.charts = {
    el, percent, best, told, bars, strip, heads, pixels, tiles, thumbnail, lines, legend, slider, choice, button, lossName,
  };
})();
