/** Volumes in NIfTI files. */
import { isNIFTI1, readHeader } from "nifti-reader-js";
import { dense, numbers, threeAxes } from "./numbers.js";

const TYPES = { 2: "u1", 256: "i1", 4: "i2", 512: "u2", 8: "i4", 768: "u4", 16: "f4", 64: "f8" };

export function readNifti(buffer) {
  // Of two transforms, the sform counts for nibabel, the higher code for nifti-reader-js.
  const [start, size] = isNIFTI1(buffer) ? [252, 2] : [344, 4];
  const codes = new Uint8Array(buffer, start, 2 * size);
  if (codes.subarray(size).some(Boolean)) codes.fill(0, 0, size);
  const header = readHeader(buffer);
  const { dims, vox_offset, datatypeCode, littleEndian, scl_slope, scl_inter, affine } = header;
  const [x, y, z] = threeAxes(dims.slice(1, dims[0] + 1));
  const type = TYPES[datatypeCode] ?? `type ${datatypeCode} of NIfTI`;
  // Without a transform, nibabel takes the first axis to run to the left.
  if (!codes.some(Boolean)) affine[0][0] *= -1;
  return {
    ...dense(numbers(buffer, vox_offset, x * y * z, type, littleEndian), [x, y, z]),
    strides: [1, x, x * y],
    // A slope of 0 or NaN is none.
    ...(scl_slope && { slope: scl_slope, intercept: scl_inter }),
    directions: [0, 1, 2].map((column) => [0, 1, 2].map((row) => affine[row][column])),
  };
}
