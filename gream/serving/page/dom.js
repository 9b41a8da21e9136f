// Elements, numbers and codes. Text comes in as text: nothing on this page is ever parsed as HTML.
"use strict";

const $ = (id) => document.getElementById(id);

/** Make an element: attributes by name, `on…` as listeners, children as elements or as text. */
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Say something to a screen reader only. */
function say(text) {
  $("live").textContent = text;
}

/** Call `work` once nothing was asked for `pause` milliseconds. */
function afterPause(work, pause) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, pause);
  };
}

const amount = (number, one) => `${number.toLocaleString("en")} ${one}${number === 1 ? "" : "s"}`;

const milliseconds = (ms) => (ms < 995 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

/** A real minus sign, which is as wide as a digit. */
const signed = (number) => number.toFixed(2).replace("-", "\u2212");

function percent(share) {
  if (share >= 0.0995) return `${(100 * share).toFixed(0)}%`;
  if (share >= 0.00095) return `${(100 * share).toFixed(1)}%`;
  return share >= 0.00005 ? `${(100 * share).toFixed(2)}%` : "< 0.01%";
}

/** The codes of a name: "<a_3><b_16>" gives ["a3", "b16"]. */
function codesOf(tokens) {
  return [...tokens.matchAll(/<([a-z]+)_(\d+)>/g)].map(([, book, code]) => book + code);
}

/** One code; the letter of its codebook stands back. */
function chip(code) {
  const book = code.replace(/\d+$/, "");
  return el("span", { class: "chip" }, el("span", { class: "book" }, book), code.slice(book.length));
}

/** Brand, finest category and price of an item, as far as they are known. */
function about(item) {
  const price = item.price === null ? "" : item.price.toFixed(2);
  return [item.categories.at(-1), item.brand, price].filter(Boolean).join(" \u00b7 ");
}
