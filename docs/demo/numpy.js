/** Volumes in npy and npz files. */
import { unzipSync } from "fflate";
import { checkSize, dense, numbers, refuse, threeAxes } from "./numbers.js";

export function readNpy(buffer) {
  const { type, fortran, shape, offset } = headerOf(buffer);
  const [x, y, z] = threeAxes(shape);
  const data = numbers(buffer, offset, x * y * z, type.slice(1), type[0] !== ">");
  return { ...dense(data, [x, y, z]), ...(fortran && { strides: [1, x, x * y] }) };
}

/** Reads the only volume of an npz file. */
export function readNpz(buffer) {
  const filter = ({ name, originalSize }) => (checkSize(originalSize), name.endsWith(".npy"));
  const files = Object.entries(unzipSync(new Uint8Array(buffer), { filter }));
  const arrays = files.map(([, bytes]) => bytes.slice().buffer);
  const volumes = arrays.filter((array) => headerOf(array).shape.length > 2);
  const names = files.map(([name]) => name.slice(0, -4)).join(", ");
  refuse(volumes.length !== 1, `It must hold one volume. Its arrays: ${names || "none"}.`);
  return readNpy(volumes[0]);
}

function headerOf(buffer) {
  const view = new DataView(buffer);
  const start = view.getUint8(6) > 1 ? 12 : 10; // By the version of the format.
  const length = start > 10 ? view.getUint32(8, true) : view.getUint16(8, true);
  const text = new TextDecoder("latin1").decode(new Uint8Array(buffer, start, length));
  const match = text.match(/'descr': '(\S+)', 'fortran_order': (\w+), 'shape': \(([\d, ]*)\)/);
  refuse(!match, "It holds no plain array of numbers.");
  const [, type, order, sizes] = match;
  const shape = (sizes.match(/\d+/g) ?? []).map(Number);
  return { type, fortran: order === "True", shape, offset: start + length };
}
