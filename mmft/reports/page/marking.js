"use strict";
(() => {
  const panel = document.getElementById("marking");
  const { run, items } = JSON.parse(document.getElementById("marking-data").textContent);
  const part = (name) => panel.querySelector(`[data-part="${name}"]`);
  const name = part("by");
  const note = part("note");
  const place = `mmft-marks:${run}`;
  const keyOf = (item) => `${item.task}|${item.row}|${item.prediction}`;
  let state = { by: "", people: {} };
  let at = 0;
  let labelShown = false;

  const by = () => name.value.trim();
  const marksOf = () => (state.people[`name ${by()}`] ??= {});
  const say = (text) => { part("said").textContent = text; };

  function keep() {
    try {
      localStorage.setItem(place, JSON.stringify(state));
    } catch {
      say("This browser keeps no marks: save them before you close the page.");
    }
  }

  function show(index) {
    at = Math.max(0, Math.min(index, items.length - 1));
    const item = items[at];
    const known = by() ? marksOf()[keyOf(item)] : undefined;
    labelShown = known?.label_shown ?? false;
    part("image").hidden = !item.image;
    if (item.image) part("image").src = item.image;
    else part("image").removeAttribute("src");
    part("text").textContent = item.text;
    part("question").textContent = item.question;
    part("answer").textContent = item.answer;
    part("place").textContent = item.place;
    part("label").textContent = labelShown ? `label: ${item.label}` : "";
    part("reveal").hidden = labelShown || !item.label;
    note.value = known?.note ?? "";
    for (const button of panel.querySelectorAll("[data-mark]")) {
      button.setAttribute("aria-pressed", String(known?.mark === button.dataset.mark));
    }
    progress();
  }

  function progress() {
    const marks = by() ? marksOf() : {};
    const done = items.filter((item) => keyOf(item) in marks).length;
    part("progress").max = items.length;
    part("progress").value = done;
    part("count").textContent = `answer ${at + 1} of ${items.length}, ${done} marked`;
    part("save").disabled = done === 0;
  }

  function line(item, mark) {
    const { row, id, task, prediction, weight } = item;
    const found = { run, row, id, prediction, mark, note: note.value, by: by(), time: new Date().toISOString(), weight };
    if (task) found.task = task;
    if (labelShown) found.label_shown = true;
    return found;
  }

  function mark(value) {
    if (!by()) {
      say("Type your name first: it is kept with each mark.");
      name.focus();
      return;
    }
    say("");
    marksOf()[keyOf(items[at])] = line(items[at], value);
    state.by = by();
    keep();
    const next = [...items.keys()].map((step) => (at + 1 + step) % items.length);
    const open = next.find((index) => !(keyOf(items[index]) in marksOf()));
    if (open === undefined) say("All answers are marked. Save the marks, and type mmft review.");
    show(open ?? at);
  }

  function reveal() {
    if (!items[at].label) return;
    labelShown = true;
    part("label").textContent = `label: ${items[at].label}`;
    part("reveal").hidden = true;
  }

  function save() {
    const marks = marksOf();
    const lines = items.filter((item) => keyOf(item) in marks).map((item) => `${JSON.stringify(marks[keyOf(item)])}\n`);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(lines, { type: "application/x-ndjson" }));
    link.download = `marks-${by().replace(/[^\p{L}\p{N}_-]+/gu, "_")}.jsonl`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    say(`${link.download} is saved.`);
  }

  const keys = {
    r: () => mark("right"), w: () => mark("wrong"), u: () => mark("unsure"), l: reveal, n: () => note.focus(),
    ArrowLeft: () => show(at - 1), ArrowRight: () => show(at + 1),
  };
  panel.addEventListener("keydown", (event) => {
    if (event.target === note && event.key === "Enter") panel.focus();
    if (event.target.tagName === "INPUT" || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  });
  for (const button of panel.querySelectorAll("[data-mark]")) {
    button.addEventListener("click", () => mark(button.dataset.mark));
  }
  part("reveal").addEventListener("click", reveal);
  part("back").addEventListener("click", () => show(at - 1));
  part("next").addEventListener("click", () => show(at + 1));
  part("save").addEventListener("click", save);
  name.addEventListener("change", () => { state.by = by(); keep(); show(at); });
  note.addEventListener("change", () => {
    const known = by() ? marksOf()[keyOf(items[at])] : undefined;
    if (!known) return;
    known.note = note.value;
    keep();
  });

  try {
    state = JSON.parse(localStorage.getItem(place)) ?? state;
  } catch {
    say("This browser keeps no marks: save them before you close the page.");
  }
  name.value = state.by;
  panel.hidden = false;
  const first = by() ? items.findIndex((item) => !(keyOf(item) in marksOf())) : 0;
  show(first < 0 ? 0 : first);
})();
