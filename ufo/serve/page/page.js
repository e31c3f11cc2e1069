// The page: a picture, a question, the answer. Drawing is in stage.js, what led to an answer in arose.js.

import { ask, element, make, picture, save, show, swatch } from "./api.js";
import { beside, choose, nearest, place, raw, times } from "./arose.js";
import { draw, fit, label, objects, stage } from "./stage.js";
import * as views from "./views.js";

const LEAST = 0.05; // objects below this score are not asked for
const state = { file: null, image: null, results: [], answer: null, arose: null, chosen: 0 };
let about = null;
let asked = 0; // only the latest question's answer is shown
let taking = Promise.resolve(); // ends when the picture has been read

const options = () => ({
  boxes: element("show-boxes").checked,
  masks: element("show-masks").checked,
  labels: element("show-labels").checked,
  points: element("show-points").checked,
  score: Number(element("score").value),
});

function redraw() {
  element("score-value").textContent = options().score.toFixed(2);
  for (const o of state.results.flatMap((r) => r.layers.objects)) o.item.hidden = o.score !== null && o.score < options().score;
  draw(state, options());
}

// --- the question

function take(file) {
  if (file) taking = taking.then(() => read(file));
}

async function read(file) {
  try {
    if (!about) throw new Error("The page is still loading; give the picture again in a moment.");
    if (!file.size) throw new Error(`${file.name} is empty; choose another file.`);
    if (file.size > about.limits.upload_mb * 2 ** 20) throw new Error(`The picture has more than ${about.limits.upload_mb} MB; shrink it.`);
    const address = URL.createObjectURL(file);
    const image = await picture(address).catch(() => null);
    show(null);
    Object.assign(state, { file, image, results: [], answer: null, arose: null });
    asked += 1;
    element("file-name").textContent = image ? file.name : `${file.name} (this browser cannot show it; answers are listed)`;
    stage.setAttribute("aria-label", `the picture ${file.name}`);
    if (image) fit(image);
    present();
  } catch (error) {
    show(error);
  }
}

const base64 = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).replace(/^data:[^,]*,/, ""));
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(file);
  });

async function submit(event) {
  event.preventDefault();
  await taking;
  const number = ++asked;
  const button = element("ask");
  try {
    if (!state.file) throw new Error("There is no picture yet; drop one, or choose a file.");
    const tasks = [...element("tasks").querySelectorAll("input:checked")].map((box) => box.value);
    if (!tasks.length) throw new Error("No task is chosen; tick at least one.");
    button.disabled = true;
    element("busy").textContent = "asking ...";
    const classes = element("classes").value.split(",").map((name) => name.trim()).filter(Boolean);
    const question = { file_name: state.file.name, tasks, text: element("text").value, classes };
    const body = { ...question, image: await base64(state.file), score: LEAST, summary_score: options().score, explain: true, layers: true };
    const answer = await ask("predict", body);
    if (number !== asked) return;
    show(null);
    await receive(answer);
    element("busy").textContent = `answered in ${(answer.milliseconds.all / 1000).toFixed(2)} s`;
  } catch (error) {
    element("busy").textContent = "";
    show(error);
  } finally {
    button.disabled = false;
  }
}

// --- the answer

async function receive(answer) {
  for (const result of answer.results) {
    result.shown = true;
    result.map = result.layers.map && (await picture(result.layers.map));
    for (const object of result.layers.objects) object.picture = object.mask && (await picture(object.mask));
  }
  Object.assign(state, { answer, results: answer.results });
  present();
}

function present() {
  const done = Boolean(state.answer);
  element("save-json").disabled = element("save-png").disabled = !done;
  element("arose").hidden = !done;
  element("results").replaceChildren(...state.results.map(card));
  if (done) {
    element("arose-task").replaceChildren(...state.results.map((r) => make("option", { textContent: r.task })));
    explain();
    const said = state.results.map((r) => `${r.task}: ${r.summary}`).join("; ");
    stage.setAttribute("aria-label", `the picture ${state.file.name}; ${said}`);
  }
  redraw();
}

function tick(text, checked, change) {
  const box = make("input", { type: "checkbox", checked });
  box.onchange = () => {
    change(box.checked);
    redraw();
  };
  return make("label", {}, box, " ", ...text);
}

