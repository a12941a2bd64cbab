/** Numbers in files, and sentences about files that hold no volume. */
const TYPES = {
  u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, u8: BigUint64Array, i1: Int8Array,
  i2: Int16Array, i4: Int32Array, i8: BigInt64Array, f4: Float32Array, f8: Float64Array,
};

/** An error whose message is a sentence for the user. */
export class Refusal extends Error {}
export function refuse(condition, sentence) {
  if (condition) throw new Refusal(sentence);
}
export const checkSize = (bytes) => refuse(bytes > 2 ** 29, "It exceeds 512 MB: crop it first.");

/** Returns numbers of a type such as "i2", as NumPy calls them, in a typed array. */
export function numbers(buffer, offset, count, name, little = true) {
  const type = TYPES[name];
  refuse(!type, `Its numbers (${name}) are neither integers nor floats of 32 or 64 bits.`);
  const size = type.BYTES_PER_ELEMENT;
  checkSize(count * size);
  refuse(offset + count * size > buffer.byteLength, "It is cut off: voxels are missing.");
  const bytes = new Uint8Array(buffer.slice(offset, offset + count * size));
  if (!little) for (let i = 0; i < bytes.length; i += size) bytes.subarray(i, i + size).reverse();
  const array = new type(bytes.buffer);
  return /[iu]8/.test(name) ? Float64Array.from(array, Number) : array;
}

/** Takes trailing axes of one off, and returns the three sizes that are left. */
export function threeAxes(sizes) {
  while (sizes.length > 3 && sizes.at(-1) === 1) sizes.pop();
  const text = sizes.join(" x ");
  refuse(sizes.length > 3, `It has more than three axes (${text}): save one of its volumes.`);
  refuse(sizes.length < 3 || Math.min(...sizes) < 2, `It is no volume. Its size: ${text || 1}.`);
  return sizes;
}

/** Returns a volume of numbers whose last axis runs fastest. */
export const dense = (data, shape) => ({
  data, shape, strides: [shape[1] * shape[2], shape[2], 1],
  start: 0, slope: 1, intercept: 0, spacing: [1, 1, 1],
});
