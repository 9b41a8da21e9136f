// The service: requests, its errors, its key, and the stream of reasoning.
"use strict";

const KEY = "gream-key"; // in the tab's own storage, which ends with the tab

/** What the service refused, in its own sentence. */
class Refusal extends Error {
  constructor(status, told) {
    super(told);
    this.status = status;
  }
}

async function request(path, { body, signal } = {}) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers,
      body: body && JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The service does not answer; see whether it still runs, then try again.");
  }
  if (!response.ok) throw new Refusal(response.status, await detailOf(response));
  return response;
}

async function detailOf(response) {
  const unnamed = `The service answered ${response.status} and did not say why.`;
  try {
    return (await response.json()).detail || unnamed;
  } catch {
    return unnamed; // something between this page and the service answered, not in JSON
  }
}

const getJson = async (path, options) => (await request(path, options)).json();

const service = {
  about: () => getJson("v1/service"),
  customers: () => getJson("v1/customers?limit=12"),
  filters: () => getJson("v1/filters?limit=500"),
  items: (ids) => getJson(`v1/items?${new URLSearchParams(ids.map((id) => ["ids", id]))}`),
  find: (query, signal) => getJson(`v1/items?query=${encodeURIComponent(query)}&limit=8`, { signal }),
  recommend: (body, signal) => getJson("v1/recommendations", { body, signal }),
};

/** Ask for reasoning: `chains(event)` is called while they are written; the answer is returned. */
async function recommendAloud(body, signal, chains) {
  const response = await request("v1/recommendations/stream", { body, signal });
  for await (const { kind, data } of eventsOf(response.body)) {
    if (kind === "chain") chains(data);
    if (kind === "answer") return data;
    if (kind === "error") throw new Refusal(200, data.detail);
  }
  throw new Refusal(0, "The connection ended before the answer came; try again.");
}

/** Read server-sent events off a body; EventSource cannot send a POST. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      yield* parts.map(eventOf);
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The connection broke before the answer came; try again.");
  } finally {
    reader.cancel().catch(() => {}); // already closed where the service ended it
  }
}

function eventOf(text) {
  const lines = text.split("\n");
  const of = (field) => {
    const start = `${field}: `;
    return lines.filter((line) => line.startsWith(start)).map((line) => line.slice(start.length));
  };
  return { kind: of("event")[0], data: JSON.parse(of("data").join("\n")) };
}

const known = new Map(); // item id to what the catalogue says of it
const MOST = 50; // ids of one request
let wanted = []; // what is asked for together when the page has been put up

/** Look an item up, once; items that are looked up together are one request. */
function itemOf(itemId) {
  if (!known.has(itemId)) {
    if (!wanted.length) setTimeout(lookUp, 0);
    known.set(itemId, new Promise((found, failed) => wanted.push({ itemId, found, failed })));
  }
  return known.get(itemId);
}

async function lookUp() {
  const asked = wanted;
  wanted = [];
  for (let start = 0; start < asked.length; start += MOST) {
    const part = asked.slice(start, start + MOST);
    try {
      const { items } = await service.items(part.map(({ itemId }) => itemId));
      part.forEach(({ found }, place) => found(items[place]));
    } catch (error) {
      for (const { itemId, failed } of part) {
        known.delete(itemId);
        failed(error);
      }
    }
  }
}

/** Write brand, category and price into an element, when they are known. */
async function describeIn(element, itemId) {
  try {
    element.textContent = about(await itemOf(itemId));
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    element.textContent = ""; // the title stands without them
  }
}
