// How an answer arose: what each query point said, the planes of its mask, the time of each stage.

import { element, make, picture } from "./api.js";
import { stage } from "./stage.js";

const STAGES = { wait: "waiting", encode: "image and question", decode: "answers", parse: "reading the answers" };

// the answer nearest to a place of the picture, 0 to 1; the only one where there are no points
export function nearest(arose, x, y) {
  let [best, least] = [0, Infinity];
  arose.answers.forEach((answer, row) => {
    const far = answer.x === null ? Infinity : (answer.x - x) ** 2 + (answer.y - y) ** 2;
    if (far < least) [best, least] = [row, far];
  });
  return best;
}

// the next point in the direction of an arrow key
export function beside(arose, row, key) {
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
  const here = arose.answers[row];
  let [best, least] = [row, Infinity];
  arose.answers.forEach((answer, other) => {
    const [x, y] = [answer.x - here.x, answer.y - here.y];
    const ahead = x * dx + y * dy;
    const far = ahead + 4 * Math.abs(x * dy + y * dx);
    if (other !== row && ahead > 1e-6 && far < least) [best, least] = [other, far];
  });
  return best;
}

export async function choose(state, row) {
  const answer = state.arose.answers[row];
  state.chosen = row;
  const where = answer.x === null ? "The only answer" : `The query point at ${percent(answer.x)}, ${percent(answer.y)}`;
  element("point").replaceChildren(
    make("p", { textContent: `${where} said, with probability ${answer.score.toFixed(3)} of its first word:` }),
    make("p", { className: "text", textContent: answer.text || "(nothing)" }),
  );
  const found = state.arose.planes.find((plane) => plane.row === row);
  const place = element("planes");
  if (!found) return place.replaceChildren();
  const image = await picture(found.png);
  if (state.chosen === row) place.replaceChildren(...planes(image, found.side));
}

const percent = (value) => `${(100 * value).toFixed(0)} %`;

// plane side * a + b is every side-th pixel from (a, b) on; all together are the mask
function planes(image, side) {
  const whole = make("canvas", { width: image.width, height: image.height, className: "whole" });
  const pen = whole.getContext("2d", { willReadFrequently: true });
  pen.drawImage(image, 0, 0);
  whole.setAttribute("role", "img");
  whole.setAttribute("aria-label", `the mask of all ${side * side} planes`);
  const all = pen.getImageData(0, 0, image.width, image.height);
  const [width, height] = [image.width / side, image.height / side];
  const made = [];
  for (let plane = 0; plane < side * side; plane++) {
    const canvas = make("canvas", { width, height, title: `plane ${plane + 1}` });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `plane ${plane + 1} of ${side * side}`);
    const part = new ImageData(width, height);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const from = 4 * ((side * y + Math.floor(plane / side)) * image.width + side * x + (plane % side));
        part.data.set(all.data.slice(from, from + 4), 4 * (y * width + x));
      }
    }
    canvas.getContext("2d").putImageData(part, 0, 0);
    made.push(canvas);
  }
  const grid = make("div", {}, ...made);
  grid.style.display = "grid";
  grid.style.gap = "3px";
  grid.style.gridTemplateColumns = `repeat(${side}, auto)`;
  return [make("p", { className: "quiet", textContent: `The ${side * side} planes of its mask, and the mask` }), grid, whole];
}

export function times(result) {
  const longest = Math.max(...Object.values(result.milliseconds), 0.01);
  const rows = Object.entries(result.milliseconds).map(([name, value]) => {
    const bar = make("div", { className: "bar" });
    bar.style.width = `${(100 * value) / longest}%`;
    const cell = make("td", {}, bar);
    cell.style.width = "8rem";
    return make("tr", {}, make("th", { scope: "row", textContent: STAGES[name] || name }),
      make("td", { className: "number", textContent: `${value.toFixed(1)} ms` }), cell);
  });
  const caption = make("caption", { textContent: `Time per stage, of ${result.together} picture(s) together` });
  element("times").replaceChildren(make("table", {}, caption, make("tbody", {}, ...rows)));
}

export function raw(arose) {
  const counts = new Map();
  for (const { text } of arose.answers) counts.set(text, (counts.get(text) || 0) + 1);
  const lines = [...counts].sort((a, b) => b[1] - a[1]).map(([text, count]) => `${count}x  ${text}`);
  element("raw").textContent = lines.join("\n");
}

export function place(event) {
  const box = stage.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}
