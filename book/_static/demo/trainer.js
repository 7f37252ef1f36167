// A network of two layers that learns on the page, with the four losses and their gradients written out.
//
// 8x8 digits (64) -> layer 1 -> layer 2 -> dropout, of which four masks are drawn -> ten logits. Each layer is a linear
// map and a ReLU; it has a local classifier and a projection g, one linear map each, that only training uses.
// The test compares every gradient with PyTorch's.
function imclTrainer() {
  "use strict";
  const INPUTS = 64, CLASSES = 10, BRANCHES = 4, T = 2;
  const DEFAULTS = {
    hidden: 25, rate: 0.05, momentum: 0.9, dropout: 0.5, local: true,
    out: 0, mid: 0, pull: 0, push: 0, kernel: 0,  // weights; of `out` the share in the objective
  };

  // --- matrices as arrays of rows (Float64Array)

  const zeros = (rows, columns) => Array.from({ length: rows }, () => new Float64Array(columns));
  const map = (A, f) => A.map((row, i) => row.map((value, j) => f(value, i, j)));
  const norm = A => Math.sqrt(A.reduce((sum, row) => row.reduce((part, value) => part + value * value, sum), 0));
  const column = A => Float64Array.from(A[0], (_, j) => A.reduce((sum, row) => sum + row[j], 0));

  // x W' + b, a row for each image.
  function affine(x, W, b) {
    return x.map(row => Float64Array.from(W, (weights, o) => {
      let sum = b ? b[0][o] : 0;
      for (let i = 0; i < row.length; i++) sum += weights[i] * row[i];
      return sum;
    }));
  }

  // Gradients of x W' + b, given that of its value: {W, b, x}.
  function affineBack(d, x, W) {
    const dW = zeros(W.length, W[0].length), dx = zeros(x.length, W[0].length);
    d.forEach((row, n) => row.forEach((value, o) => {
      if (value === 0) return;
      const weights = W[o], to = dW[o], from = x[n], into = dx[n];
      for (let i = 0; i < from.length; i++) {
        to[i] += value * from[i];
        into[i] += value * weights[i];
      }
    }));
    return { W: dW, b: [column(d)], x: dx };
  }

  function add(A, B, factor = 1) {
    A.forEach((row, i) => { for (let j = 0; j < row.length; j++) row[j] += factor * B[i][j]; });
    return A;
  }

  function softmax(row, temperature) {
    const top = Math.max(...row), powers = row.map(value => Math.exp((value - top) / temperature));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map(power => power / sum);
  }

  // --- the losses: value, and gradient of what they look at

  // Cross-entropy of softened logits with target rows, Eq. 1, 2, 5, 6; mean over the batch.
  function crossEntropy(logits, targets, temperature) {
    let value = 0;
    const gradient = logits.map((row, n) => {
      const p = softmax(row, temperature);
      p.forEach((probability, k) => { value -= targets[n][k] * Math.log(Math.max(probability, 1e-300)); });
      return p.map((probability, k) => (probability - targets[n][k]) / (temperature * logits.length));
    });
    return { value: value / logits.length, gradient };
  }

  const oneHot = labels => Array.from(labels, label => Float64Array.from({ length: CLASSES }, (_, k) => +(k === label)));

  function meanOf(list) {
    return list[0].map((row, n) => row.map((_, k) => list.reduce((sum, A) => sum + A[n][k], 0) / list.length));
  }

  // Cosines of centred rows, S of Eq. 8 and C of Eq. 10, with what `cosinesBack` needs.
  function cosines(rows) {
    const units = [], norms = [];
    for (const row of rows) {
      const average = row.reduce((a, b) => a + b, 0) / row.length, centred = row.map(value => value - average);
      const length = Math.sqrt(centred.reduce((sum, value) => sum + value * value, 0));
      const whole = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0));
      const constant = length <= 1e-12 * whole;
      norms.push(constant ? 0 : length);
      units.push(constant ? centred.fill(0) : centred.map(value => value / length));
    }
    return { S: units.map(a => Float64Array.from(units, b => dot(a, b))), units, norms };
  }

  function dot(a, b) {
    let sum = 0;
    for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
    return sum;
  }

  function cosinesBack(dS, { units, norms }) {
    return units.map((unit, i) => {
      const d = new Float64Array(unit.length);
      if (norms[i] === 0) return d;
      units.forEach((other, j) => {
        const factor = dS[i][j] + dS[j][i];
        for (let k = 0; k < d.length; k++) d[k] += factor * other[k];
      });
      const along = dot(d, unit), average = d.reduce((a, b) => a + b, 0) / d.length;
      return d.map((value, k) => (value - along * unit[k] - average) / norms[i]);
    });
  }

  // ||S - target||_F / n and its gradient by S.
  function frobenius(S, target) {
    const difference = map(S, (value, i, j) => value - target[i][j]), size = norm(difference), n = S.length;
    return { value: size / n, gradient: map(difference, value => (size === 0 ? 0 : value / (size * n))) };
  }

  // ||C - diag(C)||_F of a layer's filters, Eq. 10.
  function kernelLoss(W) {
    const found = cosines(W), rest = map(found.S, (value, i, j) => (i === j ? 0 : value)), size = norm(rest);
    const gradient = cosinesBack(map(rest, value => (size === 0 ? 0 : value / size)), found);
    return { value: size, gradient };
  }

  // --- the network

  function create(random, options = {}) {
    const settings = { ...DEFAULTS, ...options }, { hidden } = settings;
    const gauss = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    const drawn = (rows, columns, gain) => map(zeros(rows, columns), () => gain * gauss() / Math.sqrt(columns));
    const parameters = {
      W1: drawn(hidden, INPUTS, 1.4), b1: zeros(1, hidden), W2: drawn(hidden, hidden, 1.4), b2: zeros(1, hidden),
      W3: drawn(CLASSES, hidden, 1), b3: zeros(1, CLASSES),
      L1: drawn(CLASSES, hidden, 1), c1: zeros(1, CLASSES), L2: drawn(CLASSES, hidden, 1), c2: zeros(1, CLASSES),
      G1: drawn(hidden, hidden, 1), G2: drawn(hidden, hidden, 1),
    };
    const velocity = Object.fromEntries(Object.entries(parameters).map(([k, A]) => [k, zeros(A.length, A[0].length)]));
    return { settings, parameters, velocity };
  }

  function forward({ parameters: P }, x) {
    const h1 = map(affine(x, P.W1, P.b1), value => Math.max(value, 0));
    const h2 = map(affine(h1, P.W2, P.b2), value => Math.max(value, 0));
    return { x, h1, h2 };
  }

  const masked = (h, mask) => h.map((row, n) => row.map((value, unit) => value * mask[n][unit]));

  // `masks` of a batch: a factor for each branch, image and unit.
  function drawMasks({ settings: { dropout, hidden } }, images, random) {
    const factor = () => (random() < dropout ? 0 : 1 / (1 - dropout));
    return Array.from({ length: BRANCHES }, () => map(zeros(images, hidden), factor));
  }

  // Every term that is on, by name: its weighted value, and its weighted gradient by parameter. With all weights at
  // zero the one term is `hard`, the cross-entropy of the prediction under the first mask.
  function terms(network, images, labels, masks) {
    const { settings: s, parameters: P } = network, seen = forward(network, images), y = oneHot(labels), found = {};
    const used = s.out > 0 ? masks : masks.slice(0, 1);
    const branches = used.map(mask => masked(seen.h2, mask)), z = branches.map(h => affine(h, P.W3, P.b3));
    found[s.out > 0 ? "out" : "hard"] = outputTerm(s, P, seen, y, used, branches, z);
    if (s.mid > 0) midTerms(s, P, seen, y, meanOf(z), found);
    if (s.pull > 0 || s.push > 0) pullPushTerms(s, P, seen, y, found);
    if (s.kernel > 0) {
      for (const layer of [1, 2]) {
        const { value, gradient } = kernelLoss(P[`W${layer}`]);
        const weighted = map(gradient, g => s.kernel * g);
        found[`kernel/${layer}`] = { value: s.kernel * value, gradients: { [`W${layer}`]: weighted } };
      }
    }
    return found;
  }

  // Eq. 1, or Eq. 4 with its share `out`: the gradient goes through the whole network.
  function outputTerm(s, P, seen, y, masks, branches, z) {
    const gradients = {}, dh2 = zeros(seen.h2.length, s.hidden), H = z.length;
    let value = 0;
    const sum = meanOf(z);
    z.forEach((logits, h) => {
      const hard = crossEntropy(logits, y, 1), d = map(hard.gradient, g => (1 - s.out / 2) * g / H);
      value += (1 - s.out / 2) * hard.value / H;
      if (H > 1) {  // the teacher is the mean of the other logits, a constant
        const teacher = logits.map((row, n) => softmax(row.map((own, k) => (H * sum[n][k] - own) / (H - 1)), T));
        const soft = crossEntropy(logits, teacher, T);
        value += s.out / 2 * soft.value / H;
        add(d, soft.gradient, s.out / 2 / H);
      }
      const back = affineBack(d, branches[h], P.W3);
      for (const [name, part] of [["W3", back.W], ["b3", back.b]]) {
        gradients[name] = gradients[name] ? add(gradients[name], part) : part;
      }
      add(dh2, masked(back.x, masks[h]));
    });
    return { value, gradients: layerBack(P, seen, 2, dh2, true, gradients) };
  }

  // From the gradient of a layer's output to its own weights and, where it goes `on`, to those below.
  function layerBack(P, seen, layer, dh, on, gradients) {
    const input = layer === 2 ? seen.h1 : seen.x, output = seen[`h${layer}`];
    const d = map(dh, (value, n, unit) => (output[n][unit] > 0 ? value : 0));
    const back = affineBack(d, input, P[`W${layer}`]);
    gradients[`W${layer}`] = back.W;
    gradients[`b${layer}`] = back.b;
    return on && layer === 2 ? layerBack(P, seen, 1, back.x, true, gradients) : gradients;
  }

  // Eq. 5 to 7: labels and deeper layers teach each local classifier, which moves its own layer.
  function midTerms(s, P, seen, y, final, found) {
    const local = [1, 2].map(layer => affine(seen[`h${layer}`], P[`L${layer}`], P[`c${layer}`]));
    for (const layer of [1, 2]) {
      const teacher = meanOf([...local.slice(layer), final]).map(row => softmax(row, T)), z = local[layer - 1];
      const hard = crossEntropy(z, y, T), soft = crossEntropy(z, teacher, T);
      const d = map(hard.gradient, (g, n, k) => s.mid * (g + soft.gradient[n][k]));
      const back = affineBack(d, seen[`h${layer}`], P[`L${layer}`]);
      const gradients = { [`L${layer}`]: back.W, [`c${layer}`]: back.b };
      layerBack(P, seen, layer, back.x, !s.local, gradients);
      found[`mid/${layer}`] = { value: s.mid * (hard.value + soft.value), gradients };
    }
  }

  // Eq. 9; the pull rises with depth from a tenth of its weight, the push falls to zero, as the package's defaults do.
  function pullPushTerms(s, P, seen, y, found) {
    const Sy = cosines(y).S, Sx = cosines(seen.x).S;
    for (const layer of [1, 2]) {
      const pull = layer === 1 ? s.pull / 10 : s.pull, push = layer === 1 ? s.push : 0;
      const h = seen[`h${layer}`], projected = cosines(affine(h, P[`G${layer}`]));
      const near = frobenius(projected.S, Sy), far = frobenius(projected.S, Sx);
      const dS = map(near.gradient, (g, i, j) => pull * g - push * far.gradient[i][j]);
      const back = affineBack(cosinesBack(dS, projected), h, P[`G${layer}`]);
      const gradients = layerBack(P, seen, layer, back.x, !s.local, { [`G${layer}`]: back.W });
      found[`pull-push/${layer}`] = { value: pull * near.value - push * far.value, gradients };
    }
  }

  // One step of SGD with momentum; returns the terms.
  function step(network, images, labels, masks) {
    const { settings: s, parameters, velocity } = network, found = terms(network, images, labels, masks);
    const total = {};
    for (const { gradients } of Object.values(found)) {
      for (const [name, gradient] of Object.entries(gradients)) {
        total[name] = total[name] ? add(total[name], gradient) : map(gradient, value => value);
      }
    }
    for (const [name, gradient] of Object.entries(total)) {
      velocity[name].forEach((row, i) => {
        for (let j = 0; j < row.length; j++) row[j] = s.momentum * row[j] + gradient[i][j];
      });
      add(parameters[name], velocity[name], -s.rate);
    }
    return found;
  }

  // Logits without dropout, and the outputs of both layers.
  function look(network, x) {
    const seen = forward(network, x);
    return { ...seen, logits: affine(seen.h2, network.parameters.W3, network.parameters.b3) };
  }

  // Bytes of 8x8 digits, 0 to 16, as rows from -1 to 1.
  function rows(bytes) {
    return Array.from({ length: bytes.length / INPUTS }, (_, n) =>
      Float64Array.from(bytes.subarray(n * INPUTS, (n + 1) * INPUTS), value => value / 8 - 1));
  }

  return { DEFAULTS, BRANCHES, T, create, terms, step, look, drawMasks, rows, cosines, norm, softmax, oneHot };
}
