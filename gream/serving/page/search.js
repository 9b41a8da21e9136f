// The search box of the catalogue: a combobox whose list is moved through with the arrows.
"use strict";

const NOTHING = "No item has these words.";

function setUpSearch() {
  const input = $("search");
  const list = $("found");
  let items = [];
  let active = -1;
  let asked = null;

  const close = () => {
    list.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };

  const point = (place) => {
    active = place;
    [...list.children].forEach((option, i) => option.setAttribute("aria-selected", String(i === place)));
    const option = list.children[place];
    input.setAttribute("aria-activedescendant", option.id);
    option.scrollIntoView({ block: "nearest" });
  };

  const choose = (item) => {
    asked?.abort();
    input.value = "";
    items = [];
    close();
    addToHistory(item);
    input.focus();
  };

  const show = () => {
    const nothing = el("li", { class: "nothing", role: "option", "aria-disabled": "true" }, NOTHING);
    list.replaceChildren(...(items.length ? items.map((item, place) => option(item, place, choose)) : [nothing]));
    active = -1;
    list.hidden = false;
    input.setAttribute("aria-expanded", String(items.length > 0));
    input.removeAttribute("aria-activedescendant");
    say(items.length ? `${amount(items.length, "item")} found; move with the arrows.` : NOTHING);
  };

  const find = async () => {
    asked?.abort();
    const query = input.value.trim();
    if (!query) return close();
    asked = new AbortController();
    try {
      ({ items } = await service.find(query, asked.signal));
      if (document.activeElement === input) show();
    } catch (error) {
      if (error.name === "AbortError") return;
      close();
      showError(error);
    }
  };

  const moves = {
    ArrowDown: () => point((active + 1) % items.length),
    ArrowUp: () => point((active <= 0 ? items.length : active) - 1),
    Enter: () => choose(items[Math.max(active, 0)]),
  };
  const later = afterPause(find, 150);
  input.oninput = () => {
    items = []; // what is shown belongs to other words: the keys wait for what is found now
    later();
  };
  input.onblur = close;
  input.onkeydown = (event) => {
    if (event.key === "Escape") {
      if (list.hidden) input.value = "";
      close();
    } else if (event.key === "ArrowDown" && list.hidden && input.value.trim()) {
      event.preventDefault();
      find();
    } else if (moves[event.key] && !list.hidden && items.length) {
      event.preventDefault();
      moves[event.key]();
    }
  };
}

function option(item, place, choose) {
  const facts = [about(item), item.available ? "" : "not available"].filter(Boolean).join(" \u00b7 ");
  return el(
    "li",
    {
      id: `found-${place}`,
      role: "option",
      "aria-selected": "false",
      onmousedown: (event) => event.preventDefault(), // the box keeps the focus
      onclick: () => choose(item),
    },
    el("span", { class: "title" }, item.title),
    el("span", { class: "facts" }, facts),
  );
}
