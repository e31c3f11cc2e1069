// The picture with what was found on it. Boxes and points are numbers from 0 to 1 of the picture's sides.

import { element } from "./api.js";

const LONGEST = 900; // pixels of the longer side
const SHORTEST = 420; // of the shorter side of a small picture

export const stage = element("stage");
const pen = stage.getContext("2d");

export function fit(image) {
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  let factor = Math.max(1, SHORTEST / Math.min(width, height));
  factor = Math.min(factor, LONGEST / Math.max(width, height));
  stage.width = Math.max(1, Math.round(width * factor));
  stage.height = Math.max(1, Math.round(height * factor));
}

export function draw(state, options) {
  pen.clearRect(0, 0, stage.width, stage.height);
  if (!state.image) return;
  pen.imageSmoothingEnabled = true;
  const shown = state.results.filter((result) => result.shown);
  // below a map the picture is grey: its own colours would change those that the legend names
  pen.filter = options.masks && shown.some((result) => result.map) ? "grayscale(1)" : "none";
  pen.drawImage(state.image, 0, 0, stage.width, stage.height);
  pen.filter = "none";
  if (options.masks) {
    for (const result of shown) if (result.map) overlay(result.map, 0.5);
    for (const object of objects(shown, options)) if (object.picture) overlay(object.picture, 0.45);
  }
  if (options.boxes) for (const object of objects(shown, options)) outline(object);
  if (options.labels) labels(objects(shown, options).reverse());
  if (options.points && state.arose) points(state.arose, state.chosen);
}

// of all results, the best ones last, so that they are drawn on top
export function objects(results, options) {
  const all = results.flatMap((result) => result.layers.objects);
  return all.filter((o) => !o.off && (o.score === null || o.score >= options.score)).reverse();
}

function overlay(image, alpha) {
  pen.globalAlpha = alpha;
  pen.imageSmoothingEnabled = false;
  pen.drawImage(image, 0, 0, stage.width, stage.height);
  pen.globalAlpha = 1;
}

function place(object) {
  const [x1, y1, x2, y2] = object.box;
  return [x1 * stage.width, y1 * stage.height, (x2 - x1) * stage.width, (y2 - y1) * stage.height];
}

function outline(object) {
  pen.lineWidth = object.lit ? 9 : 5;
  pen.strokeStyle = object.lit ? "#ffffff" : "#202124";
  pen.strokeRect(...place(object));
  pen.lineWidth = 3;
  pen.strokeStyle = object.color;
  pen.strokeRect(...place(object));
}

export function label(object) {
  const score = object.score === null ? "" : object.score.toFixed(2);
  return `${object.name} ${score}`.trim();
}

// a label at its box, or below it, or not at all where another one is
function labels(shown) {
  pen.font = "15px system-ui, sans-serif";
  pen.textBaseline = "middle";
  const taken = [];
  for (const object of shown) {
    const text = label(object).slice(0, 40);
    if (!text) continue;
    const [x, y, width, height] = place(object);
    const size = [pen.measureText(text).width + 10, 21];
    const left = Math.max(0, Math.min(x, stage.width - size[0]));
    const spots = [y - 21, y, y + height, y + height - 21].map((top) => [left, Math.max(0, Math.min(top, stage.height - 21))]);
    spots.push(...spots.map(([, top]) => [Math.max(0, x + width - size[0]), top]));
    const free = spots.find((spot) => taken.every((other) => apart(spot, size, other)));
    if (!free) continue;
    taken.push([...free, ...size]);
    pen.fillStyle = object.color;
    pen.fillRect(...free, ...size);
    pen.fillStyle = dark(object.color) ? "#ffffff" : "#202124";
    pen.fillText(text, free[0] + 5, free[1] + 11);
  }
}

function apart([x, y], [width, height], [left, top, w, h]) {
  return x >= left + w || x + width <= left || y >= top + h || y + height <= top;
}

function dark(color) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  return r * 0.299 + g * 0.587 + b * 0.114 <= 135;
}

function points(arose, chosen) {
  arose.answers.forEach((answer, row) => {
    if (answer.x === null) return;
    pen.beginPath();
    pen.arc(answer.x * stage.width, answer.y * stage.height, row === chosen ? 9 : 5, 0, 7);
    pen.fillStyle = answer.text.includes(",") ? "#ffffff" : "#202124";
    pen.strokeStyle = row === chosen ? "#0b57d0" : answer.text.includes(",") ? "#202124" : "#ffffff";
    pen.lineWidth = row === chosen ? 4 : 2;
    pen.fill();
    pen.stroke();
  });
}
