// The history: whose it is, its cards, and which of them the reasoning cites.
"use strict";

const OWN = ""; // the choice "a history of my own"
const DESCRIBED = 200; // cards from the end that get brand, category and price

const history_ = { items: [], customer: OWN, changed: () => {} };

/** What a request says of the history: an example customer by name, everything else by its items. */
function historyOfRequest() {
  if (history_.customer !== OWN) return { user_id: history_.customer };
  return { history: history_.items.map((item) => item.item_id) };
}

function setUpHistory(customers, changed) {
  history_.changed = changed;
  const select = $("customer");
  select.replaceChildren(
    ...customers.map((customer) => {
      const told = `${customer.user_id} (${amount(customer.history.length, "item")})`;
      return el("option", { value: customer.user_id }, told);
    }),
    el("option", { value: OWN }, "A history of my own"),
  );
  select.onchange = () => {
    const chosen = customers.find((customer) => customer.user_id === select.value);
    take(chosen ? [...chosen.history] : [], select.value);
    if (!chosen) $("search").focus();
  };
  $("clear").onclick = () => {
    take([], OWN);
    $("search").focus();
  };
  if (customers.length) take([...customers[0].history], customers[0].user_id);
  else take([], OWN);
}

function addToHistory(item) {
  take([...history_.items, { item_id: item.item_id, title: item.title }], OWN);
  say(`${item.title} was added; the history has ${amount(history_.items.length, "item")}.`);
  $("cards").scrollTop = $("cards").scrollHeight;
}

function removeFromHistory(place) {
  const [gone] = history_.items.splice(place, 1);
  take([...history_.items], OWN);
  say(`${gone.title} was removed.`);
  const buttons = $("cards").querySelectorAll("button");
  (buttons[Math.min(place, buttons.length - 1)] || $("search")).focus();
}

function take(items, customer) {
  Object.assign(history_, { items, customer });
  $("customer").value = customer;
  $("clear").hidden = !items.length;
  $("history-count").textContent = items.length ? `${amount(items.length, "item")}, oldest first` : "";
  $("cards").replaceChildren(...(items.length ? items.map(card) : [nothing()]));
  history_.changed();
}

function nothing() {
  return el("li", { class: "nothing" }, "Nothing yet. Search the catalogue above, and add what was bought.");
}

function card(item, place) {
  const facts = el("p", { class: "facts" });
  if (place >= history_.items.length - DESCRIBED) describeIn(facts, item.item_id);
  const remove = el("button", { type: "button", class: "remove", "aria-label": `Remove ${item.title}` }, "\u00d7");
  remove.onclick = () => removeFromHistory(place);
  const number = el("span", { class: "place", "aria-hidden": "true" }, String(place + 1));
  const text = el("div", {}, el("p", { class: "title" }, item.title), facts, el("p", { class: "cited-by" }));
  return el("li", { class: "card" }, number, text, remove);
}

/** Mark the cards that chains cite: a list of places for each chain's number. */
function markCited(citedByChain) {
  const numbers = [...citedByChain.keys()].sort((a, b) => a - b);
  [...$("cards").children].forEach((shown, place) => {
    const chains = numbers.filter((number) => citedByChain.get(number).includes(place)).map((number) => number + 1);
    shown.classList.toggle("cited", chains.length > 0);
    const told = shown.querySelector(".cited-by");
    const text = chains.length ? `Cited by chain${chains.length > 1 ? "s" : ""} ${chains.join(", ")}` : "";
    if (!told || told.textContent === text) return;
    const isNew = !told.textContent;
    told.textContent = text;
    if (isNew) showCard(shown);
  });
}

/** Bring a card into view within the list of cards, without moving the page. */
function showCard(shown) {
  const list = $("cards");
  const [box, within] = [shown.getBoundingClientRect(), list.getBoundingClientRect()];
  if (box.top < within.top) list.scrollTop += box.top - within.top;
  else if (box.bottom > within.bottom) list.scrollTop += box.bottom - within.bottom;
}

/** Lay stress on the cards that one chain cites, while it is looked at. */
function stressCited(places) {
  [...$("cards").children].forEach((shown, place) => shown.classList.toggle("stressed", places.includes(place)));
}
