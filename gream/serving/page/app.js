// The page as a whole: settings, asking, what went wrong, and the start.
"use strict";

const PAUSE = 300; // milliseconds without a change after which it is asked again

let underway = null; // the controller of the request that is not answered yet
let seed = 0;

const mode = () => document.querySelector("input[name=mode]:checked").value;
const numberIn = (id) => ($(id).value === "" ? null : Number($(id).value));

function bodyOfRequest() {
  const named = (id) => ($(id).value.trim() ? [$(id).value.trim()] : []);
  return {
    ...historyOfRequest(),
    k: numberIn("k"),
    mode: mode(),
    num_chains: numberIn("num_chains"),
    num_beams: numberIn("num_beams"),
    expand_width: $("scorer").checked ? numberIn("expand_width") : null,
    filters: {
      categories: named("category"),
      brands: named("brand"),
      min_price: numberIn("min_price"),
      max_price: numberIn("max_price"),
    },
    exclude_seen: $("exclude_seen").checked,
    explain: true,
    seed,
  };
}

/** Ask; a request that was not answered yet is given up. */
async function ask() {
  underway?.abort();
  const mine = (underway = new AbortController());
  $("error").hidden = true;
  $("reasoning").hidden = mode() !== "reasoning";
  if (!history_.items.length) return noHistory();
  const begun = performance.now();
  $("answer").setAttribute("aria-busy", "true");
  try {
    if (mode() === "direct") {
      const answer = await service.recommend(bodyOfRequest(), mine.signal);
      clearChains(0);
      showAnswer(answer, new Map());
      showTimes(answer, performance.now() - begun);
    } else {
      await reasonAloud(mine.signal, begun);
    }
  } catch (error) {
    if (error.name !== "AbortError" && mine === underway) showError(error);
  } finally {
    if (mine === underway) $("answer").removeAttribute("aria-busy");
  }
}

async function reasonAloud(signal, begun) {
  clearChains(numberIn("num_chains"));
  clearAnswer("The list follows when the chains are written.");
  $("status").textContent = "Thinking\u2026";
  let first = 0;
  const answer = await recommendAloud(bodyOfRequest(), signal, (event) => {
    first ||= performance.now() - begun;
    showChain(event);
  });
  showAnswer(answer, finishChains(answer.recommendations));
  showTimes(answer, performance.now() - begun, first);
}

function noHistory() {
  clearChains(0);
  clearAnswer("Add an item to the history, and recommendations follow.");
  $("reasoning").hidden = true;
  $("status").textContent = "";
  $("answer").removeAttribute("aria-busy");
}

function showTimes(answer, waited, first = 0) {
  const words = first ? `, first words after ${milliseconds(first)}` : "";
  const items = amount(answer.recommendations.length, "item");
  const worked = milliseconds(1000 * answer.seconds);
  $("status").textContent = `${items} in ${milliseconds(waited)}, ${worked} of it in the service${words}`;
}

/** Show the sentence of a refusal; anything else is a defect of this page and goes to the console too. */
function showError(error) {
  if (!(error instanceof Refusal)) console.error(error);
  if (error.status === 401) return askForKey(error.message);
  clearChains(0);
  clearAnswer("There is no list for these settings.");
  $("reasoning").hidden = true;
  $("status").textContent = "";
  $("error").textContent = error.message;
  $("error").hidden = false;
}

function askForKey(told) {
  $("page").hidden = true;
  $("key-form").hidden = false;
  $("key-told").textContent = sessionStorage.getItem(KEY) ? "That key was not the right one." : told;
  sessionStorage.removeItem(KEY);
  $("key").value = "";
  $("key").focus();
}

/** Keep the sliders within what the search can do, and write their values beside them. */
function settle() {
  const least = Math.max(numberIn("num_beams"), numberIn("k"));
  $("expand_width").min = least; // the scorer keeps the beams out of what is expanded
  $("expand_width").disabled = !$("scorer").checked;
  $("chains-slider").classList.toggle("idle", mode() === "direct");
  $("num_chains").disabled = mode() === "direct";
  for (const output of document.querySelectorAll(".slider output")) {
    const slider = $(output.htmlFor.value);
    output.textContent = slider.disabled ? idle(slider) : slider.value;
  }
  const on = ["category", "brand", "min_price", "max_price"].filter((id) => $(id).value.trim()).length;
  $("filters-on").textContent = on ? `${on} set` : "";
}

/** Why a slider has no effect, in a word. */
function idle(slider) {
  if (slider.id === "num_chains") return "\u2013";
  return $("scorer").disabled ? "no scorer" : "off";
}

function setUpSettings(about) {
  ordered = about.ordered;
  $("num_beams").value = about.num_beams;
  $("scorer").disabled = !about.scorer;
  $("scorer").closest("label").hidden = !about.scorer;
  const later = afterPause(ask, PAUSE);
  $("settings").oninput = (event) => {
    settle();
    if (event.target.name === "mode") ask();
    else later();
  };
  $("settings").onsubmit = (event) => event.preventDefault();
  $("again").onclick = () => {
    seed += 1;
    ask();
  };
  settle();
}

/** Offer names to a filter, each with the number of its items; others can be typed. */
function offer(list, names) {
  const options = names.map(({ name, items }) => el("option", { value: name }, amount(items, "item")));
  $(list).replaceChildren(...options);
}

async function start() {
  try {
    const asked = [service.about(), service.customers(), service.filters()];
    const [about, { customers }, filters] = await Promise.all(asked);
    $("key-form").hidden = true;
    $("page").hidden = false;
    const size = `${amount(about.items, "item")}, ${amount(about.customers, "customer")}`;
    const names = `names of ${amount(about.codebooks.length, "code")}`;
    $("about").textContent = `${size}, ${names}. Recommended at once, or with the reasons.`;
    setUpSettings(about);
    offer("categories", filters.categories);
    offer("brands", filters.brands);
    setUpSearch();
    setUpHistory(customers, afterPause(ask, 0));
  } catch (error) {
    $("page").hidden = false;
    showError(error);
  }
}

$("key-form").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key").value);
  start();
};
start();
