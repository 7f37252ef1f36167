// The panel where a network of two layers learns before the reader's eyes, beside a plain one with the same start.
(() => {
  "use strict";
  const demo = window.imclDemo, { charts } = demo, { el, button, slider, choice } = charts;
  const root = document.querySelector("[data-demo=training]"), trainer = imclTrainer(), engine = imclNetwork();
  const BATCH = 25, LONGEST = 1500, EVERY = 10, SIZES = [50, 100, 200, 400];
  // Switches: the settings they stand for, with a sensible weight and the largest that the slider offers.
  const LOSSES = {
    out: { of: { out: 1 }, most: 1, help: "four masks teach one another" },
    mid: { of: { mid: 1 }, value: 0.1, most: 0.5, help: "deeper layers teach each layer" },
    "pull-push": { of: { pull: 1, push: 0.1 }, value: 0.3, most: 2, help: "alike as labels, not as pixels" },
    kernel: { of: { kernel: 1 }, value: 0.02, most: 0.2, help: "no two filters alike" },
  };
  const PLACES = [
    ["layer 1", ["W1", "b1"]], ["layer 2", ["W2", "b2"]], ["output", ["W3", "b3"]],
    ["added to 1", ["L1", "c1", "G1"]], ["added to 2", ["L2", "c2", "G2"]],
  ];
  const chosen = Object.fromEntries(Object.entries(LOSSES).map(([name, { value = 1 }]) => [name, { on: true, weight: value }]));
  const state = { local: true, size: 100, seed: 1, running: false };

  function settings(on) {
    const found = { local: state.local, out: 0, mid: 0, pull: 0, push: 0, kernel: 0 };
    for (const [name, { of }] of Object.entries(LOSSES)) {
      for (const key in of) found[key] = on && chosen[name].on ? of[key] * chosen[name].weight : 0;
    }
    return found;
  }

  function prepare({ train, test }) {
    const split = ({ pixels, labels }) => ({ x: trainer.rows(engine.bytesOf(pixels)), y: [...engine.bytesOf(labels)] });
    state.train = split(train);
    state.test = split(test);
    const three = k => state.test.y.flatMap((label, i) => (label === k ? [i] : [])).slice(0, 3);
    state.shown = Array.from({ length: 10 }, (_, k) => three(k)).flat();
    state.goal = engine.cosines(trainer.oneHot(state.shown.map(i => state.test.y[i])));
  }

  function reset() {
    state.steps = 0;
    state.networks = [false, true].map(on => trainer.create(engine.generator(state.seed), settings(on)));
    state.random = [0, 1].map(() => engine.generator(1000 + state.seed));  // the same batches and masks for both
    state.errors = [[], []];
    state.order = [];
    evaluate();
  }

  function evaluate() {
    state.looks = state.networks.map(network => trainer.look(network, state.test.x));
    state.looks.forEach(({ logits }, i) => {
      const wrong = logits.filter((row, n) => row.indexOf(Math.max(...row)) !== state.test.y[n]).length;
      state.errors[i].push(100 * wrong / logits.length);
    });
  }

  function batch(random) {
    const places = Array.from({ length: BATCH }, () => Math.floor(random() * state.size));
    return [places.map(i => state.train.x[i]), places.map(i => state.train.y[i])];
  }

  function step() {
    state.networks.forEach((network, i) => {
      Object.assign(network.settings, settings(i === 1));
      const [x, y] = batch(state.random[i]), masks = trainer.drawMasks(network, BATCH, state.random[i]);
      trainer.step(network, x, y, masks);
    });
    state.steps++;
    if (state.steps % EVERY === 0) evaluate();
  }

  // The terms' gradients on one fixed batch, with fixed masks, for the table.
  function gradients() {
    const network = state.networks[1], random = engine.generator(5);
    Object.assign(network.settings, settings(true));
    const [x, y] = batch(random);
    return trainer.terms(network, x, y, trainer.drawMasks(network, BATCH, random));
  }

  // --- what is seen

  function build() {
    const go = button("Train", () => run(!state.running), { class: "demo-go" });
    const curve = el("div"), rows = el("div", { class: "demo-rows" }), table = el("div"), said = el("div");
    root.append(
      el("div", { class: "demo-controls" }, go,
        button("One step", () => (step(), show())),
        button("Start anew", () => (state.seed++, reset(), run(false))),
        choice("Training images", SIZES.map(n => [String(n), String(n)]), String(state.size), n => {
          state.size = Number(n);
          reset();
          show();
        })),
      el("div", { class: "demo-two" }, el("div", { class: "demo-losses" }, Object.entries(LOSSES).map(loss)), curve),
      said, rows,
      el("h3", {}, "Where each gradient goes"),
      el("label", { class: "demo-check" }, el("input", { type: "checkbox", checked: true, change: event => {
        state.local = event.target.checked;
        show();
      } }), el("span", {}, "Local gradients stop at their layer, as in the paper")),
      table,
    );

    function loss([name, { most, help }]) {
      const box = el("input", { type: "checkbox", checked: true, change: () => {
        chosen[name].on = box.checked;
        show();
      } });
      return el("div", { class: `demo-loss demo-${name}` },
        el("label", { class: "demo-check" }, box, el("span", {}, el("strong", {}, charts.lossName(name)), ` ${help}`)),
        slider({
          label: name === "out" ? "share" : "weight", min: 0, max: most, step: most / 100, value: chosen[name].weight,
          show: v => String(Number(v.toFixed(3))),
          act: v => {
            chosen[name].weight = v;
            show();
          },
        }));
    }

    function run(on) {
      state.running = on && state.steps < LONGEST;
      go.textContent = state.running ? "Pause" : "Train";
      said.setAttribute("aria-live", state.running ? "off" : "polite");
      if (state.running) requestAnimationFrame(frame);
      else show();
    }

    function frame() {
      if (!state.running) return;
      const end = performance.now() + 10;
      do step(); while (performance.now() < end && state.steps % EVERY && state.steps < LONGEST);
      if (state.steps >= LONGEST) return run(false);
      if (state.steps % EVERY === 0) show();
      requestAnimationFrame(frame);
    }

    function show() {
      const last = Math.max(state.errors[0].length - 1, 10);
      const [plain, yours] = state.errors.map(errors => errors.at(-1));
      curve.replaceChildren(charts.lines([
        { kind: "baseline", values: state.errors[0] }, { kind: "collaboration", values: state.errors[1] },
      ], {
        said: `Test error by step: after ${state.steps} steps ${plain.toFixed(1)} % plain, ${yours.toFixed(1)} % with your losses`,
        xLabel: "steps", yLabel: "test error, %", top: 60, last, end: last * EVERY, ticks: [0, 20, 40, 60],
      }), charts.legend([["demo-key baseline", "plain"], ["demo-key collaboration", "with your losses"]]));
      said.replaceChildren(el("p", { class: "demo-say" }, `After ${state.steps} steps, test error: plain ${
        plain.toFixed(1)} %, with your losses ${yours.toFixed(1)} %. One run on ${state.size} images; start anew for another.`));
      rows.replaceChildren(...["Plain", "With your losses"].map((title, i) => pictures(title, i)));
      table.replaceChildren(norms());
    }

    reset();
    run(false);
  }

  // What a network looks like inside: filters of layer 1, similarity of test images at both layers, mean predictions.
  function pictures(title, i) {
    const { h1, h2, logits } = state.looks[i], at = rows => state.shown.map(n => rows[n]);
    const filters = state.networks[i].parameters.W1.map(row => standardised(row)).flat();
    const predicted = Array.from({ length: 10 }, (_, k) => {
      const own = logits.filter((_, n) => state.test.y[n] === k).map(row => trainer.softmax(row, 1));
      return engine.mean(own);
    });
    const S = [h1, h2].map(h => engine.cosines(at(h)));
    const far = S.map(matrix => engine.distance(matrix, state.goal).toFixed(2));
    const right = engine.mean(predicted.map((row, k) => [row[k]]))[0];
    const shown = [
      ["filters of layer 1", charts.tiles(filters, 8), "The filters of layer 1"],
      [`alike, layer 1: ${far[0]}`, S[0], `Similarity of thirty test images at layer 1; distance to the labels' ${far[0]}`],
      [`alike, layer 2: ${far[1]}`, S[1], `Similarity of thirty test images at layer 2; distance to the labels' ${far[1]}`],
      ["predictions by digit", predicted, `Mean prediction for each digit; the label gets ${charts.percent(right)}`],
    ];
    return el("div", { class: i ? "collaboration" : "baseline" }, el("h3", {}, title), el("div", { class: "demo-four" },
      shown.map(([text, values, said]) => el("figure", {}, charts.pixels(el("canvas"), values, `${title}. ${said}`), el("figcaption", {}, text)))));
  }

  function standardised(row) {
    const mean = row.reduce((a, b) => a + b, 0) / row.length;
    const deviation = Math.sqrt(row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / row.length) || 1;
    return Array.from(row, value => (value - mean) / deviation);
  }

  // Norms of the gradient of every term, by where it arrives; a place it does not reach is an exact zero.
  function norms() {
    const rows = Object.entries(gradients()).map(([term, { gradients: found }]) => [term, PLACES.map(([, names]) =>
      Math.hypot(...names.map(name => (found[name] ? trainer.norm(found[name]) : 0))))]);
    const cell = value => {
      const share = value === 0 ? 0 : Math.max(0.08, Math.min(1, (Math.log10(value) + 4) / 4));
      return el("td", {}, el("i", { style: `opacity:${(0.4 * share).toFixed(2)}` }), el("span", {}, value === 0 ? "0" : value.toPrecision(1)));
    };
    return el("table", { class: "demo-norms" },
      el("caption", {}, "Norm of the gradient of each loss, by where it arrives, with your losses"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "loss / layer"), PLACES.map(([name]) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, rows.map(([term, values]) => el("tr", {}, el("th", { scope: "row" }, term.replace("/", " / ")), values.map(cell)))));
  }

  demo.training = { trainer, state, chosen };  // for the tests
  if (root && demo.digits) {
    prepare(demo.digits.handwritten);
    build();
  }
})();
