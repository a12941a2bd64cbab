/** Volumes in DICOM files: one file of several frames, or the slices of a series. */
import { dense, numbers, refuse } from "./numbers.js";
import { cross, dot } from "./volume.js";

const { dicomParser } = globalThis; // Its file is no module; it is loaded before this one.
const UNCOMPRESSED = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"];

export function readDicom(buffers) {
  const images = [...new Map(buffers.map(open).map((x) => [x.instance, x])).values()];
  const [{ rows, columns, frames, spacing, ct }] = images;
  const count = images.length * frames;
  refuse(count < 2, "It is one slice: choose all files of its series together.");
  const kinds = images.map((x) => [x.rows, x.columns, x.frames, x.series].join());
  const alike = new Set(kinds).size === 1 && (frames === 1 || count === frames);
  refuse(!alike, "The files are of several series, differ in size, or are a volume each.");
  const directions = count > frames ? sort(images, spacing) : undefined;
  const data = new Float32Array(count * rows * columns);
  images.forEach((image, i) => fill(data.subarray(i * rows * columns), image));
  return { ...dense(data, [count, rows, columns]), directions, ct };
}

function open(buffer) {
  const bytes = new Uint8Array(buffer);
  const syntax = dicomParser.readPart10Header(bytes).string("x00020010");
  refuse(!UNCOMPRESSED.includes(syntax), "It is compressed DICOM: decompress it first.");
  const item = dicomParser.parseDicom(bytes);
  const list = (tag) => item.string(tag)?.split("\\").map(Number) ?? [];
  const [rows, columns] = [item.uint16("x00280010"), item.uint16("x00280011")];
  const { x7fe00010: pixels } = item.elements;
  const gray = item.string("x00280004") === "MONOCHROME2";
  refuse(!rows || !columns || !pixels || !gray, "It is DICOM without a MONOCHROME2 image.");
  return {
    buffer, item, rows, columns, pixels, frames: item.intString("x00280008") ?? 1,
    ct: item.string("x00080060") === "CT",
    instance: item.string("x00080018"), series: item.string("x0020000e"),
    position: list("x00200032"), directions: list("x00200037"), spacing: list("x00280030"),
  };
}

/** Writes an image's values, rescaled by slopes of the file or of its frames. */
function fill(target, { item, buffer, rows, columns, frames, pixels }) {
  const type = `${item.uint16("x00280103") ? "i" : "u"}${item.uint16("x00280100") / 8}`;
  const values = numbers(buffer, pixels.dataOffset, frames * rows * columns, type);
  const group = (tag, i) =>
    item.elements[tag]?.items?.[i]?.dataSet.elements.x00289145?.items[0].dataSet;
  for (let frame = 0, i = 0; frame < frames; frame++) {
    const source = group("x52009230", frame) ?? group("x52009229", 0) ?? item;
    const slope = source.floatString("x00281053") ?? 1;
    const intercept = source.floatString("x00281052") ?? 0;
    for (const end = i + rows * columns; i < end; i++) target[i] = values[i] * slope + intercept;
  }
}

/** Sorts slices by position; returns where slices, rows and columns run to. */
function sort(images, [down, right]) {
  const [{ directions }] = images;
  const alike = (image) => image.directions.every((x, i) => Math.abs(x - directions[i]) < 1e-3);
  refuse(!images.every(alike) || !right, "Its slices have several directions, or none.");
  const [columns, rows] = [directions.slice(0, 3), directions.slice(3)];
  const height = ({ position }) => dot(position, cross(columns, rows));
  images.sort((a, b) => height(a) - height(b));
  const gaps = images.slice(1).map((image, i) => height(image) - height(images[i]));
  const median = gaps.toSorted((a, b) => a - b)[gaps.length >> 1];
  const even = (gap) => Math.abs(gap / median - 1) <= 0.1;
  refuse(!gaps.every(even), "Its slices are unevenly spaced: some are missing or double.");
  const across = images.at(-1).position.map((x, i) => (x - images[0].position[i]) / gaps.length);
  const vectors = [across, rows.map((x) => x * down), columns.map((x) => x * right)];
  return vectors.map(([x, y, z]) => [-x, -y, z]); // DICOM's run to the left and posterior.
}
