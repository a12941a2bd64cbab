/** The model, in WebAssembly on one thread. */
const url = (path) => new URL(path, import.meta.url).href;
let session;

/** Starts to load the model, once; after an error, again. */
export function load() {
  session ??= start().catch((error) => ((session = undefined), Promise.reject(error)));
  return session;
}

async function start() {
  const ort = await import("onnxruntime-web");
  ort.env.wasm.numThreads = 1; // More need headers that few hosts send.
  ort.env.wasm.wasmPaths = { wasm: url("vendor/onnxruntime-web/ort-wasm-simd-threaded.wasm") };
  return [ort.Tensor, await ort.InferenceSession.create(url("model.onnx"))];
}

/** Returns the probabilities, the rollout and its grid, and the milliseconds that it took. */
export async function predict(voxels, shape) {
  const [Tensor, model] = await load();
  const input = new Tensor("float32", Float32Array.from(voxels), [1, ...shape, 1]);
  const start = performance.now();
  const outputs = await model.run({ [model.inputNames[0]]: input });
  const time = performance.now() - start;
  const [{ data: probabilities }, { data, dims }] = model.outputNames.map((name) => outputs[name]);
  return { probabilities, map: { data, grid: dims.slice(1) }, time };
}
