/** The page: files, sliders and buttons in, slices and bars out. */
import { readFiles } from "./files.js";
import { load, predict } from "./model.js";
import { Refusal } from "./numbers.js";
import { drawSlice, grayIn, heatUpTo } from "./slices.js";
import { clip, resample, toBytes, turn } from "./volume.js";

const find = (id) => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const say = (id, textContent, className = "") =>
  Object.assign(find(id), { textContent, className });
const { shape, orientation } = JSON.parse(find("settings").textContent);
const ends = [find("low"), find("high")];
const bars = all("[data-class]").sort((a, b) => a.dataset.class - b.dataset.class);
const views = all("figure").map((figure) => ({
  ...JSON.parse(figure.dataset.view), // Which axes it shows.
  canvases: all("canvas", figure), // The slice, the map, the model's input.
  sliders: all("input", figure), // The slice, the box from and to.
}));
let volume, box, gray, input, map, actual;

// === What the user does ===

for (const { axis, sliders: [slice, ...sides] } of views) {
  slice.addEventListener("input", draw);
  sides.forEach((side, i) => side.addEventListener("input", () => {
    const limits = i ? [box[axis][0] + 1, volume.shape[axis]] : [0, box[axis][1] - 1];
    box[axis][i] = clip(Number(side.value), ...limits);
    update();
  }));
}
ends.forEach((end, i) => end.addEventListener("input", () => {
  gray[i] = Number(end.value);
  if (gray[0] >= gray[1]) gray[1 - i] = gray[i] + (i ? -1 : 1);
  update();
}));
for (const button of all("[data-file]"))
  button.addEventListener("click", async () => {
    say("answer", "");
    const file = await (await fetch(button.dataset.file)).blob();
    if (await open([file], "The sample", button.dataset.label)) classify();
  });
find("files").addEventListener("change", ({ target }) => open([...target.files]));
find("predict").addEventListener("click", classify);
document.ondragover = (event) => event.preventDefault();
document.ondrop = (event) => (event.preventDefault(), open([...event.dataTransfer.files]));

/** Reads a volume and shows it; returns whether that worked. */
async function open(files, name = files[0]?.name, label) {
  if (!files.length) return false;
  say("status", `Reading ${name} …`);
  try {
    volume = turn(await readFiles(files), orientation);
  } catch (error) {
    const reason = error.message ?? error.exception ?? error;
    const sentence = error instanceof Refusal ? reason : `It cannot be read (${reason}).`;
    say("status", `${name}: ${sentence}`, "error");
    return false;
  }
  load().catch(() => {}); // Meanwhile. `classify` says what fails.
  const { data, slope, intercept, range: [low, high], spacing, ct } = volume;
  const bytes = data instanceof Uint8Array && slope === 1 && intercept === 0;
  gray = bytes ? [0, 255] : ct || low < -500 ? [-160, 240] : [low, Math.max(high, low + 1e-6)];
  for (const end of ends)
    Object.assign(end, { min: Math.min(low, gray[0]), max: Math.max(high, gray[1]) });
  box = volume.shape.map((size) => [0, size]);
  for (const { axis, x, y, canvases, sliders } of views) {
    sliders.forEach((slider, i) => (slider.max = volume.shape[axis] - (i ? 0 : 1)));
    sliders[0].value = volume.shape[axis] >> 1;
    const [width, height] = [x, y].map((a) => volume.shape[a] * spacing[a]);
    canvases[0].parentElement.style.setProperty("--aspect", width / height);
  }
  actual = label;
  find("work").hidden = false;
  say("status", `${name}: ${volume.shape.join(" x ")} voxels.`);
  update();
  return true;
}

async function classify() {
  const voxels = input;
  say("answer", "Loading the model …");
  try {
    const result = await predict(voxels);
    if (voxels !== input) return; // Another input is shown meanwhile.
    map = result.map;
    show(result.shares);
    const best = document.querySelector(".top > span").textContent;
    const truth = actual ? ` Actual class: ${actual}.` : "";
    say("answer", `Prediction: ${best}.${truth} It took ${result.time.toFixed(0)} ms.`);
    find("answer").scrollIntoView({ block: "nearest" });
    draw();
  } catch (error) {
    say("answer", `The model does not run in this browser (${error.message}).`, "error");
  }
}

// === What the page shows ===

/** Makes the model's input of the box and the window; an older prediction does not fit it. */
function update() {
  input = toBytes(resample(volume, box, shape), gray);
  map = undefined;
  say("answer", "");
  show([]);
  draw();
}

function draw() {
  for (const view of views) {
    const { axis, x, y, back, canvases, sliders } = view;
    const outline = canvases[1].parentElement;
    const index = Number(sliders[0].value);
    const place = (index + 0.5 - box[axis][0]) / (box[axis][1] - box[axis][0]);
    const slice = (inside) => Math.floor(clip(place, 0, 0.9999) * inside.shape[axis]);
    [sliders[1].value, sliders[2].value] = box[axis];
    drawSlice(canvases[0], volume, view, index, grayIn(gray));
    drawSlice(canvases[2], input, view, slice(input), grayIn([0, 255]));
    if (map) drawSlice(canvases[1], map, view, slice(map), heatUpTo(Math.max(...map.data)));
    canvases[1].hidden = !map;
    outline.classList.toggle("outside", place < 0 || place > 1);
    [["left", "width"], ["top", "height"]].forEach(([start, size], i) => {
      const [low, high] = box[[x, y][i]].map((voxel) => voxel / volume.shape[[x, y][i]]);
      outline.style[start] = `${100 * (back[i] ? 1 - high : low)}%`;
      outline.style[size] = `${100 * (high - low)}%`;
    });
  }
  ends.forEach((end, i) => (end.value = gray[i]));
  ends.forEach((end, i) => (end.nextElementSibling.value = Number(gray[i].toPrecision(4))));
}

/** Shows probabilities, or none. */
function show(shares) {
  bars.forEach((bar, i) => {
    bar.style.setProperty("--share", shares[i] ?? 0);
    bar.lastElementChild.textContent = shares.length ? `${(100 * shares[i]).toFixed(2)} %` : "";
    bar.classList.toggle("top", shares[i] === Math.max(...shares));
  });
}
