/** Slices of a volume, as radiologists look at them, and a map over them. */
import { BODY, clip } from "./volume.js";

/** Returns which axes are columns and rows of slices across an axis, and which run backwards. */
export function viewOf(orientation, axis) {
  const body = (a) => BODY[orientation[a]][0];
  const [x, y] = [0, 1, 2].filter((a) => a !== axis).sort((a, b) => body(a) - body(b));
  return { axis, x, y, back: [x, y].map((a) => "RAS".includes(orientation[a])) };
}

export function drawSlice(canvas, volume, { axis, x, y, back }, index, [low, high]) {
  const { data, shape, strides, start, slope, intercept } = volume;
  paint(canvas, [shape[x], shape[y]], back, (column, row) => {
    const at = start + index * strides[axis] + column * strides[x] + row * strides[y];
    const gray = ((data[at] * slope + intercept - low) / (high - low)) * 255;
    return [gray, gray, gray, 255];
  });
}

/** Draws a map at a place from 0 to 1 along the axis, linearly between its slices. */
export function drawMap(canvas, { data, grid }, { axis, x, y, back }, place) {
  const strides = [grid[1] * grid[2], grid[2], 1];
  const highest = Math.max(...data);
  const depth = clip(place * grid[axis] - 0.5, 0, grid[axis] - 1);
  const [first, last] = [Math.floor(depth), Math.ceil(depth)].map((i) => i * strides[axis]);
  paint(canvas, [grid[x], grid[y]], back, (column, row) => {
    const at = column * strides[x] + row * strides[y];
    const heat = data[at + first] + (depth % 1) * (data[at + last] - data[at + first]);
    return [255, 120, 0, 180 * Math.sqrt(heat / highest)]; // The root shows low values, too.
  });
}

function paint(canvas, [width, height], [backX, backY], colorAt) {
  const image = new ImageData(width, height);
  for (let row = 0; row < height; row++)
    for (let column = 0; column < width; column++) {
      const color = colorAt(backX ? width - 1 - column : column, backY ? height - 1 - row : row);
      image.data.set(color, 4 * (row * width + column));
    }
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(image, 0, 0);
}
