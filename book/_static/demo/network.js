// The networks of the page, and the measures of the chapters: arithmetic alone, no document, so that a worker can run
// it. Everything is inside one function because its text is what the worker is made from: a page opened from a file
// may load no module.
function imclNetwork() {
  "use strict";

  // --- weights as `imcl_book.demo.weights` writes them

  function bytesOf(base64) {
    const text = atob(base64), bytes = new Uint8Array(text.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  }

  // Layers by name: `shape`, `weight` (folded, float32), `bias`, and `raw`, the rows up to a positive factor.
  function unpack({ tensors, data }) {
    const buffer = bytesOf(data).buffer, layers = {};
    let at = 0;
    for (const [name, shape] of tensors) {
      const rows = shape[0], count = shape.reduce((a, b) => a * b, 1), inRow = count / rows;
      const scale = new Float32Array(buffer, at, rows), bias = new Float32Array(buffer, at + 4 * rows, rows);
      const raw = new Int8Array(buffer, at + 8 * rows, count), weight = new Float32Array(count);
      for (let i = 0; i < count; i++) weight[i] = raw[i] * scale[(i / inRow) | 0];
      layers[name] = { shape, weight, bias, raw };
      at += 8 * rows + count + (4 - (count % 4)) % 4;
    }
    return layers;
  }

  // --- layers; maps are {data, channels, side}

  // In double precision, which is JavaScript's own: no time goes into rounding.
  function padded({ data, channels, side }) {
    const wide = side + 2, out = new Float64Array(channels * wide * wide);
    for (let c = 0; c < channels; c++) {
      for (let y = 0; y < side; y++) {
        const from = (c * side + y) * side;
        out.set(data.subarray(from, from + side), (c * wide + y + 1) * wide + 1);
      }
    }
    return out;
  }

  // Two filters at a time (their number is even), so that each input is read once for both; in a row of stride 1 six of
  // nine inputs are those of the step before.
  function conv3(maps, layer, stride) {
    const [filters, channels] = layer.shape, { weight, bias } = layer, wide = maps.side + 2;
    const x = padded(maps), side = maps.side / stride, area = side * side, data = new Float64Array(filters * area);
    for (let f = 0; f < filters; f += 2) {
      const base = f * area;
      data.fill(bias[f], base, base + area);
      data.fill(bias[f + 1], base + area, base + 2 * area);
      for (let c = 0; c < channels; c++) {
        const k = (f * channels + c) * 9, l = k + channels * 9;
        const k0 = weight[k], k1 = weight[k + 1], k2 = weight[k + 2], k3 = weight[k + 3], k4 = weight[k + 4];
        const k5 = weight[k + 5], k6 = weight[k + 6], k7 = weight[k + 7], k8 = weight[k + 8];
        const l0 = weight[l], l1 = weight[l + 1], l2 = weight[l + 2], l3 = weight[l + 3], l4 = weight[l + 4];
        const l5 = weight[l + 5], l6 = weight[l + 6], l7 = weight[l + 7], l8 = weight[l + 8];
        for (let y = 0; y < side; y++) {
          let p = (c * wide + y * stride) * wide, q = p + wide, r = q + wide;
          let a0 = x[p], a1 = x[p + 1], b0 = x[q], b1 = x[q + 1], c0 = x[r], c1 = x[r + 1];
          const end = base + (y + 1) * side;
          for (let to = end - side; to < end; to++) {
            const a2 = x[p + 2], b2 = x[q + 2], c2 = x[r + 2];
            data[to] += k0 * a0 + k1 * a1 + k2 * a2 + k3 * b0 + k4 * b1 + k5 * b2 + k6 * c0 + k7 * c1 + k8 * c2;
            data[to + area] += l0 * a0 + l1 * a1 + l2 * a2 + l3 * b0 + l4 * b1 + l5 * b2 + l6 * c0 + l7 * c1 + l8 * c2;
            p += stride;
            q += stride;
            r += stride;
            if (stride === 1) {
              a0 = a1, b0 = b1, c0 = c1;
              a1 = a2, b1 = b2, c1 = c2;
            } else {
              a0 = a2, b0 = b2, c0 = c2;
              a1 = x[p + 1], b1 = x[q + 1], c1 = x[r + 1];
            }
          }
        }
      }
    }
    return { data, channels: filters, side };
  }

  function conv1(maps, layer, stride) {
    const [filters, channels] = layer.shape, side = maps.side / stride, area = side * side;
    const data = new Float64Array(filters * area);
    for (let f = 0; f < filters; f++) {
      data.fill(layer.bias[f], f * area, (f + 1) * area);
      for (let c = 0; c < channels; c++) {
        const w = layer.weight[f * channels + c];
        for (let y = 0, to = f * area; y < side; y++) {
          let from = (c * maps.side + y * stride) * maps.side;
          for (let x = 0; x < side; x++, to++, from += stride) data[to] += w * maps.data[from];
        }
      }
    }
    return { data, channels: filters, side };
  }

  function linear(x, layer) {
    const [rows, columns] = layer.shape, out = new Float64Array(rows);
    for (let r = 0; r < rows; r++) {
      let sum = layer.bias[r];
      for (let c = 0, at = r * columns; c < columns; c++, at++) sum += layer.weight[at] * x[c];
      out[r] = sum;
    }
    return out;
  }

  function relu(data) {
    for (let i = 0; i < data.length; i++) if (data[i] < 0) data[i] = 0;
    return data;
  }

  function block(layers, number, x) {
    const stride = layers[`block${number}.shortcut`] ? 2 : 1, first = conv3(x, layers[`block${number}.first`], stride);
    relu(first.data);
    if (number === 0) return first;
    const last = conv3(first, layers[`block${number}.last`], 1);
    const residual = stride === 2 ? conv1(x, layers[`block${number}.shortcut`], 2) : x;
    for (let i = 0; i < last.data.length; i++) last.data[i] += residual.data[i];
    relu(last.data);
    return last;
  }

  function localLogits(layers, number, maps) {
    const side = Math.min(maps.side, 4), step = maps.side / side;
    const pooled = new Float64Array(maps.channels * side * side).fill(-Infinity);
    for (let c = 0, from = 0; c < maps.channels; c++) {
      for (let y = 0; y < maps.side; y++) {
        for (let x = 0; x < maps.side; x++, from++) {
          const to = (c * side + ((y / step) | 0)) * side + ((x / step) | 0);
          if (maps.data[from] > pooled[to]) pooled[to] = maps.data[from];
        }
      }
    }
    const hidden = conv3({ data: pooled, channels: maps.channels, side }, layers[`mid${number}.conv`], 1);
    return linear(relu(hidden.data), layers[`mid${number}.linear`]);
  }

  // --- the network on one image, bytes (3 x side x side)

  // `logits` of the network, `local` logits by block (where it has local classifiers), `features` of the classifier's
  // first hidden layer, and by block the standard deviation of each map: `deviations`, and `projected`, after g.
  function answer(network, pixels) {
    const { layers, mean, std, side } = network, area = side * side, data = new Float64Array(3 * area);
    for (let i = 0; i < data.length; i++) data[i] = (pixels[i] / 255 - mean[(i / area) | 0]) / std[(i / area) | 0];
    let maps = { data, channels: 3, side };
    const found = { local: [], deviations: [], projected: [] };
    for (let number = 0; layers[`block${number}.first`]; number++) {
      maps = block(layers, number, maps);
      found.deviations.push(deviations(maps));
      if (layers[`mid${number}.conv`]) found.local.push(localLogits(layers, number, maps));
      if (layers[`projection${number}`]) {
        found.projected.push(deviations(conv3(maps, layers[`projection${number}`], 1)));
      }
    }
    const last = maps.side * maps.side, pooled = new Float64Array(maps.channels);
    for (let i = 0; i < maps.data.length; i++) pooled[(i / last) | 0] += maps.data[i] / last;
    found.features = relu(linear(pooled, layers.classifier0));
    found.logits = linear(relu(linear(found.features, layers.classifier1)), layers.classifier2);
    return found;
  }

  // The predictions of hierarchical dropout: logits under `masks`, K of the first layer and K² of the second, each a
  // factor for every unit; prediction h has the first mask h / K.
  function predictions({ layers }, features, [first, second]) {
    const times = (x, mask) => x.map((value, unit) => value * mask[unit]);
    const branches = first.map(mask => relu(linear(times(features, mask), layers.classifier1)));
    return second.map((mask, h) => linear(times(branches[(h / first.length) | 0], mask), layers.classifier2));
  }

  function drawMasks(units, rate, branches, random) {
    const mask = () => Float32Array.from({ length: units }, () => (random() < rate ? 0 : 1 / (1 - rate)));
    const some = count => Array.from({ length: count }, mask);
    return [some(branches), some(branches * branches)];
  }

  // A small generator of random numbers in [0, 1), so that the same seed draws the same masks everywhere (mulberry32).
  function generator(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  // --- the measures of the chapters

  function softmax(z, temperature = 1) {
    const top = Math.max(...z), powers = Array.from(z, value => Math.exp((value - top) / temperature));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map(power => power / sum);
  }

  function mean(vectors) {
    return Array.from(vectors[0], (_, i) => vectors.reduce((sum, vector) => sum + vector[i], 0) / vectors.length);
  }

  // Eq. 2: each prediction's teacher, the softened mean of the others' logits.
  function peers(logits, temperature) {
    return logits.map((_, h) => softmax(mean(logits.filter((_, other) => other !== h)), temperature));
  }

  // Eq. 6: each layer's teacher, the softened mean of the logits of all deeper layers and of the network.
  function deeper(local, logits, temperature) {
    return local.map((_, i) => softmax(mean([...local.slice(i + 1), logits]), temperature));
  }

  // Standard deviation of each map over its positions.
  function deviations({ data, channels, side }) {
    const area = side * side, found = new Float64Array(channels);
    for (let c = 0; c < channels; c++) {
      let sum = 0, squares = 0;
      for (let i = c * area; i < (c + 1) * area; i++) sum += data[i];
      for (let i = c * area; i < (c + 1) * area; i++) squares += (data[i] - sum / area) ** 2;
      found[c] = Math.sqrt(squares / area);
    }
    return found;
  }

  // Cosines of centred rows, Eq. 8 for images and Eq. 10 for filters; a constant row is similar to nothing.
  function cosines(rows) {
    const unit = rows.map(row => {
      const average = row.reduce((a, b) => a + b, 0) / row.length, centred = Array.from(row, value => value - average);
      const norm = Math.hypot(...centred), size = Math.hypot(...row);
      return centred.map(value => (norm <= 1e-6 * size ? 0 : value / norm));
    });
    return unit.map(a => unit.map(b => a.reduce((sum, value, i) => sum + value * b[i], 0)));
  }

  // The distance of Eq. 9: the Frobenius norm of the difference of two matrices, over n.
  function distance(first, second) {
    let sum = 0;
    first.forEach((row, i) => row.forEach((value, j) => { sum += (value - second[i][j]) ** 2; }));
    return Math.sqrt(sum) / first.length;
  }

  // The filters of a layer as rows.
  function filters({ shape, raw }) {
    const size = raw.length / shape[0];
    return Array.from({ length: shape[0] }, (_, f) => Array.from(raw.subarray(f * size, (f + 1) * size)));
  }

  return {
    bytesOf, unpack, answer, predictions, drawMasks, generator,
    softmax, mean, peers, deeper, cosines, distance, filters,
  };
}
