/** The page: files, sliders and buttons in, slices and bars out. */
import { readFiles } from "./files.js";
import { load, predict } from "./model.js";
import { Refusal } from "./numbers.js";
import { drawMap, drawSlice, viewOf } from "./slices.js";
import { clip, resample, toBytes, turn } from "./volume.js";

const find = (id) => document.getElementById(id);
const say = (id, text, kind = "") => Object.assign(find(id), { textContent: text, className: kind });
const { shape, orientation } = JSON.parse(find("settings").textContent);
const [ends, bars] = [[find("low"), find("high")], []];
for (const bar of document.querySelectorAll("[data-class]")) bars[bar.dataset.class] = bar;
let volume, box, gray, input, map, actual, frame;

const views = [...document.querySelectorAll("figure")].map((figure) => ({
  ...viewOf(orientation, Number(figure.dataset.axis)),
  picture: figure.querySelector(".picture"), outline: figure.querySelector(".box"),
  canvases: figure.querySelectorAll("canvas"), // The slice, the map, the model's input.
  sliders: figure.querySelectorAll("input"), // The slice, the box from and to.
}));
for (const view of views) {
  const { axis, picture, sliders } = view;
  let corner;
  sliders[0].addEventListener("input", draw);
  for (const end of [0, 1])
    sliders[end + 1].addEventListener("input", ({ target }) => {
      const limits = [[0, box[axis][1] - 1], [box[axis][0] + 1, volume.shape[axis]]][end];
      box[axis][end] = clip(Number(target.value), ...limits);
      change();
    });
  picture.addEventListener("pointerdown", (event) => {
    picture.setPointerCapture(event.pointerId);
    corner = placeOf(view, event);
  });
  picture.addEventListener("pointerup", () => (corner = undefined));
  picture.addEventListener("pointermove", (event) => {
    const place = corner && placeOf(view, event);
    if (!place || place.some((x, i) => Math.abs(x - corner[i]) < 1)) return;
    [view.x, view.y].forEach((axis, i) => {
      const [from, to] = [corner[i], place[i]].sort((a, b) => a - b);
      box[axis] = [Math.floor(from), Math.ceil(to)];
    });
    change();
  });
}
for (const [i, slider] of ends.entries())
  slider.addEventListener("input", () => {
    gray[i] = Number(slider.value);
    if (gray[0] >= gray[1]) gray[1 - i] = gray[i] + (i ? -1 : 1);
    change();
  });
for (const button of document.querySelectorAll("[data-file]"))
  button.addEventListener("click", async () => {
    const file = await (await fetch(button.dataset.file)).blob();
    if (await open([file], "The sample", button.dataset.label)) classify();
  });
find("files").addEventListener("change", ({ target }) => open([...target.files]));
find("predict").addEventListener("click", classify);
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  open([...event.dataTransfer.files]);
});

/** Returns the voxel, in parts of one, where the pointer is in the plane of a view. */
function placeOf({ picture, x, y, back }, { clientX, clientY }) {
  const { left, top, width, height } = picture.getBoundingClientRect();
  return [(clientX - left) / width, (clientY - top) / height].map((part, i) =>
    clip(back[i] ? 1 - part : part, 0, 1) * volume.shape[[x, y][i]]);
}

async function open(files, name = files.map((file) => file.name).join(", "), label) {
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
  load().catch(() => {}); // Meanwhile. `classify` tells what fails.
  const { data, slope, intercept, range, ct } = volume;
  const bytes = data instanceof Uint8Array && slope === 1 && intercept === 0;
  gray = bytes ? [0, 255] : ct || range[0] < -500 ? [-160, 240] : [range[0], range[1] || 1];
  ends.forEach((slider) => {
    slider.min = Math.min(range[0], gray[0]);
    slider.max = Math.max(range[1], gray[1]);
  });
  box = volume.shape.map((size) => [0, size]);
  for (const { axis, x, y, picture, sliders } of views) {
    sliders.forEach((slider, i) => (slider.max = volume.shape[axis] - (i === 0)));
    sliders[0].value = volume.shape[axis] >> 1;
    const [width, height] = [x, y].map((a) => volume.shape[a] * volume.spacing[a]);
    picture.style.aspectRatio = `${width} / ${height}`;
    picture.style.width = `min(100%, ${(18 * width) / height}rem)`;
  }
  actual = label;
  find("work").hidden = false;
  say("status", `${name}: ${volume.shape.join(" x ")} voxels.`);
  update();
  return true;
}

function change() {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(update);
}

/** Makes the model's input of the box and the window; an older prediction is none of it. */
function update() {
  input = toBytes(resample(volume, box, shape), gray);
  map = undefined;
  say("answer", "");
  show(bars.map(() => 0), "–");
  draw();
}

function draw() {
  const model = { data: input, shape, strides: [shape[1] * shape[2], shape[2], 1], start: 0, slope: 1, intercept: 0 };
  for (const view of views) {
    const { axis, x, y, back, outline, canvases, sliders } = view;
    const [from, to] = box[axis];
    const index = Number(sliders[0].value);
    const place = (index + 0.5 - from) / (to - from);
    [sliders[1].value, sliders[2].value] = box[axis];
    drawSlice(canvases[0], volume, view, index, gray);
    drawSlice(canvases[2], model, view, Math.floor(clip(place, 0, 0.999) * shape[axis]), [0, 255]);
    outline.classList.toggle("outside", place < 0 || place > 1);
    [["left", "width"], ["top", "height"]].forEach(([start, size], i) => {
      const [low, high] = box[[x, y][i]].map((voxel) => voxel / volume.shape[[x, y][i]]);
      outline.style[start] = `${100 * (back[i] ? 1 - high : low)}%`;
      outline.style[size] = `${100 * (high - low)}%`;
    });
    canvases[1].hidden = !map;
    if (map) drawMap(canvases[1], map, view, place);
  }
  ends.forEach((slider, i) => {
    slider.value = gray[i];
    slider.nextElementSibling.value = Number(gray[i].toPrecision(4));
  });
}

function show(shares, text) {
  bars.forEach((bar, i) => {
    bar.style.setProperty("--share", shares[i]);
    bar.lastElementChild.textContent = text ?? `${(100 * shares[i]).toFixed(2)} %`;
    bar.classList.toggle("top", shares[i] > 0 && shares[i] === Math.max(...shares));
  });
}

async function classify() {
  const voxels = input;
  say("answer", "Loading the model …");
  try {
    const { probabilities, time, ...more } = await predict(voxels, shape);
    if (voxels !== input) return; // Something else was chosen meanwhile.
    map = more.map;
    show([...probabilities]);
    draw();
    const best = bars[probabilities.indexOf(Math.max(...probabilities))].firstElementChild.textContent;
    say("answer", `Prediction: ${best}. ${actual ? `Actual class: ${actual}. ` : ""}It took ${time.toFixed(0)} ms.`);
  } catch (error) {
    say("answer", `The model does not run in this browser (${error.message}).`, "error");
  }
}
