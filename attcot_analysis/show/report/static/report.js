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

// A report's items in the strip of the explorer: one is shown at a time. Without this script all are.
(() => {
  const browser = document.querySelector(".browser");
  if (!browser) return;
  const items = [...browser.querySelectorAll("article.item")];
  const spec = JSON.parse(browser.dataset.gallery);
  spec.entries.forEach((entry, at) => { entry.picture = items[at].querySelector("img").src; });
  const gallery = new Gallery(spec, show);

  function show(at) {
    items.forEach((item, number) => { item.hidden = number !== at; });
    gallery.show(at);
  }

  // An item that was hidden cannot have been scrolled to.
  function follow() {
    const at = items.findIndex((item) => `#${item.id}` === location.hash);
    if (at < 0) return;
    show(at);
    items[at].focus();
  }

  items[0].before(gallery.root);
  window.addEventListener("hashchange", follow);
  show(0);
  follow();
})();
