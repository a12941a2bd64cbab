/** Volumes in NIfTI files. */
import { NIFTI2, readHeader } from "nifti-reader-js";
import { numbers, threeAxes } from "./numbers.js";

const TYPES = { 2: "u1", 256: "i1", 4: "i2", 512: "u2", 8: "i4", 768: "u4", 16: "f4", 64: "f8" };

export function readNifti(buffer) {
  const header = readHeader(buffer);
  const { dims, vox_offset, datatypeCode, littleEndian, scl_slope, scl_inter } = header;
  const [x, y, z] = threeAxes(dims.slice(1, dims[0] + 1));
  const type = TYPES[datatypeCode] ?? `type ${datatypeCode} of NIfTI`;
  const scaled = Number.isFinite(scl_slope) && scl_slope !== 0;
  return {
    data: numbers(buffer, vox_offset, x * y * z, type, littleEndian),
    shape: [x, y, z], strides: [1, x, x * y],
    slope: scaled ? scl_slope : 1, intercept: scaled ? scl_inter : 0,
    directions: directionsOf(header, new DataView(buffer)),
  };
}

/** Returns three vectors, where the axes run to, of the transform that nibabel prefers. */
function directionsOf(header, view) {
  const { littleEndian, quatern_b: b, quatern_c: c, quatern_d: d } = header;
  if (header.sform_code > 0) {
    const [start, size, get] =
      header instanceof NIFTI2 ? [400, 8, "getFloat64"] : [280, 4, "getFloat32"];
    const at = (i) => view[get](start + size * i, littleEndian);
    return [0, 1, 2].map((column) => [0, 4, 8].map((row) => at(row + column)));
  }
  const [dx, dy, dz] = header.pixDims.slice(1).map(Math.abs);
  if (!(header.qform_code > 0)) return [[-dx, 0, 0], [0, dy, 0], [0, 0, dz]];
  const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d)); // Rounded, it may be below 0.
  const sign = header.pixDims[0] === -1 ? -1 : 1;
  return [
    [a * a + b * b - c * c - d * d, 2 * (b * c + a * d), 2 * (b * d - a * c)].map((v) => v * dx),
    [2 * (b * c - a * d), a * a + c * c - b * b - d * d, 2 * (c * d + a * b)].map((v) => v * dy),
    [b * d + a * c, c * d - a * b, 0.5 - b * b - c * c].map((v) => v * 2 * sign * dz),
  ];
}
