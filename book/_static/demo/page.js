// The panels of the page that show trained networks: what to look at, and the four collaborations at work on it.
(() => {
  "use strict";
  const demo = window.imclDemo, { charts, images } = demo, { el, bars, strip, heads, button, slider, choice } = charts;
  const engine = imclNetwork(), KINDS = ["baseline", "collaboration"], BRANCHES = 2, ALIKE = 2;
  const here = document.currentScript.src.replace(/[^/]*$/, "");
  const NAMES = { baseline: "Baseline", collaboration: "Collaboration" };
  const state = { set: "digits", temperature: 2, seed: 1, told: 0, place: 5, kernel: 3, sets: {} };
  const panels = {};  // by name: what draws it again

  // --- the networks, in a worker where the browser has one

  const worker = (() => {
    const listen = `
      const engine = (${imclNetwork})(), networks = {};
      onmessage = ({ data: { id, name, network, pixels } }) => {
        if (network) return void (networks[name] = { ...network, layers: engine.unpack(network) });
        const start = performance.now(), found = {};
        for (const kind of ["baseline", "collaboration"]) found[kind] = engine.answer(networks[name + kind], pixels);
        postMessage({ id, found, ms: performance.now() - start });
      };`;
    try {
      return new Worker(URL.createObjectURL(new Blob([listen], { type: "text/javascript" })));
    } catch {
      return null;
    }
  })();
  const waiting = new Map();
  if (worker) worker.onmessage = ({ data }) => (waiting.get(data.id)(data), waiting.delete(data.id));

  function answer(name, pixels) {
    if (worker) {
      return new Promise(resolve => {
        const id = waiting.size + Math.random();
        waiting.set(id, resolve);
        worker.postMessage({ id, name, pixels });
      });
    }
    const start = performance.now(), found = {};
    for (const kind of KINDS) found[kind] = engine.answer(state.sets[name].networks[kind], pixels);
    return Promise.resolve({ found, ms: performance.now() - start });
  }

  const loading = {};
  const load = name => loading[name] ??= fetchless(name).catch(error => {
    delete loading[name];
    throw error;
  });

  async function fetchless(name) {
    if (!demo[name]) {
      await new Promise((resolve, reject) => {
        document.head.append(el("script", { src: `${here}${name}.js`, load: resolve, error: reject }));
      });
    }
    const { classes, mean, std, side, networks } = demo[name], made = {};
    for (const kind of KINDS) {
      const network = { ...networks[kind], mean, std, side };
      worker?.postMessage({ name: name + kind, network });
      made[kind] = { ...network, layers: engine.unpack(network) };
    }
    const blocks = Array.from({ length: 99 }, (_, i) => `block${i}.first`).filter(key => key in made.baseline.layers).length;
    state.sets[name] = { classes, networks: made, blocks, images: [], current: null };
    for (const image of await examples(name)) await add(name, image);
    state.sets[name].current = state.sets[name].images[0];
  }

  // --- images of a set: bytes, label, and what the networks found

  async function add(name, { pixels, label, origin }) {
    const { found, ms } = await answer(name, pixels), image = { pixels, label, origin, found, ms };
    image.label ??= charts.best(engine.softmax(found.collaboration.logits));
    state.sets[name].images.push(image);
    return image;
  }

  function testDigit(index) {
    const { pixels, labels } = digits();
    return { pixels: images.enlarge(pixels.subarray(64 * index, 64 * index + 64)), label: labels[index], origin: "test" };
  }

  const digits = () => digits.test ??= {
    pixels: engine.bytesOf(demo.digits.handwritten.test.pixels), labels: engine.bytesOf(demo.digits.handwritten.test.labels),
  };

  // Images to begin with, of four classes, so that similarity has blocks to show. The first is looked at.
  async function examples(name) {
    if (name === "digits") {
      return demo.digits.examples.map(testDigit);
    }
    const random = engine.generator(7);
    return images.drawable.flatMap(kind => [0, 1, 2].map(() => drawnByCode(kind, random)));
  }

  function drawnByCode(kind, random = Math.random) {
    const label = demo.photographs.classes.indexOf(kind);
    return { pixels: images.picture(kind, random), label, origin: "code" };
  }

  const set = () => state.sets[state.set];

  // The reader's own image: a drawing takes the place of the last one until it is kept.
  let drawing = 0;
  async function own(image, replace) {
    const name = state.set, turn = ++drawing, { images: all } = set(), previous = replace ? all.findIndex(i => i.origin === "drawing") : -1;
    const added = await add(name, image);
    if (previous >= 0) all.splice(previous, 1);
    if (turn !== drawing && replace) return;
    state.sets[name].current = added;
    redraw();
  }

  function remove(image) {
    const { images: all } = set(), place = all.indexOf(image);
    if (all.length < 2) return;
    all.splice(place, 1);
    set().current = all[Math.max(0, place - 1)];
    redraw();
    document.querySelector(".demo-tray [aria-pressed=true]")?.focus();
  }

  function redraw(...names) {
    for (const name of names.length ? names : Object.keys(panels)) panels[name]();
  }

  const label = () => set().classes[set().current.label];
  const say = (...words) => el("p", { class: "demo-say" }, words);

  // --- what to look at

  function choosePanel(root) {
    const source = el("div", { class: "demo-source" }), tray = el("div", { class: "demo-tray", role: "group", "aria-label": "Images chosen so far" });
    const said = el("div", { class: "demo-answer", "aria-live": "polite" }), time = el("p", { class: "demo-time" });
    const radios = ["digits", "photographs"].map(name => el("label", {}, el("input", {
      type: "radio", name: "demo-set", value: name, checked: name === state.set, change: () => change(name),
    }), el("span", {}, name === "digits" ? "Handwritten digits" : "Photographs")));
    root.append(
      el("fieldset", { class: "demo-sets" }, el("legend", {}, "Look at"), radios),
      el("div", { class: "demo-two" }, source, el("div", {}, said, time)),
      tray,
    );

    async function change(name) {
      root.setAttribute("aria-busy", "true");
      try {
        await load(name);
        state.set = name;
        state.kernel = Math.min(state.kernel, convolutions().length - 1);
        sources[name]();
        redraw();
      } catch {
        said.replaceChildren(say(`The file ${name}.js, which holds these networks, could not be loaded.`));
      }
      root.removeAttribute("aria-busy");
    }

    const sources = {
      digits() {
        const pad = images.pad(strokes => own({ pixels: images.enlarge(images.rasterise(strokes)), origin: "drawing" }, true));
        let next = 40;
        source.replaceChildren(
          el("p", { class: "demo-hint" }, "Draw a digit here:"), pad.canvas,
          el("div", { class: "demo-buttons" },
            button("Clear", pad.clear),
            button("Keep, draw another", () => {
              for (const image of set().images) if (image.origin === "drawing") image.origin = "kept";
              pad.clear();
            }),
            button("Take a test digit", () => own(testDigit(next++ % digits().labels.length)))),
        );
      },
      photographs() {
        const file = el("input", { type: "file", accept: "image/*", multiple: true, change: () => take(file.files) });
        const zone = el("label", { class: "demo-drop" },
          el("span", {}, "Your own pictures: choose, drop or paste them. They stay on this device."), file);
        for (const kind of ["dragover", "dragleave", "drop"]) {
          zone.addEventListener(kind, event => {
            event.preventDefault();
            zone.classList.toggle("demo-over", kind === "dragover");
            if (kind === "drop") take(event.dataTransfer.files);
          });
        }
        let kind = images.drawable[0];
        source.replaceChildren(zone, el("div", { class: "demo-buttons" },
          choice("Or one drawn by code:", images.drawable.map(name => [name, name]), kind, value => { kind = value; }),
          button("Draw it", () => own(drawnByCode(kind)))));
      },
    };

    async function take(files) {
      for (const file of files) {
        try {
          await own({ pixels: await images.fromFile(file), origin: "file" });
        } catch {
          said.replaceChildren(say(`${file.name} is no picture that this browser can read.`));
        }
      }
    }
    addEventListener("paste", event => {
      const files = [...event.clipboardData?.files ?? []].filter(file => file.type.startsWith("image/"));
      if (files.length && state.set === "photographs") take(files);
    });

    sources.digits();
    panels.choose = () => {
      const { classes, current, networks } = set(), focused = said.contains(document.activeElement);
      said.replaceChildren(
        el("div", { class: "demo-looked" }, charts.thumbnail(current.pixels, 32, "The image looked at"),
          choice("It is", classes.map((name, k) => [String(k), name]), String(current.label), k => {
            current.label = Number(k);
            redraw();
          })),
        ...KINDS.map(kind => {
          const p = engine.softmax(current.found[kind].logits);
          return el("div", { class: `demo-row ${kind}` },
            el("span", {}, el("strong", {}, NAMES[kind]), ` says ${charts.told(p, classes)}`),
            bars(p, { classes, name: NAMES[kind] }));
        }), el("div", { class: "demo-row" }, el("span"), heads(classes)),
      );
      if (focused) said.querySelector("select").focus();
      time.textContent = `Both networks took ${current.ms.toFixed(0)} ms on this device. On test images they err in ${
        KINDS.map(kind => `${networks[kind].error.toFixed(1)} % (${kind})`).join(" and ")}: one run each.`;
      const ordered = [...set().images].sort((a, b) => a.label - b.label);
      tray.replaceChildren(...ordered.map((image, place) => el("button", {
        type: "button", "aria-pressed": String(image === current), title: classes[image.label],
        "aria-label": `Look at image ${place + 1}: ${classes[image.label]}`,
        click: () => {
          set().current = image;
          redraw();
          tray.children[place]?.focus();
        },
      }, charts.thumbnail(image.pixels, 32))),
      button("Remove", () => remove(current), { class: "demo-remove", "aria-label": "Remove the image looked at" }));
    };
  }

  // --- 1: the output layer

  function outputPanel(root) {
    const body = el("div", { class: "demo-two" }), said = el("div", { "aria-live": "polite" });
    root.append(
      el("div", { class: "demo-controls" },
        button("Draw new masks", () => {
          state.seed++;
          redraw("output");
        }),
        slider({
          label: "Temperature T", min: -2, max: 3, step: 0.25, value: Math.log2(state.temperature),
          show: v => (2 ** v).toFixed(2).replace(/\.?0+$/, ""),
          act: v => {
            state.temperature = 2 ** v;
            redraw("output", "layers");
          },
        })),
      charts.legend([["demo-bar", "prediction"], ["demo-tick", "its teacher: the mean of the other three, Eq. 2"]]),
      body, said,
    );
    panels.output = () => {
      const { classes, networks, current } = set(), apart = {}, T = state.temperature;
      body.replaceChildren(...KINDS.map(kind => {
        const network = networks[kind], { features, logits } = current.found[kind];
        const masks = engine.drawMasks(features.length, network.dropout, BRANCHES, engine.generator(state.seed));
        const z = engine.predictions(network, features, masks), p = z.map(row => engine.softmax(row, T));
        const teachers = engine.peers(z, T);
        apart[kind] = distance(p);
        const rows = p.map((row, h) => line(`masks ${(h >> 1) + 1}, ${h + 1}`, bars(row, { classes, teacher: teachers[h], name: `Prediction ${h + 1}` })));
        return el("div", { class: kind }, el("h3", {}, NAMES[kind]), ...rows,
          line("their mean", bars(engine.softmax(engine.mean(z), T), { classes, name: "Mean" }), "demo-mean"),
          line("no dropout", bars(engine.softmax(logits, T), { classes, name: "Without dropout" })),
          line("", heads(classes)));
      }));
      said.replaceChildren(say(`How far the four are apart, as in chapter 3: ${
        KINDS.map(kind => `${apart[kind].toFixed(3)} (${kind})`).join(", ")}.`));
    };
  }

  const line = (text, chart, kind = "") => el("div", { class: `demo-line-of ${kind}` }, el("span", {}, text), chart);

  // Mean total variation between two of the predictions.
  function distance(p) {
    let sum = 0, pairs = 0;
    p.forEach((a, i) => p.slice(i + 1).forEach(b => {
      sum += a.reduce((part, value, k) => part + Math.abs(value - b[k]) / 2, 0);
      pairs++;
    }));
    return sum / pairs;
  }

  // --- 2: intermediate layers

  function layersPanel(root) {
    const body = el("div", { class: "demo-layers" }), said = el("div", { "aria-live": "polite" });
    root.append(charts.legend([["demo-says", "what the layer says"], ["demo-taught", "what deeper layers teach it, Eq. 6"]]), body, said);
    panels.layers = () => {
      const { classes, current, blocks } = set(), { local, logits } = current.found.collaboration, T = state.temperature;
      const teachers = engine.deeper(local, logits, T), name = i => (i === 0 ? "stem" : `block ${i}`);
      const focused = body.contains(document.activeElement);
      const rows = [el("div", { class: "demo-layer demo-teaches" }, el("span", {}, "output"),
        strip(engine.softmax(logits, T), { classes, name: "The network" }), el("span"))];
      for (let i = blocks - 1; i >= 0; i--) {
        const kind = i > state.told ? "demo-teaches" : i === state.told ? "demo-told" : "";
        rows.push(el("div", { class: `demo-layer ${kind}` },
          button(name(i), () => {
            state.told = i;
            redraw("layers");
          }, { "aria-pressed": String(i === state.told), "aria-label": `Who teaches ${name(i)}?` }),
          strip(engine.softmax(local[i], T), { classes, name: `${name(i)} says` }),
          strip(teachers[i], { classes, name: `${name(i)} is taught`, kind: "demo-taught" })));
      }
      body.replaceChildren(el("div", { class: "demo-layer demo-top" }, el("span"), heads(classes), heads(classes)), ...rows);
      if (focused) body.querySelector("[aria-pressed=true]").focus();
      const i = state.told, says = charts.told(engine.softmax(local[i], T), classes), taught = charts.told(teachers[i], classes);
      said.replaceChildren(say(`${i ? `Block ${i}` : "The stem"} says ${says}. Its teachers are the ${blocks - i === 1 ? "output alone" : `${blocks - i} rows above it`}, which say ${taught}; it is ${article(label())}.`));
    };
  }

  const article = word => `${/^[aeiou8]/.test(word) ? "an" : "a"} ${word}`;

  // --- 3: pull and push

  function similarityPanel(root) {
    const body = el("div", { class: "demo-matrices" }), graph = el("div"), keys = el("div"), said = el("div", { "aria-live": "polite" });
    const place = el("div", { class: "demo-controls" });
    root.append(
      place, body, charts.legend([["demo-minus", "opposite, −1"], ["demo-none", "nothing in common, 0"], ["demo-plus", "alike, 1"]]),
      el("div", { class: "demo-two" }, graph, el("div", {}, keys, said)),
    );
    keys.append(charts.legend([["demo-key baseline", "baseline"], ["demo-key collaboration", "collaboration"], ["demo-key collaboration demo-dashed", "collaboration, through g"]]));
    place.append(slider({
      label: "Layer", min: 0, max: 8, step: 1, value: state.place, show: i => (i === 0 ? "stem" : `block ${i}`),
      act: i => {
        state.place = i;
        redraw("similarity");
      },
    }));
    panels.similarity = () => {
      const { classes, blocks } = set(), chosen = [...set().images].sort((a, b) => a.label - b.label), i = state.place;
      const oneHot = chosen.map(({ label }) => classes.map((_, k) => +(k === label))), Sy = engine.cosines(oneHot);
      const rows = (kind, what, layer) => chosen.map(({ found }) => found[kind][what][layer]);
      const of = (kind, what, layer) => engine.cosines(rows(kind, what, layer));
      const shown = [
        ["pixels", engine.cosines(chosen.map(({ pixels }) => pixels))],
        ["baseline", of("baseline", "deviations", i)],
        ["collaboration", of("collaboration", "deviations", i)],
        ["same, through g", of("collaboration", "projected", i)],
        ["labels: the goal", Sy],
      ];
      body.replaceChildren(...shown.map(([title, S]) => {
        const far = engine.distance(S, Sy).toFixed(2), said = `Similarity of ${chosen.length} images by ${title}, sorted by class; distance to the labels' ${far}`;
        return el("figure", {}, charts.pixels(el("canvas"), S, said), el("figcaption", {}, title, el("small", {}, S === Sy ? "0" : far)));
      }));
      const far = (kind, what) => Array.from({ length: blocks }, (_, layer) => engine.distance(of(kind, what, layer), Sy));
      const series = [
        { kind: "baseline", values: far("baseline", "deviations") },
        { kind: "collaboration", values: far("collaboration", "deviations") },
        { kind: "collaboration demo-dashed", values: far("collaboration", "projected") },
      ];
      const top = Math.max(1, ...series.flatMap(({ values }) => values));
      graph.replaceChildren(charts.lines(series, {
        said: `Distance to the labels' matrix by layer: at the last, baseline ${series[0].values.at(-1).toFixed(2)}, collaboration ${series[1].values.at(-1).toFixed(2)}, through g ${series[2].values.at(-1).toFixed(2)}`,
        xLabel: "layer: stem, then blocks", yLabel: "distance to labels'", top, marker: i, last: blocks - 1, ticks: [0, 0.5, 1],
      }));
      said.replaceChildren(say(`${chosen.length} images. Under each matrix stands its distance to the labels', as in Eq. 9; the lines show it layer by layer. g is the convolution through which Eq. 9 looks at a layer.`));
    };
  }

  // --- 4: kernels

  const convolutions = () => Object.keys(set().networks.baseline.layers).filter(name => /^block[5-8]\.(first|last)$/.test(name));

  function kernelPanel(root) {
    const pick = el("div", { class: "demo-controls" }), body = el("div", { class: "demo-two" });
    root.append(pick, body);
    panels.kernel = () => {
      const names = convolutions(), name = names[state.kernel];
      const focused = pick.contains(document.activeElement);
      pick.replaceChildren(choice("Convolution", names.map((key, i) => [String(i), `${key.replace("block", "block ").replace(".", ", ")}`]), String(state.kernel), i => {
        state.kernel = Number(i);
        redraw("kernel");
      }));
      if (focused) pick.querySelector("select").focus();
      body.replaceChildren(...KINDS.map(kind => {
        const layer = set().networks[kind].layers[name], filters = engine.filters(layer), C = engine.cosines(filters);
        const pairs = [];
        C.forEach((row, i) => row.forEach((value, j) => { if (j > i) pairs.push([value, i, j]); }));
        pairs.sort((a, b) => b[0] - a[0]);
        const loss = Math.sqrt(2 * pairs.reduce((sum, [value]) => sum + value * value, 0));
        const typical = loss / Math.sqrt(C.length * (C.length - 1));
        return el("div", { class: kind }, el("h3", {}, kind === "baseline" ? "Baseline: without " : "Collaboration: with ", charts.lossName("kernel")),
          ...pairs.slice(0, ALIKE).map(([value, i, j]) => el("figure", { class: "demo-pair" },
            ...[i, j].map(f => charts.pixels(el("canvas"), charts.tiles(filters[f], 3), `Filter ${f + 1} of ${C.length}: its ${layer.shape[1]} channels`)),
            el("figcaption", {}, `covariance ${value.toFixed(3)}`))),
          say("Its ", charts.lossName("kernel"), ` is ${loss.toFixed(2)}: two filters have a typical covariance of ${typical.toFixed(3)}.`));
      }));
    };
  }

  // --- begin

  demo.network = { state, load, answer, engine, add, redraw };  // for the tests
  const build = { choose: choosePanel, output: outputPanel, layers: layersPanel, similarity: similarityPanel, kernel: kernelPanel };
  const roots = Object.keys(build).map(name => [name, document.querySelector(`[data-demo=${name}]`)]).filter(([, root]) => root);
  if (!roots.length) return;
  demo.ready = load("digits").then(() => {
    for (const [name, root] of roots) build[name](root);
    redraw();
    document.documentElement.classList.add("demo-on");
  });
})();
