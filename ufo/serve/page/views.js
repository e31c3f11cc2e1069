// The second view: samples of a data set. The third: a run's metrics and its worst predictions.

import { ask, element, make, picture, show, table } from "./api.js";

export function samples(about) {
  const state = { number: 0, asked: 0 };
  element("data-name").textContent = about.name;
  element("data-task").replaceChildren(...Object.keys(about.tasks).map((name) => make("option", { textContent: name })));
  const load = async (number) => {
    const task = element("data-task").value;
    const count = about.tasks[task];
    state.number = Math.max(0, Math.min(number, count - 1));
    const asked = ++state.asked; // only the latest sample is shown, whichever comes last
    element("data-back").disabled = state.number === 0;
    element("data-on").disabled = state.number >= count - 1;
    element("data-place").textContent = `sample ${state.number + 1} of ${count}`;
    try {
      const sample = await ask(`samples/${encodeURIComponent(task)}/${state.number}`);
      if (asked !== state.asked) return;
      show(null);
      element("data-picture").src = sample.picture;
      element("data-picture").alt = `sample ${state.number + 1} of ${task}, with its annotations`;
      element("data-prompt").textContent = sample.prompt;
      const lines = sample.answers.length ? sample.answers : ["nothing is learned from this sample"];
      element("data-answers").replaceChildren(...lines.map((line) => make("li", { textContent: line })));
    } catch (error) {
      if (asked !== state.asked) return;
      element("data-picture").removeAttribute("src");
      element("data-picture").alt = "";
      element("data-prompt").textContent = "";
      element("data-answers").replaceChildren();
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
    element("run-worst-part").hidden = !found.worst.length;
    element("run-no-worst").hidden = Boolean(found.worst.length);
    const load = async () => {
      if (!found.worst.length) return;
      const number = Number(element("run-source").value);
      const [head, ...cells] = found.worst[number].rows;
      table(element("run-worst"), head || [], cells);
      const { picture: sheet } = await ask(`run/worst/${number}`);
      if (Number(element("run-source").value) !== number) return; // another one has been chosen
      await picture(sheet); // one that is broken is an error, and no empty frame
      element("run-picture").src = sheet;
      element("run-picture").alt = `the worst predictions of ${found.worst[number].source}, truth beside prediction`;
    };
    element("run-source").onchange = () => load().catch(show);
    await load();
  } catch (error) {
    show(error);
  }
}
