// The strip of items of explorer and report, and how both make numbers and elements. Text from models
// and data sets enters the page as text nodes and attributes only.

const MINUS = "\u2212", NONE = "\u2013";

function number(value, signed = false) {
  if (!Number.isFinite(value)) return NONE;
  const text = Math.abs(value).toFixed(Math.abs(value) < 10 ? 3 : 1);
  if (+text === 0) return text;
  return (value < 0 ? MINUS : signed ? "+" : "") + text;
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}
const make = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);

/** The strip of items: sorted, filtered; the arrow keys go along it, Enter opens. */
class Gallery {
  constructor({ entries, orders }, open) {
    Object.assign(this, { entries, orders, open, at: 0, order: "", group: "" });
    const count = (group) => entries.filter(({ groups }) => groups.includes(group)).length;
    const groups = [...new Set(entries.flatMap(({ groups }) => groups))];
    this.strip = make("div", { class: "ax-items", role: "listbox", "aria-label": "Items" });
    this.strip.addEventListener("keydown", (event) => this.key(event));
    this.said = make("p", { class: "ax-small", role: "status" });
    this.root = make(
      "section",
      { class: "attcot-gallery", "aria-label": "Items" },
      make(
        "div",
        { class: "ax-sorting" },
        this.choice("Sort", "order", [["", "as given"], ...orders.map(({ said }, at) => [at, said])]),
        this.choice("Show", "group", [
          ["", `all (${entries.length})`],
          ...groups.map((name) => [name, `${name} (${count(name)})`]),
        ]),
        this.said,
      ),
      this.strip,
    );
    this.fill();
  }

  choice(label, name, options) {
    if (options.length < 2) return null;
    const change = (event) => {
      this[name] = event.target.value;
      this.fill();
    };
    const list = make("select", { "aria-label": label, onchange: change }, options.map(([value, text]) => make("option", { value }, text)));
    return make("label", {}, `${label} `, list);
  }

  /** Places of the entries that are shown, in their order. */
  shown() {
    const { entries, group, order } = this;
    const places = [...entries.keys()].filter((at) => !group || entries[at].groups.includes(group));
    if (!order) return places;
    const { name, turn } = this.orders[order];
    // Items without a value come last.
    const rank = (at) => turn * (entries[at].sort[name] ?? turn * Infinity);
    return places.sort((one, two) => rank(one) - rank(two) || one - two);
  }

  fill() {
    const places = this.shown();
    this.options = new Map(places.map((at) => [at, this.option(at)]));
    this.strip.replaceChildren(...this.options.values());
    this.show(this.at, `${places.length} of ${this.entries.length} items`);
  }

  option(at) {
    const { item, question, picture, sort, groups, failed } = this.entries[at];
    const order = this.orders[this.order];
    const value = order && `${order.title}: ${order.name in sort ? number(sort[order.name]) : "not measured"}`;
    const words = [value, ...groups, failed ? "cannot be shown" : ""].filter(Boolean).join(", ");
    return make(
      "button",
      { type: "button", role: "option", tabindex: -1, title: question, onclick: () => this.open(at) },
      make("img", { src: picture, alt: "", loading: "lazy" }),
      make("span", {}, item),
      make("small", {}, words),
    );
  }

  /** Say which item is open, and why another is not. */
  show(at, words = "") {
    this.at = at;
    for (const [place, option] of this.options) {
      option.setAttribute("aria-selected", place === at);
      option.tabIndex = place === at ? 0 : -1;
    }
    if (!this.options.has(at)) this.options.values().next().value?.setAttribute("tabindex", 0);
    this.said.textContent = words || `${this.entries[at].item}, ${at + 1} of ${this.entries.length}`;
  }

  key(event) {
    const all = [...this.options.values()], now = all.indexOf(document.activeElement);
    const step = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1, Home: 0, End: all.length - 1 };
    event.stopPropagation();
    if (!(event.key in step)) return;
    event.preventDefault();
    all[clamp(step[event.key], 0, all.length - 1)]?.focus();
  }
}
