/** The model, in WebAssembly on one thread. */
import { dense } from "./numbers.js";

const url = (path) => new URL(path, import.meta.url).href;
let session;

/** Starts to load the model, once. */
export const load = () => session ??= import("onnxruntime-web").then(async (ort) => {
  ort.env.wasm.numThreads = 1; // More need headers that few hosts send.
  ort.env.wasm.wasmPaths = { wasm: url("vendor/onnxruntime-web/ort-wasm-simd-threaded.wasm") };
  return [ort.Tensor, await ort.InferenceSession.create(url("model.onnx"))];
});

/** Returns the probabilities, the rollout as a volume, and the milliseconds that it took. */
export async function predict({ data, shape }) {
  const [Tensor, model] = await load();
  const input = new Tensor("float32", Float32Array.from(data), [1, ...shape, 1]);
  const begin = performance.now();
  const [shares, rollout] = Object.values(await model.run({ [model.inputNames[0]]: input }));
  const map = dense(rollout.data, rollout.dims.slice(1));
  return { shares: [...shares.data], map, time: performance.now() - begin };
}
