/** Slices of volumes. */

/** Draws a slice across an axis, `x` and `y` being the axes of columns and rows. */
export function drawSlice(canvas, volume, { axis, x, y, back }, index, colorOf) {
  const { data, shape, strides, start, slope, intercept } = volume;
  const [width, height] = [shape[x], shape[y]];
  const image = new ImageData(width, height);
  for (let row = 0; row < height; row++)
    for (let column = 0; column < width; column++) {
      const across = (back[0] ? width - 1 - column : column) * strides[x];
      const down = (back[1] ? height - 1 - row : row) * strides[y];
      const value = data[start + index * strides[axis] + across + down] * slope + intercept;
      image.data.set(colorOf(value), 4 * (row * width + column));
    }
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

export const grayIn = ([a, b]) => (x) => [...Array(3).fill((255 * (x - a)) / (b - a)), 255];
export const heatUpTo = (highest) => (value) => [255, 110, 0, (170 * value) / highest];
