// The search as a tree: one level of codes beside the other, what leads to the list in front, the rest folded.
"use strict";

let ordered = true; // whether the codes of a name have an order
const SHOWN = 2; // of the prefixes under one that lead nowhere

function showTree(answer) {
  const titles = new Map(answer.recommendations.map((one) => [one.rank, one.title]));
  const roots = linked(answer.search);
  $("tree").replaceChildren(levels(answer.search), branches(roots, titles, answer.search.length));
  $("tree-told").hidden = ordered;
}

/** How many prefixes each level kept and dropped. */
function levels(search) {
  return el(
    "ol",
    { class: "levels" },
    ...search.map((level, i) => {
      const kept = level.filter((prefix) => prefix.kept).length;
      const pruned = level.length > kept ? `, ${level.length - kept} pruned` : "";
      return el("li", {}, el("strong", {}, `Level ${i + 1}`), ` ${kept} kept${pruned}`);
    }),
  );
}

/** Hang every prefix under one that it continues; where names have no order, any whose codes it has. */
function linked(search) {
  const above = search.map((level) => level.map((prefix) => ({ ...prefix, all: codesOf(prefix.codes), under: [] })));
  above.slice(1).forEach((level, i) => {
    for (const node of level) {
      const parent = above[i].find((one) => one.kept && one.all.every((code) => node.all.includes(code)));
      node.newest = node.all.filter((code) => !parent?.all.includes(code));
      (parent?.under || above[0]).push(node);
    }
  });
  return above[0] || [];
}

function branches(nodes, titles, depth) {
  const leading = nodes.filter((node) => node.ranks.length);
  const rest = nodes.filter((node) => !node.ranks.length);
  const list = el("ul", { class: "branches" }, ...leading.map((node) => branch(node, titles, depth)));
  const few = leading.length ? 0 : SHOWN;
  const shown = rest.length > SHOWN ? few : rest.length;
  list.append(...rest.slice(0, shown).map((node) => branch(node, titles, depth)));
  if (rest.length > shown) list.append(folded(rest.slice(shown), titles, depth, leading.length + shown > 0));
  return list;
}

/** "and 14 more": what is behind it is made when it is asked for. */
function folded(nodes, titles, depth, others) {
  const pruned = nodes.filter((node) => !node.kept).length;
  const number = others ? `and ${nodes.length} more` : `${nodes.length} in all`;
  const told = pruned ? `${number}, ${pruned} pruned` : number;
  const place = el("li", { class: "more" });
  place.append(
    el("button", {
      type: "button",
      class: "link",
      onclick: () => {
        const made = nodes.map((node) => branch(node, titles, depth));
        place.replaceWith(...made);
        made[0].querySelector(".label").focus();
      },
    }, told),
  );
  return place;
}

function branch(node, titles, depth) {
  const codes = node.newest || node.all;
  const last = node.all.length === depth;
  const label = el("div", { class: "label", tabindex: "-1" }, ...codes.map(chip));
  label.onmouseenter = () => showPath(node.ranks);
  label.onmouseleave = () => showPath(pinned);
  if (!node.kept) label.append(el("span", { class: "faint" }, "pruned"));
  const leads = last ? leaf(node, titles) : target(node);
  if (node.ranks.length) label.append(el("span", { class: "ranks" }, leads));
  const kind = node.ranks.length ? "leads" : node.kept ? "aside" : "pruned";
  const made = el("li", { class: `node ${kind}`, "data-ranks": node.ranks.join(" ") }, label);
  if (node.under.length) made.append(branches(node.under, titles, depth));
  return made;
}

const target = ({ ranks }) => (ranks.length > 3 ? `to ${ranks.length} items` : `to ${ranks.join(", ")}`);

const leaf = (node, titles) => node.ranks.map((rank) => `${rank} ${titles.get(rank)}`).join(", ");
