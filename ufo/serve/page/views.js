// The second view: samples of a data set. The third: a run's metrics and its worst predictions.

import { ask, element, make, show, table } from "./api.js";

export function samples(about) {
  const state = { task: null, number: 0 };
  element("data-name").textContent = about.name;
  element("data-task").replaceChildren(...Object.keys(about.tasks).map((name) => make("option", { textContent: name })));
  const load = async (number) => {
    const task = element("data-task").value;
    const count = about.tasks[task];
    state.number = Math.max(0, Math.min(number, count - 1));
    try {
      const sample = await ask(`samples/${encodeURIComponent(task)}/${state.number}`);
      show(null);
      element("data-picture").src = sample.picture;
      element("data-picture").alt = `sample ${state.number + 1} of ${task}, with its annotations`;
      element("data-prompt").textContent = sample.prompt;
      const lines = sample.answers.length ? sample.answers : ["nothing is learned from this sample"];
      element("data-answers").replaceChildren(...lines.map((line) => make("li", { textContent: line })));
      element("data-place").textContent = `sample ${state.number + 1} of ${count}`;
    } catch (error) {
      show(error);
    }
  };
  element("data-task").onchange = () => load(0);
  element("data-back").onclick = () => load(state.number - 1);
  element("data-on").onclick = () => load(state.number + 1);
  return () => load(state.number);
}

export async function run() {
  try {
    const found = await ask("run");
    show(null);
    element("run-name").textContent = found.step === null ? found.name : `${found.name}, after ${found.step} steps`;
    const sources = Object.keys(found.published || {});
    const names = Object.keys(found.measured).sort();
    const rows = names.map((name) => [name, found.measured[name] ?? "-", ...sources.map((s) => found.published[s][name] ?? "")]);
    table(element("run-metrics"), ["metric", "measured", ...sources], rows);
    element("run-source").replaceChildren(...found.worst.map((w, i) => make("option", { textContent: w.source, value: i })));
    const load = async () => {
      if (!found.worst.length) return;
      const number = Number(element("run-source").value);
      const [head, ...cells] = found.worst[number].rows;
      table(element("run-worst"), head || [], cells);
      element("run-picture").src = (await ask(`run/worst/${number}`)).picture;
      element("run-picture").alt = `the worst predictions of ${found.worst[number].source}, truth beside prediction`;
    };
    element("run-source").onchange = () => load().catch(show);
    await load();
  } catch (error) {
    show(error);
  }
}
