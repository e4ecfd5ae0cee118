// A link to a folded note opens it.
(() => {
  function open() {
    const target = document.getElementById(location.hash.slice(1));
    if (target && target.matches("details")) target.open = true;
  }
  window.addEventListener("hashchange", open);
  open();
})();

// Contents fold away on a phone, and say where one is; cells of a table say their column, so that
// on a phone every row can be a card.
(() => {
  const contents = document.querySelector("nav details");
  const narrow = window.matchMedia("(max-width: 66rem)");
  const fold = () => { contents.open = !narrow.matches; };
  fold();
  narrow.addEventListener("change", fold);
  contents.addEventListener("click", (event) => { if (event.target.matches("a")) fold(); });
  const links = [...contents.querySelectorAll("a")];
  const sections = links.map((link) => document.querySelector(link.hash));
  window.addEventListener("scroll", () => mark(), { passive: true });
  function mark() {
    const at = Math.max(0, sections.findLastIndex((section) => section.getBoundingClientRect().top < 120));
    links.forEach((link, place) => {
      if (place === at) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
  }
  mark();
  for (const table of document.querySelectorAll(".scroll > table")) {
    const heads = [...table.querySelectorAll("thead th")].map((head) => head.innerText.split("\n")[0]);
    if (!heads.length) continue;
    table.classList.add("cards");
    for (const row of table.tBodies[0].rows) {
      [...row.cells].forEach((cell, at) => { if (cell.matches("td")) cell.dataset.head = heads[at]; });
    }
  }
})();

// Step through a report's items: one is shown at a time. Without this script all are shown.
(() => {
  const browser = document.querySelector(".browser");
  if (!browser) return;
  const items = [...browser.querySelectorAll("article.item")];
  const tools = browser.querySelector(".tools");
  const part = (name) => tools.querySelector(`[name=${name}]`);
  const [filter, list, back, on] = ["filter", "item", "back", "on"].map(part);
  const said = tools.querySelector("output");
  const sort = tools.querySelector("[name=sort]");
  const values = items.map((item) => (item.dataset.values ?? "").split(" ").map(Number));
  const options = [...list.options];
  let kept = items.map((_, number) => number);
  let at = 0;

  function show(place, tell = true) {
    at = Math.min(Math.max(place, 0), kept.length - 1);
    items.forEach((item, number) => { item.hidden = number !== kept[at]; });
    list.value = String(kept[at]);
    // Not disabled: a button that is would lose the focus of whoever steps with the keyboard.
    back.setAttribute("aria-disabled", String(at === 0));
    on.setAttribute("aria-disabled", String(at === kept.length - 1));
    if (tell) said.value = `${at + 1} of ${kept.length}`;
  }

  function choose() {
    const kinds = filter.value.split(" ");
    const now = kept[at];
    kept = items.flatMap((item, number) =>
      filter.value === "" || kinds.includes(item.dataset.kind) ? [number] : []);
    const turn = Number(sort?.selectedOptions[0].dataset.turn ?? 0);
    if (turn) {
      // Items without a value come last.
      const rank = (number) => turn * values[number][Number(sort.value)];
      kept.sort((one, two) => (rank(one) - rank(two) || isNaN(rank(one)) - isNaN(rank(two)) || one - two));
    }
    list.replaceChildren(...kept.map((number) => options[number]));
    show(Math.max(kept.indexOf(now), 0));
  }

  function follow() {
    const number = items.findIndex((item) => `#${item.id}` === location.hash);
    if (number < 0) return;
    filter.value = "";
    choose();
    show(number);
  }

  back.addEventListener("click", () => show(at - 1));
  on.addEventListener("click", () => show(at + 1));
  list.addEventListener("change", () => show(kept.indexOf(Number(list.value))));
  filter.addEventListener("change", choose);
  sort?.addEventListener("change", () => { choose(); show(0); });
  browser.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const busy = event.target.closest("select, input, .scroll, iframe");
    if (!step || busy || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    show(at + step);
  });
  window.addEventListener("hashchange", follow);
  tools.hidden = false;
  show(0);
  follow();
})();
