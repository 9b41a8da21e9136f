// The list of recommendations; looking at one shows how it was reached.
"use strict";

let pinned = []; // the rank whose path stays lit, if any

function showAnswer(answer, finders) {
  pinned = [];
  const most = Math.max(...answer.recommendations.map((one) => one.logp));
  $("list").replaceChildren(...answer.recommendations.map((one) => recommended(one, most, finders.get(one.rank))));
  $("search-section").hidden = !answer.search;
  document.querySelector(".answer").classList.toggle("with-tree", Boolean(answer.search));
  if (answer.search) showTree(answer);
}

function clearAnswer(told) {
  pinned = [];
  $("search-section").hidden = true;
  document.querySelector(".answer").classList.remove("with-tree");
  $("list").replaceChildren(el("li", { class: "nothing" }, told));
}

function recommended(one, most, finder) {
  const facts = el("p", { class: "facts" });
  describeIn(facts, one.item_id);
  const row = el(
    "li",
    { class: "recommended", "data-rank": one.rank },
    el("span", { class: "rank", "aria-hidden": "true" }, String(one.rank)),
    el("div", { class: "what" }, el("h3", {}, one.title), facts, ways(one, finder)),
    measures(one, most),
  );
  for (const enter of ["mouseenter", "focusin"]) row.addEventListener(enter, () => showPath([one.rank]));
  for (const leave of ["mouseleave", "focusout"]) row.addEventListener(leave, () => showPath(pinned));
  return row;
}

/** How the item was reached: its codes, the chain, and a way on from it. */
function ways(one, finder) {
  const codes = codesOf(one.name);
  const path = el(
    "button",
    {
      type: "button",
      class: "codes",
      "aria-pressed": "false",
      "aria-label": `Codes ${codes.join(" ")}, show the path to ${one.title}`,
    },
    ...codes.map(chip),
  );
  path.onclick = () => {
    const press = !pinned.includes(one.rank);
    pinned = press ? [one.rank] : [];
    for (const button of document.querySelectorAll(".codes")) {
      button.setAttribute("aria-pressed", String(press && button === path));
    }
    showPath([one.rank]);
  };
  const chain = finder === undefined ? null : chainButton(finder, one.title);
  const label = `Add ${one.title} to the history`;
  const add = el("button", { type: "button", class: "link", "aria-label": label }, "add to history");
  add.onclick = () => {
    addToHistory(one);
    $("answer").focus({ preventScroll: true }); // the row that had the focus goes with the next answer
  };
  return el("div", { class: "ways" }, path, chain, add);
}

function chainButton(number, title) {
  const label = `Chain ${number + 1} found ${title}; go to it`;
  const go = () => {
    const { panel } = panels.get(number);
    panel.focus({ preventScroll: true });
    panel.scrollIntoView({ block: "nearest", behavior: "smooth" });
  };
  return el("button", { type: "button", class: "link", "aria-label": label, onclick: go }, `chain ${number + 1}`);
}

function measures(one, most) {
  const bar = el("span", { class: "bar" }, el("span", {}));
  bar.firstChild.style.width = `${100 * Math.exp(one.logp - most)}%`;
  const lines = [["log p", "log-probability of the name", signed(one.logp)]];
  if (one.score !== null) lines.push(["score", "the scorer's score", signed(one.score)]);
  return el(
    "div",
    { class: "measures" },
    el("span", { class: "probability", title: "probability of the name" }, percent(Math.exp(one.logp))),
    bar,
    ...lines.map(([name, title, value]) => el("span", { title }, `${name} ${value}`)),
  );
}

/** Light up the paths to items, and the chains that found them. */
function showPath(ranks) {
  const light = (selector, ranksOf) => {
    for (const one of document.querySelectorAll(selector)) {
      one.classList.toggle("on", ranksOf(one).some((rank) => ranks.includes(rank)));
    }
  };
  light(".recommended", (row) => [Number(row.dataset.rank)]);
  light(".node", (node) => node.dataset.ranks.split(" ").map(Number));
  light(".chain", (panel) => (panel.dataset.ranks || "").split(" ").map(Number));
}
