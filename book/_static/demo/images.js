// Where images come from: digits drawn by hand, test digits, the reader's own files, and pictures drawn by code.
// All end as bytes of three planes, 32 x 32, as the data sets have them. Nothing leaves the page.
(() => {
  "use strict";
  const demo = window.imclDemo ??= {}, { el } = demo.charts;
  const SIDE = 32, AREA = SIDE * SIDE, LINE = 5;

  // 8x8 digits of 0 to 16 to bytes, as `imcl_core.data.sets` enlarges them: bilinear, rounded.
  function enlarge(cells) {
    const bytes = new Uint8Array(3 * AREA), place = i => Math.min(Math.max((i + 0.5) / 4 - 0.5, 0), 7);
    for (let y = 0; y < SIDE; y++) {
      for (let x = 0; x < SIDE; x++) {
        const v = place(y), u = place(x), top = Math.floor(v), left = Math.floor(u), a = v - top, b = u - left;
        const low = Math.min(top + 1, 7), far = Math.min(left + 1, 7), at = (r, c) => cells[8 * r + c];
        const upper = (1 - b) * at(top, left) + b * at(top, far), lower = (1 - b) * at(low, left) + b * at(low, far);
        const exact = ((1 - a) * upper + a * lower) * 255 / 16, floor = Math.floor(exact);
        // Halves go to the even number, as PyTorch rounds.
        const value = exact - floor === 0.5 ? floor + (floor & 1) : Math.round(exact);
        for (let c = 0; c < 3; c++) bytes[c * AREA + y * SIDE + x] = value;
      }
    }
    return bytes;
  }

  // Strokes, lists of points in any unit, to 8x8: moved to the middle and as tall as the box, like the data set's.
  function rasterise(strokes) {
    const points = strokes.flat(), xs = points.map(p => p[0]), ys = points.map(p => p[1]);
    const wide = Math.max(...xs) - Math.min(...xs), tall = Math.max(...ys) - Math.min(...ys);
    const scale = (SIDE - LINE) / Math.max(wide, tall, 1e-6);
    const left = (SIDE - scale * wide) / 2 - scale * Math.min(...xs), top = (SIDE - scale * tall) / 2 - scale * Math.min(...ys);
    const context = el("canvas", { width: SIDE, height: SIDE }).getContext("2d", { willReadFrequently: true });
    Object.assign(context, { lineWidth: LINE, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
    for (const stroke of strokes) {
      context.beginPath();
      stroke.forEach(([x, y]) => context.lineTo(left + scale * x, top + scale * y));
      if (stroke.length === 1) context.lineTo(left + scale * stroke[0][0] + 0.01, top + scale * stroke[0][1]);
      context.stroke();
    }
    const alpha = context.getImageData(0, 0, SIDE, SIDE).data, cells = new Uint8Array(64);
    for (let r = 0; r < 8; r++) {
      for (let c = 0; c < 8; c++) {
        let sum = 0;
        for (let y = 4 * r; y < 4 * r + 4; y++) for (let x = 4 * c; x < 4 * c + 4; x++) sum += alpha[4 * (SIDE * y + x) + 3];
        cells[8 * r + c] = Math.round(sum / 255);
      }
    }
    return cells;
  }

  // A pad to draw on with mouse, finger or pen; `act` gets the strokes after each of them.
  function pad(act) {
    const canvas = el("canvas", {
      width: 240, height: 240, class: "demo-pad", role: "img",
      "aria-label": "A pad: draw a digit with mouse, finger or pen. By keyboard, take a test digit instead.",
    });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    let strokes = [], drawing = false;
    const clear = () => {
      strokes = [];
      context.clearRect(0, 0, 240, 240);
    };
    const to = event => {
      const box = canvas.getBoundingClientRect();
      return [240 * (event.clientX - box.left) / box.width, 240 * (event.clientY - box.top) / box.height];
    };
    const ink = () => Object.assign(context, {
      lineWidth: 16, lineCap: "round", lineJoin: "round", strokeStyle: getComputedStyle(canvas).color,
    });
    canvas.addEventListener("pointerdown", event => {
      event.preventDefault();
      canvas.setPointerCapture(event.pointerId);
      drawing = true;
      strokes.push([to(event)]);
      ink();
    });
    canvas.addEventListener("pointermove", event => {
      if (!drawing) return;
      const stroke = strokes.at(-1), from = stroke.at(-1), next = to(event);
      stroke.push(next);
      context.beginPath();
      context.moveTo(...from);
      context.lineTo(...next);
      context.stroke();
    });
    const end = () => {
      if (!drawing) return;
      drawing = false;
      act(strokes);
    };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
    return { canvas, clear };
  }

  // The middle square of a picture, made small in steps so that no pixel is lost.
  function shrink(source, width, height) {
    let side = Math.min(width, height), canvas = el("canvas", {}), left = (width - side) / 2, top = (height - side) / 2;
    let from = source;
    for (;;) {
      const next = Math.max(SIDE, Math.floor(side / 2)), to = el("canvas", { width: next, height: next });
      const context = to.getContext("2d", { willReadFrequently: true });
      context.imageSmoothingQuality = "high";
      context.drawImage(from, left, top, side, side, 0, 0, next, next);
      [from, canvas, side, left, top] = [to, to, next, 0, 0];
      if (next === SIDE) break;
    }
    const data = canvas.getContext("2d").getImageData(0, 0, SIDE, SIDE).data, bytes = new Uint8Array(3 * AREA);
    for (let i = 0; i < AREA; i++) {
      const alpha = data[4 * i + 3] / 255;  // what is transparent is white
      for (let c = 0; c < 3; c++) bytes[c * AREA + i] = Math.round(255 + alpha * (data[4 * i + c] - 255));
    }
    return bytes;
  }

  async function fromFile(file) {
    const picture = await createImageBitmap(file);
    return shrink(picture, picture.width, picture.height);
  }

  // --- pictures drawn by code, no two alike: what they show is the name of a class

  const pictures = {
    airplane(c, r) {
      sky(c, r, 128);
      c.translate(64 + 12 * (r() - 0.5), 62 + 16 * (r() - 0.5));
      c.rotate(-0.25 + 0.4 * (r() - 0.5));
      if (r() < 0.5) c.scale(-1, 1);
      const body = grey(215 + 40 * r());
      shape(c, body, [[-46, 0], [-36, -7], [30, -6], [46, 1], [32, 7], [-36, 7]]);
      shape(c, grey(150 + 40 * r()), [[4, 1], [-22, 30], [-32, 30], [-12, 1]]);
      shape(c, grey(180), [[2, -5], [-14, -22], [-22, -22], [-10, -5]]);
      shape(c, `hsl(${360 * r()} 60% 45%)`, [[-30, -5], [-44, -24], [-50, -24], [-46, -2]]);
    },
    ship(c, r) {
      sky(c, r, 70);
      c.fillStyle = `hsl(${200 + 15 * r()} 45% ${28 + 14 * r()}%)`;
      c.fillRect(0, 74, 128, 54);
      c.translate(10 * (r() - 0.5), 4 * r());
      if (r() < 0.5) {
        c.translate(128, 0);
        c.scale(-1, 1);
      }
      shape(c, `hsl(${[5, 215, 150][Math.floor(3 * r())]} 55% 32%)`, [[12, 66], [116, 62], [104, 88], [26, 88]]);
      shape(c, grey(235), [[30, 50], [80, 50], [84, 66], [30, 66]]);
      shape(c, grey(215), [[38, 38], [62, 38], [62, 50], [38, 50]]);
      shape(c, `hsl(${20 * r()} 70% 45%)`, [[46, 24], [56, 24], [56, 38], [46, 38]]);
    },
    automobile(c, r) {
      road(c, r);
      const paint = `hsl(${[0, 210, 48, 0, 130][Math.floor(5 * r())]} ${55 + 30 * r()}% 45%)`;
      c.translate(6 * (r() - 0.5), 4 * r());
      if (r() < 0.5) {
        c.translate(128, 0);
        c.scale(-1, 1);
      }
      shape(c, paint, [[10, 78], [14, 62], [36, 58], [50, 40], [88, 40], [104, 60], [120, 66], [120, 84], [10, 84]]);
      shape(c, "#223", [[44, 58], [54, 45], [68, 45], [68, 58]]);
      shape(c, "#223", [[73, 58], [73, 45], [86, 45], [96, 58]]);
      wheel(c, 34, 86, 12);
      wheel(c, 96, 86, 12);
    },
    truck(c, r) {
      road(c, r);
      c.translate(4 * (r() - 0.5), 4 * r());
      if (r() < 0.5) {
        c.translate(128, 0);
        c.scale(-1, 1);
      }
      shape(c, r() < 0.5 ? grey(225) : `hsl(${360 * r()} 35% 60%)`, [[8, 24], [84, 24], [84, 84], [8, 84]]);
      shape(c, `hsl(${[0, 215, 40][Math.floor(3 * r())]} 65% 42%)`, [[87, 44], [108, 44], [120, 64], [120, 86], [87, 86]]);
      shape(c, "#223", [[92, 49], [105, 49], [112, 63], [92, 63]]);
      for (const x of [24, 44, 104]) wheel(c, x, 90, 11);
    },
  };

  const grey = value => `rgb(${value} ${value} ${value})`;

  function shape(c, fill, points) {
    c.fillStyle = fill;
    c.beginPath();
    points.forEach(point => c.lineTo(...point));
    c.fill();
  }

  function wheel(c, x, y, size) {
    for (const [radius, fill] of [[size, "#181818"], [size / 2, "#aaa"]]) {
      c.fillStyle = fill;
      c.beginPath();
      c.arc(x, y, radius, 0, 7);
      c.fill();
    }
  }

  function sky(c, r, height) {
    const hue = 205 + 15 * (r() - 0.5), fill = c.createLinearGradient(0, 0, 0, height), light = 62 + 12 * r();
    fill.addColorStop(0, `hsl(${hue} 55% ${light}%)`);
    fill.addColorStop(1, `hsl(${hue} 45% ${light + 16}%)`);
    c.fillStyle = fill;
    c.fillRect(0, 0, 128, 128);
  }

  function road(c, r) {
    c.fillStyle = `hsl(${90 + 120 * r()} ${12 + 20 * r()}% ${62 + 14 * r()}%)`;
    c.fillRect(0, 0, 128, 80);
    c.fillStyle = grey(105 + 40 * r());
    c.fillRect(0, 80, 128, 48);
  }

  function picture(name, random) {
    const canvas = el("canvas", { width: 128, height: 128 });
    pictures[name](canvas.getContext("2d"), random);
    return shrink(canvas, 128, 128);
  }

  demo.images = { SIDE, enlarge, rasterise, pad, fromFile, picture, drawable: Object.keys(pictures) };
})();
