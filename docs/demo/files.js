/** Files that the user chooses: recognised by their content. */
import { isNIFTI } from "nifti-reader-js";
import { readDicom } from "./dicom.js";
import { readNifti } from "./nifti.js";
import { checkSize, refuse } from "./numbers.js";
import { readNpy, readNpz } from "./numpy.js";

/** Returns a volume as it is stored. */
export async function readFiles(files) {
  checkSize(files.reduce((sum, file) => sum + file.size, 0));
  const buffers = await Promise.all(files.map(unpacked));
  const heads = buffers.map((x) => String.fromCharCode(...new Uint8Array(x).subarray(0, 132)));
  if (heads.every((x) => x.endsWith("DICM"))) return readDicom(buffers);
  refuse(buffers.length > 1, "Several files must be the slices of one DICOM series.");
  if (heads[0].startsWith("\x93NUMPY")) return readNpy(buffers[0]);
  if (heads[0].startsWith("PK")) return readNpz(buffers[0]);
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