function card(result) {
  const items = result.layers.objects.map((object) => {
    const item = make("li", {}, tick([swatch(object.color), label(object) || "found"], true, (on) => (object.off = !on)));
    item.onmouseenter = item.onfocus = () => light(object, result);
    item.onmouseleave = () => light(null, result);
    object.item = item;
    return item;
  });
  const legend = result.layers.legend.map((entry) =>
    make("li", {}, swatch(entry.color), `${entry.name} ${(100 * entry.share).toFixed(0)} %`),
  );
  const notes = result.layers.notes.filter((note) => note !== result.summary).map((n) => make("p", { textContent: n }));
  const raw = result.text && result.text !== result.summary ? make("p", { className: "text", textContent: result.text }) : null;
  const head = tick([result.task], true, (on) => (result.shown = on));
  return make("div", { className: "result" }, head, make("p", { textContent: result.summary }), ...notes, raw,
    make("ul", {}, ...items, ...legend));
}

// an object of the list is drawn with a white line, and its query point is chosen
function light(object, result) {
  for (const other of state.results.flatMap((r) => r.layers.objects)) other.lit = other === object;
  if (object && object.row !== null && result.arose === state.arose) pick(object.row);
  else redraw();
}

function explain() {
  const result = state.results[Math.max(0, element("arose-task").selectedIndex)];
  state.arose = result.arose;
  times(result);
  raw(result.arose);
  const best = result.arose.planes.length ? result.arose.planes[0].row : 0;
  pick(Math.min(best, result.arose.answers.length - 1));
}

function pick(row) {
  choose(state, row).catch(show);
  redraw();
}

// --- tabs

function open(name) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    element(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
  opened[name]?.();
}

const opened = {};

function tabs() {
  const all = [...document.querySelectorAll("[role=tab]")].filter((tab) => !tab.hidden);
  for (const tab of all) {
    tab.onclick = () => open(tab.id.slice(4));
    tab.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = all[(all.indexOf(tab) + step + all.length) % all.length];
      next.focus();
      open(next.id.slice(4));
    };
  }
}

// --- start

function listen() {
  const drop = element("drop");
  element("file").onchange = (event) => take(event.target.files[0]);
  document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") take(event.dataTransfer.files[0]);
    });
  }
  element("form").onsubmit = submit;
  for (const id of ["show-boxes", "show-masks", "show-labels", "show-points", "score"]) element(id).oninput = redraw;
  element("arose-task").onchange = explain;
  stage.onmousemove = (event) => {
    if (state.arose && options().points) pick(nearest(state.arose, ...place(event)));
  };
  stage.onkeydown = (event) => {
    if (!state.arose || !event.key.startsWith("Arrow")) return;
    event.preventDefault();
    element("show-points").checked = true;
    pick(beside(state.arose, state.chosen, event.key));
  };
  element("save-json").onclick = () => {
    const results = state.answer.results.map(({ task, summary, text, records, milliseconds }) =>
      ({ task, summary, text, milliseconds, records: records.filter((r) => !(r.score < options().score)) }));
    save(new Blob([JSON.stringify({ ...state.answer, results }, null, 1)], { type: "application/json" }), name("json"));
  };
  element("save-png").onclick = () => stage.toBlob((blob) => save(blob, name("png")));
}

const name = (suffix) => `${state.file.name.replace(/\.[^.]*$/, "")}_ufo.${suffix}`;

async function start() {
  listen();
  try {
    about = await ask("model");
    const boxes = about.tasks.map((task, i) => {
      const box = make("input", { type: "checkbox", value: task.name, checked: i === 0 });
      return make("label", {}, box, ` ${task.name}${task.needs_text ? " (needs the text below)" : ""}`);
    });
    element("tasks").replaceChildren(...boxes);
    const asking = about.tasks.filter((task) => task.needs_text).map((task) => task.name);
    element("text-help").textContent = asking.length ? `for ${asking.join(", ")}` : "no task of this model needs one";
    element("text").disabled = !asking.length;
    element("classes").placeholder = (about.tasks.find((task) => task.classes)?.classes || []).slice(0, 4).join(", ");
    element("tab-data").hidden = !about.samples;
    element("tab-run").hidden = !about.run;
    if (about.samples) opened.data = views.samples(about.samples);
    opened.run = views.run;
    tabs();
    document.body.dataset.ready = "yes";
  } catch (error) {
    show(error);
  }
}

export { objects, state };
start();
