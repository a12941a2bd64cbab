/** Files that the user chooses: recognised by their content. */
import { isNIFTI } from "nifti-reader-js";
import { readNifti } from "./nifti.js";
import { checkSize, refuse } from "./numbers.js";
import { readNpy, readNpz } from "./numpy.js";

/** Returns a volume as it is stored. */
export async function readFiles(files) {
  checkSize(files.reduce((sum, file) => sum + file.size, 0));
  const buffers = await Promise.all(files.map(unpacked));
  const starts = (text, at) => buffers.every((buffer) => {
    const bytes = new Uint8Array(buffer).subarray(at, at + text.length);
    return String.fromCharCode(...bytes) === text;
  });
  if (starts("DICM", 128)) return (await import("./dicom.js")).readDicom(buffers);
  refuse(buffers.length > 1, "Several files must be the slices of one DICOM series.");
  if (starts("\x93NUMPY", 0)) return readNpy(buffers[0]);
  if (starts("PK", 0)) return readNpz(buffers[0]);
  refuse(!isNIFTI(buffers[0]), "It is no NIfTI, DICOM, npy or npz file.");
  return readNifti(buffers[0]);
}

async function unpacked(file) {
  const [a, b] = new Uint8Array(await file.slice(0, 2).arrayBuffer());
  if (a !== 0x1f || b !== 0x8b) return file.arrayBuffer();
  const parts = [];
  let size = 0;
  for await (const part of file.stream().pipeThrough(new DecompressionStream("gzip"))) {
    checkSize((size += part.length));
    parts.push(part);
  }
  return new Blob(parts).arrayBuffer();
}
