/** Volumes, turned, resampled and windowed as `keras_vivit.data.read_volume` does. */
import { dense, refuse } from "./numbers.js";

// The axis of the body that a letter belongs to, and its sign.
const BODY = { R: [0, 1], L: [0, -1], A: [1, 1], P: [1, -1], S: [2, 1], I: [2, -1] };
export const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
export const cross = ([a, b, c], [d, e, f]) => [b * f - c * e, c * d - a * f, a * e - b * d];
export const clip = (x, low, high) => Math.min(Math.max(x, low), high);

/** Finds the range of values, and turns the axes to letters such as "LPS", by their strides. */
export function turn(volume, orientation) {
  let [low, high] = [Infinity, -Infinity];
  for (const x of volume.data) [low, high] = [Math.min(low, x), Math.max(high, x)];
  refuse(!Number.isFinite(high - low), "It has voxels that are no numbers (NaN) or infinite.");
  const range = [low, high].map((x) => x * volume.slope + volume.intercept).sort((a, b) => a - b);
  if (!volume.directions) return { ...volume, range };
  const turned = { ...volume, range, shape: [], strides: [], spacing: [] };
  const axes = bodyAxes(volume.directions);
  for (const [body, sign] of Array.from(orientation, (letter) => BODY[letter])) {
    const axis = axes.findIndex(([other]) => other === body);
    const stride = volume.strides[axis] * axes[axis][1] * sign;
    if (stride < 0) turned.start -= stride * (volume.shape[axis] - 1);
    turned.shape.push(volume.shape[axis]);
    turned.strides.push(stride);
    turned.spacing.push(Math.hypot(...volume.directions[axis]));
  }
  return turned;
}

/** Returns the axis of the body and the sign of each axis, the clearest ones first. */
function bodyAxes(directions) {
  const cosines = withoutShear(directions.map((v) => v.map((x) => x / Math.hypot(...v))));
  refuse(!cosines.flat().every(Number.isFinite), "It does not tell where its axes run.");
  const pairs = [0, 1, 2].flatMap((axis) => [0, 1, 2].map((body) => [axis, body]));
  const size = ([axis, body]) => Math.abs(cosines[axis][body]);
  const axes = [];
  for (const [axis, body] of pairs.sort((a, b) => size(b) - size(a)))
    if (!axes[axis] && !axes.some((other) => other?.[0] === body))
      axes[axis] = [body, Math.sign(cosines[axis][body])];
  return axes;
}

/** Returns the nearest axes at right angles: the polar factor, by Newton's iteration. */
function withoutShear(axes, steps = 30) {
  const [a, b, c] = axes;
  const normals = [cross(b, c), cross(c, a), cross(a, b)];
  const nearer = axes.map((v, i) => v.map((x, j) => (x + normals[i][j] / dot(a, normals[0])) / 2));
  return steps ? withoutShear(nearer, steps - 1) : nearer;
}

/** Resamples a box `[[from, to], ...]`, one axis after the other; a smaller size averages. */
export function resample({ data, strides, start, slope, intercept }, box, sizes) {
  const shape = box.map(([from, to]) => to - from);
  start += dot(box.map(([from]) => from), strides);
  for (const axis of [0, 1, 2]) {
    const rows = weightsOf(shape[axis], sizes[axis]);
    shape[axis] = sizes[axis];
    const result = dense(new Float32Array(shape[0] * shape[1] * shape[2]), [...shape]);
    const [a, b] = [0, 1, 2].filter((other) => other !== axis);
    const place = (steps, from, i, j, k) => from + i * steps[axis] + j * steps[a] + k * steps[b];
    rows.forEach(([first, weights], i) => {
      for (let j = 0; j < shape[a]; j++)
        for (let k = 0; k < shape[b]; k++) {
          const at = place(strides, start, first, j, k);
          const sum = weights.reduce((sum, x, n) => sum + x * data[at + n * strides[axis]], 0);
          result.data[place(result.strides, 0, i, j, k)] = sum * slope + intercept;
        }
    });
    ({ data, strides, start, slope, intercept } = result);
  }
  return dense(data, sizes);
}

/** Returns, for each new voxel, the first old one and the weights of those from there on. */
function weightsOf(size, newSize) {
  const width = Math.max(size / newSize, 1);
  return Array.from({ length: newSize }, (_, i) => {
    const centre = clip(((i + 0.5) * size) / newSize - 0.5, 0, size - 1);
    const first = Math.max(0, Math.ceil(centre - width));
    const count = Math.min(size - 1, Math.floor(centre + width)) - first + 1;
    const weights = Array.from({ length: count }, (_, n) => width - Math.abs(centre - first - n));
    const total = weights.reduce((sum, x) => sum + x);
    return [first, weights.map((x) => Math.fround(x / total))];
  });
}

/** Maps a window of values to 0 to 255: in float32, halves to even, as NumPy does. */
export function toBytes({ data, shape }, [low, high]) {
  const [black, scale] = [Math.fround(low), Math.fround(255 / (high - low))];
  const levels = data.map((x) => Math.fround(x - black) * scale);
  return dense(Uint8ClampedArray.from(levels), shape);
}
