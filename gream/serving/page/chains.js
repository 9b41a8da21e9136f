// The reasoning: a panel for each chain, whose five steps unfold while they are written.
"use strict";

const STEPS = [
  ["evidence", "Evidence", "what in the history matters"],
  ["preference", "Preference", "the taste behind it"],
  ["intent", "Intent", "what the customer is after now"],
  ["recommendation", "Recommendation", "what kind of item follows"],
  ["rewritten_history", "History, rewritten", "without what does not fit"],
];

const panels = new Map(); // chain's number to { panel, chain, steps }

function clearChains(expected) {
  panels.clear();
  $("chains").replaceChildren();
  $("written").replaceChildren();
  markCited(new Map());
  for (let number = 0; number < expected; number++) panelOf(number);
}

/** Show a chain as far as it is written. */
function showChain({ number, chain }) {
  const shown = panelOf(number);
  shown.chain = chain;
  const reached = STEPS.reduce((last, [name], i) => (chain[name] ? i : last), -1);
  STEPS.forEach(([name], i) => {
    const state = i < reached ? "done" : i === reached ? "now" : "later";
    writeStep(shown, number, i, chain[name], state);
  });
  markCited(new Map([...panels].map(([n, one]) => [n, one.chain ? one.chain.cited : []])));
}

function writeStep(shown, number, i, text, state) {
  const step = shown.steps[i];
  const told = step.querySelector(".text");
  if (told.textContent !== text) told.replaceChildren(...withTitles(text, i === 0 ? shown.chain.cited : []));
  if (step.dataset.state !== state) {
    step.dataset.state = state;
    if (state === "done") $("written").append(el("p", {}, `Chain ${number + 1}, ${STEPS[i][1]}: ${text}`));
  }
}

/** Text with the titles that it cites marked. */
function withTitles(text, places) {
  const titles = places.map((place) => history_.items[place]?.title).filter(Boolean);
  const starts = titles.map((title) => [text.indexOf(title), title]).filter(([start]) => start >= 0);
  const parts = [];
  let at = 0;
  for (const [start, title] of starts.sort(([a], [b]) => a - b)) {
    if (start < at) continue; // inside a longer title, or the same one bought twice
    parts.push(text.slice(at, start), el("mark", {}, title));
    at = start + title.length;
  }
  return [...parts, text.slice(at)];
}

function panelOf(number) {
  if (panels.has(number)) return panels.get(number);
  const steps = STEPS.map(([, label, what]) =>
    el("li", { "data-state": "later" }, el("h4", { title: what }, label), el("p", { class: "text" })),
  );
  const found = el("p", { class: "found" });
  const panel = el(
    "article",
    { class: "chain", id: `chain-${number}`, tabindex: "-1", "aria-label": `Chain ${number + 1}` },
    el("div", { class: "row" }, el("h3", {}, `Chain ${number + 1}`), found),
    el("ol", { class: "steps" }, ...steps),
  );
  const shown = { panel, steps, found, chain: null };
  panel.onmouseenter = () => stressCited(shown.chain?.cited || []);
  panel.onmouseleave = () => stressCited([]);
  panels.set(number, shown);
  $("chains").append(panel);
  return shown;
}

/** Finish the panels with the answer: which chain found which items. Returns rank to chain's number. */
function finishChains(recommendations) {
  const finders = new Map();
  for (const { rank, chain, chain_number: number } of recommendations) {
    if (!chain) continue;
    finders.set(rank, number);
    showChain({ number, chain });
  }
  for (const [number, shown] of panels) {
    if (!shown.chain) shown.panel.remove(); // enough chains agreed before this one was begun
    else finish(number, shown, [...finders].filter(([, n]) => n === number).map(([rank]) => rank));
  }
  return finders;
}

function finish(number, shown, ranks) {
  shown.steps.forEach((step, i) => {
    const text = shown.chain[STEPS[i][0]];
    writeStep(shown, number, i, text, text ? "done" : "missing");
  });
  shown.panel.dataset.ranks = ranks.join(" ");
  shown.found.textContent = ranks.length ? `led to ${ranks.join(", ")}` : "led to nothing listed";
}
