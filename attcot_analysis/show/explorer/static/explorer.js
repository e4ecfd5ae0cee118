// The attention explorer: one module for JupyterLab (through anywidget) and for pages without a
// kernel. Everything is drawn here; Python sends packed maps once and is told what is selected.
// Behind gallery.js, whose elements it is made of.

const MEAN = -1, MAX = -2, VISUAL = -3;
const WORDS = { [MEAN]: "mean", [MAX]: "max", [VISUAL]: "visual" };
const FINAL = -1; // instead of a candidate: the one that each model ends with
const STATS = ["mass", "share", "spread", "peak", "cell", "scale"];
const BLACK = 48; // how light the picture's black is under a map, of 255
const SIDE = 448; // pixels of a pane's longer side
const FRAME = { tokens: 450, steps: 1200, layers: 800, heads: 800 }; // ms per picture while playing
const LEVELS = ["#ffe08a", "#ff9d3c", "#ff5a8a"]; // of contour lines, from weak to strong
const KEPT = 96e6; // bytes of fetched maps to keep

// --- numbers ------------------------------------------------------------------------------------

function weight(value, signed = false) {
  if (!Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  const text = size === 0 ? "0" : size < 1e-4 ? size.toExponential(1) : String(+size.toPrecision(2));
  return (value < 0 ? MINUS : signed && value > 0 ? "+" : "") + text.replace("-", MINUS);
}

function bytes(value) {
  if (value instanceof DataView) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  return value instanceof Uint8Array ? value : new Uint8Array(value);
}

// --- elements -----------------------------------------------------------------------------------

const draw = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** What a token looks like: line ends are seen, blanks at its ends are not. */
const visible = (text) => text.replace(/\r?\n/g, "\u23ce").trim() || "\u2423";
/** The same for a voice. */
const spoken = (text) => text.replace(/\r?\n/g, " line end").trim() || "blank";

// --- maps ---------------------------------------------------------------------------------------

/** Unpacks planes (one map per token for a source, model, layer and head) and keeps them. */
class Planes {
  constructor(spec, data) {
    this.spec = spec;
    this.known = new Map();
    this.fetched = new Map(); // name -> bytes, oldest first
    this.limits = new Map();
    let at = this.add(spec.index, data, false);
    this.masses = spec.models.map(() => {
      const block = spec.headMasses ? data.subarray(at, at + spec.headMasses) : null;
      at += spec.headMasses;
      return block;
    });
    const signed = new Float32Array(256), positive = new Float32Array(256);
    for (let level = 0; level < 256; level++) {
      positive[level] = (level / 255) ** 2;
      signed[level] = ((level - 128) / 127) * Math.abs((level - 128) / 127);
    }
    this.levels = { signed, positive };
  }

  add(index, data, fetched) {
    let at = 0;
    for (const [name, rows, cols] of index) {
      const head = this.spec.parts * STATS.length * 4, size = this.spec.parts * rows * cols;
      const stats = new Float32Array(data.slice(at, at + head).buffer);
      const plane = { name, rows, cols, stats, levels: data.subarray(at + head, at + head + size) };
      plane.full = rows === this.spec.rows && cols === this.spec.cols;
      this.known.set(name, plane);
      if (fetched) this.keep(name, head + size);
      at += head + size + ((4 - ((head + size) % 4)) % 4);
    }
    return at;
  }

  keep(name, size) {
    this.fetched.delete(name);
    this.fetched.set(name, size);
    let total = [...this.fetched.values()].reduce((sum, one) => sum + one, 0);
    for (const [old, freed] of this.fetched) {
      if (total <= KEPT || old === name) break;
      this.fetched.delete(old);
      this.known.delete(old);
      total -= freed;
    }
  }

  /** The plane itself, or the nearest one that is here, and whether it is the one asked for. */
  find({ source, model, layer, head }) {
    const name = planeName(source, model, layer, head);
    for (const other of [
      name,
      planeName(source, model, layer, MEAN),
      planeName(source, model, MEAN, head),
      planeName(source, model, MEAN, MEAN),
    ]) {
      const plane = this.known.get(other);
      if (plane) return { plane, exact: other === name };
    }
    return { plane: null, exact: false };
  }

  /** A number of one part: of a token, or behind the tokens of a step. */
  stat(plane, part, name) {
    return plane ? plane.stats[part * STATS.length + STATS.indexOf(name)] : NaN;
  }

  column(plane, name) {
    const found = new Float64Array(this.spec.tokens.length);
    for (let token = 0; token < found.length; token++) found[token] = this.stat(plane, token, name);
    return found;
  }

  /** One part's map as weights; null where it has none. */
  map(plane, part, signed) {
    if (!plane || !Number.isFinite(this.stat(plane, part, "mass"))) return null;
    const size = plane.rows * plane.cols, scale = this.stat(plane, part, "scale");
    const table = signed ? this.levels.signed : this.levels.positive;
    const found = new Float32Array(size);
    for (let cell = 0, at = part * size; cell < size; cell++, at++) {
      found[cell] = scale * table[plane.levels[at]];
    }
    return found;
  }

  /** Per token, the weights of a box of cells (first row, first column, last row, last column) summed. */
  inBox(plane, box, signed) {
    const { tokens } = this.spec;
    return tokens.map((_, part) => this.sumOf(plane, this.map(plane, part, signed), box));
  }

  /** The weights of a box of cells in a map; of a coarse map, the means over its blocks. */
  sumOf(plane, map, [top, left, bottom, right]) {
    if (!map) return NaN;
    const { rows, cols } = this.spec;
    let sum = 0;
    for (let row = top; row <= bottom; row++) {
      for (let col = left; col <= right; col++) {
        sum += map[Math.floor((row * plane.rows) / rows) * plane.cols + Math.floor((col * plane.cols) / cols)];
      }
    }
    return sum;
  }

  /** All tokens, or all steps. */
  parts(whole) {
    const every = [...Array(this.spec.parts).keys()], end = this.spec.tokens.length;
    return whole ? every.slice(end) : every.slice(0, end);
  }

  /** The largest weight of every token (or step) in any of some planes. */
  peaks(planes, signed, whole) {
    const name = signed ? "scale" : "peak";
    return this.parts(whole).map((part) =>
      planes.reduce((top, plane) => Math.max(top, this.stat(plane, part, name) || 0), 0),
    );
  }

  /** The largest difference of two planes at every token (or step). */
  changes(first, second, signed, whole) {
    if (!first || !second || first.rows !== second.rows || first.cols !== second.cols) return [];
    const key = `${first.name} ${second.name} ${first.rows} ${whole}`;
    if (!this.limits.has(key)) {
      const found = this.parts(whole).map((part) => {
        const one = this.map(first, part, signed), two = this.map(second, part, signed);
        return one && two ? largest(difference(one, two)) : NaN;
      });
      this.limits.set(key, found);
    }
    return this.limits.get(key);
  }
}

const planeName = (source, model, layer, head) =>
  `${source}.${model}.${WORDS[layer] ?? layer}.${WORDS[head] ?? head}`;

function difference(first, second) {
  const found = new Float32Array(first.length);
  for (let at = 0; at < found.length; at++) found[at] = second[at] - first[at];
  return found;
}

function largest(values) {
  let top = 0;
  for (const value of values) top = Math.max(top, Math.abs(value));
  return top;
}

/** End of a scale that suits nine of ten tokens: one token that looks at one place would fade the rest. */
function usual(peaks) {
  const sorted = peaks.filter(Number.isFinite).sort((one, two) => one - two);
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.ceil(0.9 * sorted.length) - 1)] : 0;
}

// --- the widget ---------------------------------------------------------------------------------

const SHARED = ["source", "layer", "head", "token", "unit", "opacity", "one_scale", "first", "second"];

class View {
  constructor(model, el) {
    this.model = model;
    this.spec = model.get("spec");
    this.planes = new Planes(this.spec, bytes(model.get("data")));
    this.id = `ax${Math.random().toString(36).slice(2, 10)}`;
    this.cell = null; // the image token under the pointer or the cell cursor
    this.box = null; // the cells picked: first row, first column, last row, last column
    this.pin = null; // a token or step held against the one selected: its token and its part
    this.curve = "mass";
    this.candidate = FINAL;
    this.boxes = true;
    this.axis = "tokens";
    this.timer = null;
    this.frame = null;
    this.waiting = false;
    this.still = window.matchMedia("(prefers-reduced-motion: reduce)");
    this.layers = this.choices("layer");
    this.heads = this.choices("head");
    this.after = stepsBefore(this.spec.steps);
    this.root = make("section", { class: "attcot-explorer", "aria-label": "Attention explorer" });
    this.build();
    el.append(this.root);
    this.listen();
    this.loadPicture();
    this.render();
  }

  get(name) {
    return this.model.get(name);
  }

  /** Change the selection: the picture first, then the kernel is told. */
  set(changes) {
    for (const [name, value] of Object.entries(changes)) this.model.set(name, value);
    if (this.due) this.render();
    this.model.save_changes();
  }

  listen() {
    this.changed = () => this.later();
    for (const name of SHARED) this.model.on(`change:${name}`, this.changed);
    this.received = (message, buffers) => this.receive(message, buffers);
    this.model.on("msg:custom", this.received);
    // JupyterLab acts on plain keys (arrows scroll, x cuts a cell) unless they stop here.
    this.root.addEventListener("keydown", (event) => {
      const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
      const run = event.key === "Enter" && event.shiftKey;
      if (plain && !run && event.key !== "Tab" && event.key !== "Escape") event.stopPropagation();
      if (event.key !== "Escape") return;
      if (this.timer) this.play(false);
      else this.pick(null);
    });
    this.watch = new ResizeObserver(() => this.resized());
    this.watch.observe(this.charts);
    this.motion = () => this.labelPlay();
    this.still.addEventListener("change", this.motion);
  }

  close() {
    this.play(false);
    this.watch.disconnect();
    this.still.removeEventListener("change", this.motion);
    cancelAnimationFrame(this.frame);
    for (const name of SHARED) this.model.off(`change:${name}`, this.changed);
    this.model.off("msg:custom", this.received);
    this.root.remove();
  }

  /** What a slider can be set to: all in a live explorer, else what the page carries. */
  choices(what) {
    const { spec } = this;
    const count = what === "layer" ? spec.layers : spec.heads;
    const words = what === "layer" ? [MEAN, MAX] : spec.visual.length ? [MEAN, MAX, VISUAL] : [MEAN, MAX];
    const every = [...words, ...Array(count).keys()];
    if (spec.live) return every;
    const at = what === "layer" ? 2 : 3;
    const there = new Set(spec.index.map(([name]) => name.split(".")[at]));
    return every.filter((one) => there.has(WORDS[one] ?? String(one)));
  }

  // --- building ---------------------------------------------------------------------------------

  build() {
    const { spec } = this;
    this.root.append(this.header());
    this.panes = this.paneNames().map((name) => this.pane(name));
    this.paneBox = make("div", { class: "ax-panes" }, this.panes.map((pane) => pane.figure));
    this.scaleBars = make("div", { class: "ax-bars" });
    this.scaleText = make("p", { class: "ax-scale" });
    const pictures = make(
      "div",
      { class: "ax-pictures" },
      this.paneBox,
      this.scaleBars,
      this.scaleText,
    );
    this.note = make("p", { class: "ax-note" });
    this.live = make("p", { class: "ax-live", role: "status" });
    const text = make("div", { class: "ax-words" }, this.live, this.strip());
    this.root.append(make("div", { class: "ax-top" }, pictures, text, this.controls()));
    this.charts = make("div", { class: "ax-charts" });
    this.readout = make("div", { class: "ax-readout" });
    this.forced = make("div", { class: "ax-forced" });
    const numbers = make("div", { class: "ax-numbers" }, this.readout, this.forced);
    this.root.append(make("div", { class: "ax-bottom" }, this.charts, numbers), this.note);
    this.buildCharts();
  }

  header() {
    const { spec } = this, facts = [];
    if (spec.right) facts.push(["right answer", spec.right]);
    if (spec.habitual && spec.habitual !== spec.right) facts.push(["habitual answer", spec.habitual]);
    for (const model of spec.models) {
      if (model.answer === null) continue;
      const verdict = model.correct ? " (\u2713 right)" : " (\u2717 wrong)";
      facts.push([`${model.label} answers`, model.answer + (model.correct === null ? "" : verdict)]);
    }
    const wrote = spec.models.filter((model) => model.response !== null);
    const own = wrote.map((model) => [make("dt", {}, model.label), make("dd", {}, model.response)]);
    return make(
      "header",
      { class: "ax-header" },
      make("p", { class: "ax-question" }, spec.question),
      make(
        "dl",
        { class: "ax-facts" },
        facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
      ),
      make("p", { class: "ax-text" }, spec.text),
      own.length
        ? make(
            "details",
            {},
            make("summary", {}, own.length > 1 ? "What each writes by itself" : "What it writes by itself"),
            make("dl", { class: "ax-own" }, own),
          )
        : null,
    );
  }

  paneNames() {
    const names = this.spec.models.length > 1 ? ["picture", "first", "second", "difference"] : ["picture", "first"];
    return this.spec.models.some((model) => model.picture) ? [...names, "edited"] : names;
  }

  pane(name) {
    const [width, height] = this.spec.size, ratio = SIDE / Math.max(width, height);
    const size = { width: Math.round(width * ratio), height: Math.round(height * ratio) };
    const canvas = make("canvas", { ...size, class: "ax-map", role: "img", "aria-label": "map" });
    const holder = make("div", { class: "ax-frame" }, canvas);
    if (name === "first") {
      // One stop for the keyboard: the cursor shows in every pane.
      fill(holder, {
        tabindex: 0,
        role: "group",
        onkeydown: (event) => this.moveCell(event),
        onblur: () => this.point(null),
      }, []);
    }
    let start = null, before = null;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      before = this.box;
      start = this.cellAt(canvas, event);
      this.pick(start, start);
    });
    canvas.addEventListener("pointermove", (event) => {
      this.point(this.cellAt(canvas, event));
      if (start !== null) this.pick(start, this.cell);
    });
    canvas.addEventListener("pointerup", () => {
      // A second click on the same patch lets go of it.
      if (String(before) === String(this.box) && before[0] === before[2] && before[1] === before[3]) this.pick(null);
      start = null;
    });
    canvas.addEventListener("pointercancel", () => (start = null));
    canvas.addEventListener("pointerleave", () => this.point(null));
    const chosen = name === "first" || name === "second";
    const title = chosen ? this.modelName(name) : make("span"), said = make("span");
    const grid = make("canvas", { class: "ax-heads", role: "img", "aria-label": "heads" });
    grid.width = this.spec.heads;
    grid.height = this.spec.layers;
    grid.addEventListener("click", (event) => this.pickHead(grid, event));
    const small = make("div", { class: "ax-headbox" }, grid, make("span", { class: "ax-small" }));
    small.hidden = !this.spec.headMasses || name === "picture" || name === "edited";
    const figure = make("figure", { class: `ax-pane ax-is-${name}` }, make("figcaption", {}, title, said), holder, small);
    // Which of the maps shown it draws; the picture draws none.
    const at = ["first", "second", "difference"].indexOf(name);
    return { name, at, said, figure, holder, canvas, title, grid, small, context: canvas.getContext("2d") };
  }

  /** A pane's title; with more than two models, a choice. */
  modelName(name) {
    const { models } = this.spec;
    if (models.length < 3) return make("span");
    const words = name === "first" ? "left model" : "right model";
    return make(
      "select",
      { "aria-label": words, onchange: (event) => this.set({ [name]: +event.target.value }) },
      models.map((model, at) => make("option", { value: at }, model.label)),
    );
  }

  controls() {
    const { spec } = this;
    this.sourceBox = this.select("Source", spec.sources.map((one) => [one.key, one.label]), (value) =>
      this.set({ source: value }),
    );
    this.layerBox = this.slider("Layer", this.layers, "layer");
    this.headBox = this.slider("Head", this.heads, "head");
    this.styleBox = this.select("Shown as", [["", "colours"], ["lines", "lines at \u00bc, \u00bd, \u00be"]], (value) => {
      this.lines = value === "lines";
      this.later();
    });
    this.opacityBox = this.range("Overlay", 0, 100, 5, (value) => this.set({ opacity: value / 100 }));
    const scale = make("fieldset", { class: "ax-choice" }, make("legend", {}, "Colours"));
    this.scaleBoxes = [
      [true, "shared"],
      [false, "own"],
    ].map(([value, words]) => {
      const input = make("input", {
        type: "radio",
        name: `${this.id}-scale`,
        onchange: () => this.set({ one_scale: value }),
      });
      scale.append(make("label", {}, input, words));
      return [value, input];
    });
    const boxes = make("input", {
      type: "checkbox",
      onchange: (event) => {
        this.boxes = event.target.checked;
        this.later();
      },
    });
    boxes.checked = true;
    this.playButton = make("button", { type: "button", onclick: () => this.pressPlay() });
    const axes = ["tokens", "steps", "layers", "heads"].map((name) => [name, name]);
    this.axisBox = this.select("through", axes, (value) => {
      this.axis = value;
      this.labelPlay();
    });
    this.axisBox.field.classList.add("ax-inline");
    this.labelPlay();
    this.pinButton = make("button", { type: "button", class: "ax-quiet", onclick: () => this.hold() });
    const files = ["PNG", "SVG"].map((kind) =>
      make("button", { type: "button", class: "ax-quiet", onclick: () => save(this, kind) }, kind),
    );
    return make(
      "div",
      { class: "ax-controls", role: "group", "aria-label": "Controls" },
      this.sourceBox.field,
      this.layerBox.field,
      this.headBox.field,
      this.styleBox.field,
      this.opacityBox.field,
      this.unitField(),
      scale,
      make("label", { class: "ax-check" }, boxes, "evidence box"),
      make("div", { class: "ax-play" }, this.playButton, this.axisBox.field),
      make("div", { class: "ax-play" }, this.pinButton),
      make("div", { class: "ax-play", role: "group", "aria-label": "Save this view" }, "Save view as", files),
    );
  }

  unitField() {
    const field = make("fieldset", { class: "ax-choice" }, make("legend", {}, "Map of"));
    this.unitBoxes = [
      ["token", "token"],
      ["step", "step"],
    ].map(([value, words]) => {
      const input = make("input", {
        type: "radio",
        name: `${this.id}-unit`,
        onchange: () => this.set({ unit: value }),
      });
      field.append(make("label", {}, input, words));
      return [value, input];
    });
    return field;
  }

  select(label, options, choose) {
    const id = `${this.id}-${label}`;
    const input = make(
      "select",
      { id, onchange: (event) => choose(event.target.value) },
      options.map(([value, words]) => make("option", { value }, words)),
    );
    const field = make("div", { class: "ax-field" }, make("label", { for: id }, label), input);
    return { input, field };
  }

  range(label, low, high, step, choose) {
    const id = `${this.id}-${label}`;
    const input = make("input", {
      id,
      type: "range",
      min: low,
      max: high,
      step,
      oninput: (event) => choose(+event.target.value),
    });
    const value = make("span", { class: "ax-value", "aria-hidden": "true" });
    const ticks = make("div", { class: "ax-ticks", "aria-hidden": "true" });
    const field = make(
      "div",
      { class: "ax-field" },
      make("label", { for: id }, label),
      value,
      input,
      ticks,
    );
    return { input, value, field, ticks };
  }

  slider(label, choices, name) {
    const box = this.range(label, 0, choices.length - 1, 1, (at) => this.set({ [name]: choices[at] }));
    const last = choices.length - 1, few = last <= 10, words = choices.filter((one) => one < 0).length;
    choices.forEach((choice, at) => {
      // None where they would touch: of the words the first, of many numbers only some.
      const shown = at === 0 || at === last || (at >= words && (few || (choice > 4 && choice % 7 === 0)));
      if (!shown || (!few && at !== last && at > 0.93 * last)) return;
      const place = last ? at / last : 0;
      const one = name === "layer" ? this.spec.layerNames[choice] : choice;
      const word = WORDS[choice] ?? one;
      const tick = make("span", {}, String(word));
      tick.style.left = `calc(8px + ${place} * (100% - 16px))`;
      box.ticks.append(tick);
    });
    return box;
  }

  strip() {
    const { spec } = this;
    this.tokens = [];
    this.strips = make("div", {
      class: "ax-strip",
      role: "listbox",
      "aria-label": "Tokens of the text; up and down move by step",
      "aria-orientation": "horizontal",
      onkeydown: (event) => this.moveToken(event),
    });
    let group = null, last = null;
    spec.tokens.forEach((text, at) => {
      const part = this.partOf(at);
      if (part !== last) {
        const words = make("span", { class: "ax-part", id: `${this.id}-p${at}` }, part || "\u00a0");
        group = make("div", { class: "ax-group", role: "group" }, words);
        if (spec.steps[at]) {
          // A pointer's short way; the keyboard has the choice "whole step".
          words.classList.add("ax-pick");
          words.title = "Show the mean map of this step";
          words.addEventListener("click", () => this.set({ token: at, unit: "step" }));
        }
        if (part) group.setAttribute("aria-labelledby", words.id);
        else {
          words.setAttribute("aria-hidden", "true");
          group.setAttribute("aria-label", "outside of steps");
        }
        this.strips.append(group);
        last = part;
      }
      const token = make("span", { role: "option", class: "ax-token", tabindex: -1 }, visible(text));
      if (/^\s/.test(text) && text.trim()) token.classList.add("ax-word");
      if (visible(text) !== spoken(text)) token.setAttribute("aria-label", spoken(text));
      token.addEventListener("click", () => {
        this.set({ token: at, unit: "token" });
        token.focus({ preventScroll: true });
      });
      group.append(token);
      this.tokens.push(token);
    });
    return make(
      "div",
      { class: "ax-text-part" },
      (this.hint = make("p", { class: "ax-hint" })),
      this.strips,
    );
  }

  /** "step 2", "answer" or nothing. */
  partOf(token) {
    const { steps, answer, answerEnd } = this.spec;
    if (steps[token]) return `step ${steps[token]}`;
    return answer !== null && token >= answer && token < answerEnd ? "answer" : "";
  }

  // --- moving -----------------------------------------------------------------------------------

  moveToken(event) {
    const { steps, tokens } = this.spec, at = this.get("token");
    let to = null;
    if (event.key === "ArrowRight") to = at + 1;
    else if (event.key === "ArrowLeft") to = at - 1;
    else if (event.key === "Home") to = 0;
    else if (event.key === "End") to = tokens.length - 1;
    else if (event.key === "p") return this.hold();
    else if (event.key === "ArrowDown" || event.key === "PageDown") {
      to = steps.findIndex((_, other) => other > at && this.partOf(other) !== this.partOf(other - 1));
      if (to < 0) to = tokens.length - 1;
    } else if (event.key === "ArrowUp" || event.key === "PageUp") {
      to = at;
      while (to > 0 && this.partOf(to - 1) === this.partOf(at)) to--;
      if (to === at && to > 0) {
        to--;
        while (to > 0 && this.partOf(to - 1) === this.partOf(to)) to--;
      }
    }
    if (to === null) return;
    event.preventDefault();
    to = clamp(to, 0, tokens.length - 1);
    this.set({ token: to, unit: "token" });
    this.tokens[to].focus({ preventScroll: true });
  }

  cellAt(canvas, event) {
    const box = canvas.getBoundingClientRect(), { rows, cols } = this.spec;
    const col = Math.floor(((event.clientX - box.left) / box.width) * cols);
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
    return clamp(row, 0, rows - 1) * cols + clamp(col, 0, cols - 1);
  }

  moveCell(event) {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const { rows, cols } = this.spec;
    if (event.key === "Enter" && this.cell !== null) {
      const again = String(this.box) === String([0, 1, 0, 1].map((at) => (at ? this.cell % cols : Math.floor(this.cell / cols))));
      this.pick(again ? null : this.cell, this.cell);
      return;
    }
    if (!move) return;
    event.preventDefault();
    if (event.shiftKey && this.box) {
      // The picked box grows and shrinks at its last corner.
      const [top, left, bottom, right] = this.box;
      this.pick(top * cols + left, clamp(bottom + move[0], top, rows - 1) * cols + clamp(right + move[1], left, cols - 1));
      return;
    }
    const peak = this.planes.stat(this.shown?.found[0].plane, this.shown?.part, "cell");
    const start = this.cell ?? (Number.isFinite(peak) ? peak : 0);
    const row = clamp(Math.floor(start / cols) + (this.cell === null ? 0 : move[0]), 0, rows - 1);
    const col = clamp((start % cols) + (this.cell === null ? 0 : move[1]), 0, cols - 1);
    this.point(row * cols + col);
  }

  /** Pick the cells between two, or none. */
  pick(from, to) {
    const { cols } = this.spec, box = from === null ? null : [from, to].map((at) => [Math.floor(at / cols), at % cols]);
    const [one, two] = box ?? [];
    const picked = box && [0, 1].map((at) => Math.min(one[at], two[at])).concat([0, 1].map((at) => Math.max(one[at], two[at])));
    if (String(picked) === String(this.box)) return;
    this.box = picked;
    this.later();
  }

  /** Hold the token (or step) against those selected later, or let go of it. */
  hold() {
    const { token, part } = this.shown;
    this.pin = this.pin ? null : { token, part };
    if (this.pin && this.panes.every((pane) => pane.name !== "second")) {
      const made = ["second", "difference"].map((name) => this.pane(name));
      this.panes.push(...made);
      this.paneBox.append(...made.map((pane) => pane.figure));
    }
    this.pictured = this.drawn = this.readoutKey = this.barred = null;
    this.later();
  }

  point(cell) {
    if (cell === this.cell) return;
    this.cell = cell;
    this.later();
  }

  pickHead(grid, event) {
    const box = grid.getBoundingClientRect(), { layers, heads } = this.spec;
    const layer = clamp(Math.floor(((event.clientY - box.top) / box.height) * layers), 0, layers - 1);
    const head = clamp(Math.floor(((event.clientX - box.left) / box.width) * heads), 0, heads - 1);
    const changes = {};
    if (this.layers.includes(layer)) changes.layer = layer;
    if (this.heads.includes(head)) changes.head = head;
    if (!this.source().layered) changes.source = this.spec.sources[0].key;
    this.set(changes);
  }

  pressPlay() {
    if (this.still.matches) this.advance();
    else this.play(!this.timer);
  }

  play(on) {
    clearInterval(this.timer);
    this.timer = on ? setInterval(() => this.advance(), FRAME[this.axis]) : null;
    this.labelPlay();
    // A voice that reads every picture of a film helps nobody.
    this.live?.setAttribute("aria-live", on ? "off" : "polite");
  }

  /** One picture further; round to the start after the last. */
  advance() {
    if (!this.root.isConnected) return this.play(false);
    if (this.axis === "tokens") {
      this.set({ token: (this.get("token") + 1) % this.spec.tokens.length, unit: "token" });
      return;
    }
    if (this.axis === "steps") {
      const firsts = [...new Set(this.spec.steps)].filter(Boolean).map((step) => this.spec.steps.indexOf(step));
      if (!firsts.length) return this.play(false);
      const next = firsts.find((at) => at > this.get("token")) ?? firsts[0];
      this.set({ token: next, unit: "step" });
      return;
    }
    const name = this.axis === "layers" ? "layer" : "head";
    const single = (name === "layer" ? this.layers : this.heads).filter((one) => one >= 0);
    if (!single.length) return this.play(false);
    this.set({ [name]: single[(single.indexOf(this.get(name)) + 1) % single.length] });
  }

  labelPlay() {
    const words = this.still.matches
      ? `\u25b8 Step`
      : this.timer
        ? "\u23f8 Pause"
        : "\u25b6 Play";
    this.playButton.textContent = words;
    this.playButton.setAttribute("aria-pressed", String(Boolean(this.timer)));
    this.playButton.title = this.still.matches
      ? "Your system asks for reduced motion: one picture per press"
      : "Play; Escape stops";
    if (this.timer) {
      clearInterval(this.timer);
      this.timer = setInterval(() => this.advance(), FRAME[this.axis]);
    }
  }

  // --- fetching ---------------------------------------------------------------------------------

  receive(message, buffers) {
    if (message?.kind !== "planes" || (message.item ?? this.spec.item) !== this.spec.item) return;
    this.waiting = false;
    this.planes.add(message.index, bytes(buffers[0]), true);
    this.later();
  }

  /** Ask the kernel for what is selected and lacks, one request at a time, then for its neighbours. */
  fetch() {
    if (!this.spec.live || this.waiting) return;
    const { layer, head } = this.choice();
    const wanted = [[layer, head]];
    if (this.source().layered) {
      for (const [list, value, side] of [[this.layers, layer, 0], [this.heads, head, 1]]) {
        const next = list[list.indexOf(value) + 1];
        if (next !== undefined) wanted.push(side ? [layer, next] : [next, head]);
      }
    }
    for (const pair of wanted) {
      const names = this.pair().map((model) => planeName(this.source().own, model, ...pair));
      const lacking = names.filter((name) => !this.planes.known.get(name)?.full);
      if (!lacking.length) continue;
      this.waiting = true;
      this.model.send({ kind: "planes", names: lacking });
      return;
    }
  }

  // --- drawing ----------------------------------------------------------------------------------

  source() {
    return this.spec.sources.find((one) => one.key === this.get("source")) ?? this.spec.sources[0];
  }

  /** Layer and head as far as the source has any. */
  choice() {
    if (!this.source().layered) return { layer: MEAN, head: MEAN };
    return { layer: this.get("layer"), head: this.get("head") };
  }

  /** The models shown, one or two. */
  pair() {
    const last = this.spec.models.length - 1;
    if (!last) return [0];
    return [clamp(this.get("first"), 0, last), clamp(this.get("second"), 0, last)];
  }

  /** The models whose curves are drawn: with a pinned token only the first, whose maps are compared. */
  lineup() {
    return this.pin ? this.pair().slice(0, 1) : this.pair();
  }

  /** What a part is called: a token by its text, a step by its number. */
  partWords(part, token) {
    return part === token ? `\u201c${visible(this.spec.tokens[token])}\u201d` : this.partOf(token);
  }

  /** The item's picture, and those of models that were shown another. */
  loadPicture() {
    this.own = this.spec.models.map(({ picture }) => (picture ? this.load(picture) : null));
    this.base = this.load(this.spec.picture);
    this.small = make("canvas");
  }

  load(address) {
    const found = {}, picture = new Image();
    picture.onload = () => {
      const { canvas } = this.panes[0];
      const { width, height } = canvas, made = make("canvas", { width, height });
      const context = made.getContext("2d");
      context.imageSmoothingEnabled = picture.naturalWidth > width;
      context.drawImage(picture, 0, 0, width, height);
      found.grey = make("canvas", { width, height });
      const image = context.getImageData(0, 0, width, height), { data } = image;
      for (let at = 0; at < data.length; at += 4) {
        // Grey, so that every colour seen comes from the map; black a little lighter, as Python does.
        const light = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
        data[at] = data[at + 1] = data[at + 2] = BLACK + (light * (255 - BLACK)) / 255;
      }
      found.grey.getContext("2d").putImageData(image, 0, 0);
      found.colour = made;
      this.later();
    };
    picture.src = address;
    return found;
  }

  /** Draw at once, after all changes of this turn; but no more than once per frame. */
  later() {
    if (this.frame !== null) {
      this.again = true;
      return;
    }
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      if (this.again) this.render();
    });
    this.due = true;
    queueMicrotask(() => {
      if (this.due) this.render();
    });
  }

  resized() {
    const width = Math.round(this.charts.clientWidth);
    if (!width || width === this.width) return;
    this.width = width;
    this.end = this.commitment ? 46 : 10; // room for "chance" at the right
    // Asked once here: at every token it would cost a layout of the page.
    this.scrolls = this.strips.scrollHeight > this.strips.clientHeight;
    this.drawn = null;
    this.later();
  }

  render() {
    this.again = this.due = false;
    const source = this.source(), { layer, head } = this.choice(), token = this.get("token");
    const part = this.get("unit") === "step" ? this.spec.stepParts[token] : token;
    const label = (model) => this.spec.models[model].label, [first] = this.pair(), { pin } = this;
    const slots = pin
      ? [{ model: first, part: pin.part, name: `${this.partWords(pin.part, pin.token)} (pinned)` },
          { model: first, part, name: this.partWords(part, token) }]
      : this.pair().map((model) => ({ model, part, name: label(model) }));
    const found = slots.map(({ model }) => this.planes.find({ source: source.own, model, layer, head }));
    const signed = source.signed;
    const maps = found.map(({ plane }, at) => this.planes.map(plane, slots[at].part, signed));
    if (maps.length === 2) {
      const same = maps[0] && maps[1] && maps[0].length === maps[1].length;
      maps.push(same ? difference(maps[0], maps[1]) : null);
    }
    this.shown = { source, layer, head, token, part, found, maps, slots };
    this.scales();
    const own = slots.map(({ model }) => this.own[model]), edited = own[0] !== own[1] && slots.length > 1;
    let panes = 0;
    for (const pane of this.panes) {
      pane.figure.hidden = pane.name === "edited" ? !edited : pane.at >= maps.length;
      panes += !pane.figure.hidden;
      if (pane.at >= 0 && !pane.figure.hidden) this.paint(pane, maps[pane.at] ?? null);
    }
    put(this.root.dataset, "models", String(slots.length));
    this.paneBox.style.setProperty("--panes", panes);
    const loaded = [this.base, ...this.own].map((one) => Boolean(one?.colour));
    const still = [this.spec.boxOf[token], this.boxes, this.cell, this.box, this.pair(), loaded].join();
    if (still !== this.pictured) this.panes.forEach((pane) => pane.at < 0 && this.paint(pane, null));
    this.pictured = still;
    this.paintHeads();
    this.sync();
    this.markToken();
    this.drawCharts();
    this.writeReadout();
    this.writeForced();
    this.say();
    this.fetch();
  }

  /** Ends of the colour scales. */
  scales() {
    const { found, maps, source } = this.shown, planes = found.map((one) => one.plane);
    const own = !this.get("one_scale"), whole = this.shown.part !== this.shown.token;
    let top = 0, limit = 0, beyond = 0;
    if (own) {
      for (const map of maps.slice(0, found.length)) if (map) top = Math.max(top, largest(map));
      if (maps[2]) limit = largest(maps[2]);
    } else {
      const peaks = this.planes.peaks(planes, source.signed, whole);
      top = usual(peaks);
      if (this.pin && maps[2]) limit = largest(maps[2]);
      else if (planes.length === 2) limit = usual(this.planes.changes(...planes, source.signed, whole));
      beyond = peaks.filter((peak) => peak > top).length;
    }
    this.shown.top = top;
    this.shown.limit = limit;
    const key = [top, limit, own, beyond, whole, source.key, this.pair()].join();
    if (key === this.scaleKey) return;
    this.scaleKey = key;
    const more = beyond ? "+" : "";
    const bars = [this.bar(source.signed, top, source.quantity, more)];
    if (planes.length === 2) bars.push(this.bar(true, limit, "difference", more));
    this.scaleBars.replaceChildren(...bars);
    const both = planes.length === 2 && !this.pin ? "both models and " : "";
    this.scaleText.textContent = own
      ? `Colours: this map's own scale${both ? ", the same for both models" : ""}; do not compare colours between ${whole ? "steps" : "tokens"}.`
      : `Colours: one scale for ${both}all ${this.planes.parts(whole).length} ${whole ? "steps" : "tokens"} at this layer and head` +
        (beyond ? `; ${beyond} reach${beyond === 1 ? "es" : ""} beyond its end.` : ".");
  }

  bar(signed, end, words, more) {
    const table = this.table(signed), stops = [];
    for (let at = 0; at <= 16; at++) {
      const place = Math.round((at / 16) * 255) * 3;
      const share = signed ? Math.abs(at - 8) / 8 : at / 16;
      stops.push(`rgba(${table[place]},${table[place + 1]},${table[place + 2]},${share})`);
    }
    const ramp = make("span", { class: "ax-ramp" });
    ramp.style.backgroundImage = `linear-gradient(90deg,${stops.join()})`;
    const low = signed ? weight(-end, true) + more : "0";
    return make(
      "span",
      { class: "ax-bar" },
      low,
      ramp,
      weight(end, signed) + more,
      make("span", { class: "ax-unit" }, words),
    );
  }

  table(signed) {
    this.tables ??= {
      sequential: Uint8Array.from(atob(this.spec.colours.sequential), (c) => c.charCodeAt(0)),
      diverging: Uint8Array.from(atob(this.spec.colours.diverging), (c) => c.charCodeAt(0)),
    };
    return signed ? this.tables.diverging : this.tables.sequential;
  }

  /** Colours of a map, one pixel per cell, on the canvas `small`: the more weight, the less is seen through. */
  colourise(map, rows, cols, signed, end) {
    const { small } = this;
    if (small.width !== cols || small.height !== rows) {
      small.width = cols;
      small.height = rows;
    }
    const context = small.getContext("2d"), image = context.createImageData(cols, rows);
    const table = this.table(signed), unit = end > 0 ? 1 / end : 0;
    for (let cell = 0, at = 0; cell < map.length; cell++, at += 4) {
      const share = clamp(map[cell] * unit, -1, 1);
      const place = 3 * Math.round(signed ? 127.5 + 127.5 * share : 255 * Math.max(0, share));
      image.data[at] = table[place];
      image.data[at + 1] = table[place + 1];
      image.data[at + 2] = table[place + 2];
      image.data[at + 3] = 255 * Math.abs(share);
    }
    context.putImageData(image, 0, 0);
  }

  paint(pane, map) {
    const { context, canvas, at } = pane, { token, found, source, top, limit } = this.shown;
    const opacity = this.get("opacity"), { width, height } = canvas;
    context.clearRect(0, 0, width, height);
    const { slots } = this.shown, whose = { picture: 0, edited: 1 }[pane.name] ?? at;
    const { colour, grey } = this.own[slots[whose]?.model] || this.base;
    if (colour) context.drawImage(colour, 0, 0);
    if (grey && at >= 0 && opacity && !this.lines) context.drawImage(grey, 0, 0);
    if (map) {
      const { rows, cols } = found[at % 2 === 1 && found[1] ? 1 : 0].plane;
      const change = pane.name === "difference";
      const end = change ? limit : top;
      if (this.lines) contours(context, map, rows, cols, end);
      else {
        this.colourise(map, rows, cols, change || source.signed, end);
        context.globalAlpha = opacity;
        context.imageSmoothingEnabled = false;
        context.drawImage(this.small, 0, 0, width, height);
        context.globalAlpha = 1;
      }
    }
    if (this.boxes) this.paintBoxes(context, canvas, token);
    const { rows, cols } = this.spec, w = width / cols, h = height / rows;
    if (this.box) {
      const [top, left, bottom, right] = this.box;
      frame(context, left * w, top * h, (right - left + 1) * w, (bottom - top + 1) * h, "#ffd23f");
    }
    if (this.cell !== null) {
      frame(context, (this.cell % cols) * w, Math.floor(this.cell / cols) * h, w, h, "#00e5ff");
    }
    if (!map && at >= 0) {
      context.fillStyle = "rgba(255,255,255,.85)";
      context.fillRect(0, height / 2 - 26, width, 52);
      context.fillStyle = "#1f2933";
      context.font = "22px system-ui, sans-serif";
      context.textAlign = "center";
      context.fillText(found[0].plane ? "no map for this token" : "loading \u2026", width / 2, height / 2 + 8);
    }
    const name = this.paneTitle(pane);
    if (pane.title.tagName === "SELECT") {
      pane.title.value = String(this.pair()[at]);
      pane.title.hidden = Boolean(this.pin);
    }
    if (pane.title.tagName === "SELECT" && !this.pin) put(pane.said, "textContent", "");
    else if (pane.title.tagName === "SELECT") put(pane.said, "textContent", name);
    else if (pane.title.textContent !== name) pane.title.textContent = name;
    canvas.setAttribute("aria-label", at < 0 ? "The picture" : `Map of ${name}: ${this.describe(at)}`);
    if (pane.holder.tabIndex === 0) {
      pane.holder.setAttribute("aria-label", `Maps; arrow keys read single image tokens`);
    }
  }

  paneTitle(pane) {
    const { slots } = this.shown, names = slots.map(({ name }) => name);
    if (pane.at < 0) {
      const two = this.panes.some((one) => one.name === "edited" && !one.figure.hidden);
      return two ? `Picture: ${names[pane.name === "edited" ? 1 : 0]}` : "Picture";
    }
    if (pane.name === "difference") return `${names[1]} ${MINUS} ${names[0].replace(" (pinned)", "")}`;
    return names[pane.name === "second" ? 1 : 0];
  }

  paintBoxes(context, canvas, token) {
    const across = canvas.width / this.spec.size[0], down = canvas.height / this.spec.size[1];
    for (const [x0, y0, x1, y1] of this.spec.boxSets[this.spec.boxOf[token]]) {
      frame(context, x0 * across, y0 * down, (x1 - x0) * across, (y1 - y0) * down, "#ffffff");
    }
  }

  /** Visual mass of every head (columns) and layer (rows) at the token. */
  paintHeads() {
    const { layers, heads, headMasses } = this.spec, { slots, layer, head, source } = this.shown;
    if (!headMasses) return;
    const size = layers * heads, top = this.spec.headTop;
    const values = slots.map(({ model, part }) => {
      const block = this.planes.masses[model].subarray(part * size, (part + 1) * size);
      return Float32Array.from(block, (level) => top * (level / 255) ** 2);
    });
    if (values.length === 2) values.push(difference(values[0], values[1]));
    this.panes.forEach((pane) => {
      const change = pane.name === "difference", { grid, at } = pane;
      if (at < 0 || !values[at]) return;
      this.colourise(values[at], layers, heads, change, change ? Math.max(largest(values[at]), 0.05) : top);
      const cell = Math.max(2, Math.floor(160 / Math.max(heads, 8)));
      if (grid.width !== heads * cell) {
        grid.width = heads * cell;
        grid.height = layers * cell;
      }
      const context = grid.getContext("2d");
      context.imageSmoothingEnabled = false;
      context.drawImage(this.small, 0, 0, grid.width, grid.height);
      if (source.layered) {
        const x = head >= 0 ? head * cell : 0, w = head >= 0 ? cell : heads * cell;
        const y = layer >= 0 ? layer * cell : 0, h = layer >= 0 ? cell : layers * cell;
        if (head >= 0 || layer >= 0) frame(context, x, y, w, h, "#00e5ff", 1);
      }
      let best = 0;
      for (let one = 1; one < size; one++) {
        if (Math.abs(values[at][one]) > Math.abs(values[at][best])) best = one;
      }
      const words = change ? "Largest change" : "Looks most";
      const where = `${this.layerWords(Math.floor(best / heads))}, head ${best % heads}`;
      const text = `${words}: ${where} (${number(values[at][best], change)})`;
      grid.setAttribute("aria-label", `Visual mass by layer and head. ${text}`);
      grid.title = "Visual mass of every head: rows are layers, columns heads; click one to select it";
      const caption = pane.small.lastChild;
      if (caption.textContent !== text) caption.textContent = text;
    });
  }

  /** Controls show the selection, whoever made it. */
  sync() {
    const { source } = this.shown, opacity = Math.round(this.get("opacity") * 100);
    put(this.sourceBox.input, "value", source.key);
    const slide = (box, list, value, words) => {
      put(box.input, "value", String(Math.max(0, list.indexOf(value))));
      put(box.input, "disabled", !source.layered || list.length < 2);
      const text = source.layered ? words : "all: this source has none of its own";
      put(box.value, "textContent", text);
      if (box.input.getAttribute("aria-valuetext") !== text) box.input.setAttribute("aria-valuetext", text);
    };
    slide(this.layerBox, this.layers, this.get("layer"), this.layerWords(this.get("layer")));
    slide(this.headBox, this.heads, this.get("head"), this.headWords(this.get("head")));
    const visual = source.layered && this.get("head") === VISUAL ? this.spec.visualNote : "";
    const note = [this.unlike(), visual, this.spec.note].filter(Boolean).join(" ");
    put(this.note, "textContent", note);
    put(this.note, "hidden", !note);
    put(this.opacityBox.input, "value", String(opacity));
    put(this.opacityBox.input, "disabled", Boolean(this.lines));
    put(this.opacityBox.value, "textContent", `${opacity} %`);
    this.opacityBox.input.setAttribute("aria-valuetext", `${opacity} %`);
    const { pin } = this, words = pin ? `Unpin ${this.partWords(pin.part, pin.token)}` : "Pin it, then select another";
    put(this.pinButton, "textContent", words);
    this.pinButton.setAttribute("aria-pressed", String(Boolean(pin)));
    for (const [value, input] of this.scaleBoxes) put(input, "checked", value === this.get("one_scale"));
    for (const [value, input] of this.unitBoxes) put(input, "checked", value === this.get("unit"));
  }

  layerWords(layer) {
    const count = this.spec.layers;
    if (layer === MEAN) return `mean of ${count} layers`;
    return layer === MAX ? `maximum of ${count} layers` : `layer ${this.spec.layerNames[layer]}`;
  }

  headWords(head) {
    const count = this.spec.heads;
    if (head === MEAN) return `mean of ${count} heads`;
    if (head === MAX) return `maximum of ${count} heads`;
    if (head !== VISUAL) return `head ${head}`;
    const { layer } = this.choice(), visual = this.spec.visual;
    const here = layer >= 0 ? visual.filter(([at]) => at === layer).length : visual.length;
    const all = layer >= 0 ? count : count * this.spec.layers;
    return `${here} visual of ${all} heads`;
  }

  markToken() {
    const { token, part, found } = this.shown;
    this.strips.querySelector(".ax-whole")?.classList.remove("ax-whole");
    if (part !== token) this.tokens[token].parentElement.classList.add("ax-whole");
    if (this.marked !== token) {
      const old = this.tokens[this.marked];
      if (old) {
        old.setAttribute("aria-selected", "false");
        old.tabIndex = -1;
      } else this.tokens.forEach((one) => one.setAttribute("aria-selected", "false"));
      const node = this.tokens[token], box = this.strips;
      node.setAttribute("aria-selected", "true");
      node.tabIndex = 0;
      // Only the strip scrolls; scrollIntoView would move the notebook too.
      const high = this.scrolls ? node.offsetTop - box.offsetTop : 0;
      if (!this.scrolls) box.scrollTop = 0;
      else if (high < box.scrollTop) box.scrollTop = high - 4;
      else if (high + node.offsetHeight > box.scrollTop + box.clientHeight) {
        box.scrollTop = high + node.offsetHeight - box.clientHeight + 4;
      }
      this.marked = token;
    }
    const { plane } = found[found.length - 1], { box } = this, key = `${plane?.name} ${plane?.full} ${box}`;
    if (this.barred === key) return;
    this.barred = key;
    const values = box && plane ? this.planes.inBox(plane, box, this.shown.source.signed) : this.planes.column(plane, "mass");
    const top = Math.max(1e-12, ...values.filter(Number.isFinite).map(Math.abs));
    this.tokens.forEach((one, at) => {
      const share = Number.isFinite(values[at]) ? Math.abs(values[at]) / top : 0;
      one.style.setProperty("--mass", share.toFixed(3));
    });
    this.strips.classList.toggle("ax-looked", Boolean(box));
    let words = "The text. Each token's map is the attention of the row that predicts it; bars show how much.";
    if (box) {
      const order = values.map((value, at) => [value, at]).filter(([value]) => value > 0).sort((one, two) => two[0] - one[0]);
      const most = order.slice(0, 3).map(([value, at]) => `${this.partWords(at, at)} (token ${at}, ${weight(value)})`);
      words = `Shaded: how much each token's row looks at ${this.boxName()}${most.length ? `, most ${most.join(", ")}` : ""}. Click a patch again or press Escape to let go.`;
    }
    put(this.hint, "textContent", words);
  }

  // --- curves -----------------------------------------------------------------------------------

  buildCharts() {
    const { spec } = this;
    this.curveBox = this.select(
      "Along the text",
      [
        ["mass", "visual mass (sum over the picture)"],
        ["share", "share on the step's evidence box"],
        ["spread", "spread: image tokens in use"],
      ],
      (value) => {
        this.curve = value;
        this.drawn = null;
        this.later();
      },
    );
    this.access = this.chart(this.curveBox.field);
    this.charts.append(this.legend(), this.access.figure);
    if (spec.models.some((model) => model.p)) {
      this.candidateBox = this.select(
        "If forced to answer, p of",
        [[FINAL, "the answer that each model ends with"], ...spec.candidates.map((name, at) => [at, this.candidateWords(name)])],
        (value) => {
          this.candidate = +value;
          this.drawn = null;
          this.later();
        },
      );
      this.candidateBox.input.value = String(this.candidate);
      this.commitment = this.chart(this.candidateBox.field);
      this.charts.append(this.commitment.figure);
    }
  }

  /** Index of the candidate whose curve is drawn for a model. */
  candidateOf(model) {
    if (this.candidate !== FINAL) return this.candidate;
    const last = model.p?.at(-1) ?? [];
    return last.indexOf(Math.max(...last));
  }

  candidateWords(name) {
    const words = this.spec.open ? ["p per token"] : [];
    if (name === this.spec.right) words.push("right");
    if (name === this.spec.habitual) words.push("habitual");
    return words.length ? `${name} (${words.join(", ")})` : name;
  }

  /** Behind a model's name in the legend, the answer that its lower curve is about. */
  finalWords(model) {
    const at = this.candidateOf(model);
    return this.candidate === FINAL && at >= 0 ? ` (forced at the end: ${this.spec.candidates[at]})` : "";
  }

  /** Where the answer forced at the end is not the one that the text states. */
  unlike() {
    const { stated, candidates, models } = this.spec;
    const said = models.flatMap(({ label, p }) => {
      const last = p?.at(-1) ?? [], top = candidates[last.indexOf(Math.max(...last))];
      return top && stated && top !== stated ? [`${label} says ${top}`] : [];
    });
    return said.length
      ? `The text states ${stated}, but when forced to answer after its last step ${said.join(", ")}: these curves are about the forced answer.`
      : "";
  }

  legend() {
    this.legendBox = make("div", { class: "ax-legend" });
    return this.legendBox;
  }

  chart(field) {
    const picture = draw("svg", { role: "img", class: "ax-chart" });
    const back = draw("g"), cursor = draw("g", { class: "ax-cursor" });
    picture.append(back, cursor);
    picture.addEventListener("click", (event) => {
      const box = picture.getBoundingClientRect(), at = this.tokenAt(event.clientX - box.left);
      this.set({ token: at, unit: "token" });
    });
    const figure = make("figure", { class: "ax-chartbox" }, make("figcaption", {}, field), picture);
    return { figure, picture, back, cursor, lines: [] };
  }

  place(token) {
    const left = 40, right = this.end;
    return left + ((token + 0.5) * (this.width - left - right)) / this.spec.tokens.length;
  }

  tokenAt(x) {
    const step = this.place(1) - this.place(0);
    return clamp(Math.round((x - this.place(0)) / step), 0, this.spec.tokens.length - 1);
  }

  drawCharts() {
    if (!this.width) return;
    const { token, source } = this.shown, pair = this.lineup(), found = this.shown.found.slice(0, pair.length);
    const key = [found.map((one) => one.plane?.name), this.width, this.curve, this.candidate].join();
    if (this.drawn !== key) {
      this.drawn = key;
      const models = pair.map((model) => this.spec.models[model]);
      this.legendBox.replaceChildren(
        ...models.map((one) => make("span", {}, sample(one), one.label, this.finalWords(one))),
      );
      this.legendBox.hidden = models.length < 2 && !models.some((one) => one.p);
      const values = found.map(({ plane }) => this.planes.column(plane, this.curve));
      const high = Math.max(1e-9, ...values.flatMap((line) => [...line].filter(Number.isFinite)));
      const unit = this.curve === "mass" && source.quantity.startsWith("attention mass");
      const top = this.curve === "share" ? 1 : unit ? Math.min(1, nice(high)) : nice(high);
      this.plot(this.access, models, values, top, false);
      if (this.commitment) {
        const lines = models.map((one) =>
          Float64Array.from(this.after, (k) => one.p?.[Math.min(k, one.p.length - 1)][this.candidateOf(one)] ?? NaN),
        );
        this.plot(this.commitment, models, lines, 1, true);
      }
    }
    this.moveCursor(this.access, token);
    if (this.commitment) this.moveCursor(this.commitment, token);
    const values = this.access.lines.map((line, at) => `${this.spec.models[pair[at]].label} ${number(line[token])}`);
    const names = { mass: "visual mass", share: "share on the evidence box", spread: "spread" };
    this.access.picture.setAttribute("aria-label", `Curve of ${names[this.curve]} over the text; here: ${values.join(", ")}`);
    if (this.commitment) {
      const now = this.commitment.lines.map((line, at) => `${this.spec.models[pair[at]].label} ${number(line[token])}`);
      const name = this.spec.candidates[this.candidate] ?? "the answer it ends with";
      this.commitment.picture.setAttribute(
        "aria-label",
        `Commitment: probability of ${name} if forced to answer; here: ${now.join(", ")}`,
      );
    }
  }

  plot(chart, models, values, top, stepped) {
    const { picture, back } = chart, height = this.width > 560 ? 150 : 118, low = height - 22, high = 8;
    const y = (value) => low - ((low - high) * clamp(value, 0, top)) / top;
    Object.assign(chart, { lines: values, y, low, high });
    picture.setAttribute("viewBox", `0 0 ${this.width} ${height}`);
    picture.style.height = `${height}px`;
    back.replaceChildren(...this.bands(low, high));
    for (const share of [0, 0.5, 1]) {
      const at = y(share * top);
      back.append(
        draw("line", { class: "ax-gridline", x1: 36, x2: this.width - this.end, y1: at, y2: at }),
        draw("text", { class: "ax-tick", x: 32, y: at + 4, "text-anchor": "end" }, String(+(share * top).toPrecision(3))),
      );
    }
    if (stepped && this.spec.candidates.length > 1) {
      const at = y(1 / this.spec.candidates.length);
      back.append(
        draw("line", { class: "ax-chance", x1: 36, x2: this.width - this.end, y1: at, y2: at }),
        draw("text", { class: "ax-tick", x: this.width - this.end + 4, y: at + 4 }, "chance"),
      );
    }
    const half = (this.place(1) - this.place(0)) / 2;
    values.forEach((line, at) => {
      const { color, dash, marker } = models[at];
      let path = "", pen = false;
      line.forEach((value, token) => {
        if (!Number.isFinite(value)) {
          pen = false;
          return;
        }
        const x = this.place(token), verb = pen ? "L" : "M";
        path += stepped
          ? `${verb}${(x - half).toFixed(1)} ${y(value).toFixed(1)}L${(x + half).toFixed(1)} ${y(value).toFixed(1)}`
          : `${verb}${x.toFixed(1)} ${y(value).toFixed(1)}`;
        pen = true;
      });
      back.append(draw("path", { class: "ax-line", d: path, stroke: color, "stroke-dasharray": dash }));
      line.forEach((value, token) => {
        const first = !stepped || token === 0 || this.after[token] !== this.after[token - 1];
        if (!Number.isFinite(value) || !first || (!stepped && line.length > 80)) return;
        const size = stepped ? 4 : 2.4;
        back.append(mark(marker, this.place(token), y(value), size, color));
      });
    });
  }

  /** Stripes behind a chart, one per step, with their names. */
  bands(low, high) {
    const { steps } = this.spec, found = [], half = (this.place(1) - this.place(0)) / 2;
    for (let at = 0; at < steps.length; ) {
      let end = at;
      while (end < steps.length && this.partOf(end) === this.partOf(at)) end++;
      const part = this.partOf(at), x = this.place(at) - half, width = this.place(end - 1) + half - x;
      if (part) {
        const odd = part === "answer" || steps[at] % 2;
        found.push(draw("rect", { class: odd ? "ax-band" : "ax-band ax-even", x, y: high, width, height: low - high }));
        const short = width < 46 ? part.replace("step ", "").replace("answer", width < 14 ? "" : "ans.") : part;
        found.push(draw("text", { class: "ax-tick", x: x + width / 2, y: low + 15, "text-anchor": "middle" }, short));
      }
      at = end;
    }
    return found;
  }

  moveCursor(chart, token) {
    const { cursor, lines, y, low, high } = chart, x = this.place(token), pair = this.lineup();
    cursor.replaceChildren(draw("line", { x1: x, x2: x, y1: high - 4, y2: low + 3 }));
    if (this.pin) {
      const at = this.place(this.pin.token);
      cursor.append(draw("line", { x1: at, x2: at, y1: high - 4, y2: low + 3, "stroke-dasharray": "3 3" }));
    }
    if (this.shown.part !== token) {
      const { steps } = this.spec, half = (this.place(1) - this.place(0)) / 2;
      const from = this.place(steps.indexOf(steps[token])) - half, to = this.place(steps.lastIndexOf(steps[token])) + half;
      cursor.prepend(draw("rect", { x: from, y: high, width: to - from, height: low - high }));
    }
    lines.forEach((line, at) => {
      if (!Number.isFinite(line[token])) return;
      const { color, marker } = this.spec.models[pair[at]];
      cursor.append(mark(marker, x, y(line[token]), 5, color, "ax-now"));
    });
  }

  // --- numbers ----------------------------------------------------------------------------------

  cellName(cell) {
    return `row ${Math.floor(cell / this.spec.cols)}, column ${cell % this.spec.cols}`;
  }

  writeReadout() {
    const { found, maps, source, slots } = this.shown;
    const rows = found.map(({ plane }, at) => {
      const read = (name) => this.planes.stat(plane, slots[at].part, name);
      const cell = read("cell"), there = Number.isFinite(read("mass"));
      return {
        name: slots[at].name,
        cells: [
          number(read("mass")),
          there ? `${this.cellName(cell)} (${weight(read("peak"))})` : NONE,
          number(read("share")),
          there ? `${number(read("spread"))} of ${this.spec.imageTokens}` : NONE,
        ],
        read,
      };
    });
    if (rows.length === 2) {
      const change = (name) => rows[1].read(name) - rows[0].read(name);
      const cells = [number(change("mass"), true), "", number(change("share"), true), number(change("spread"), true)];
      rows.push({ name: "difference", cells });
    }
    const boxes = this.spec.boxOf[this.shown.token], even = this.spec.even[boxes];
    const share = even ? `share on evidence box (uniform attention: ${number(even)})` : "share on evidence box";
    const names = [source.massName, "strongest patch", share, "spread over"];
    if (this.box) {
      names.push(`in ${this.boxName()}`);
      const sums = found.map(({ plane }, at) => this.planes.sumOf(plane, maps[at], this.box));
      sums.forEach((sum, at) => {
        const share = `${(100 * sum / rows[at].read("mass")).toFixed(0)} % of the map`;
        rows[at].cells.push(!Number.isFinite(sum) ? NONE : source.signed ? weight(sum) : `${weight(sum)} (${share})`);
      });
      rows[2]?.cells.push(weight(sums[1] - sums[0], true));
    }
    if (this.cell !== null) {
      names.push(this.cellName(this.cell));
      rows.forEach((row, at) => row.cells.push(weight(this.atCell(maps[at], at), at === 2)));
    }
    const key = [names, rows.map((row) => row.name)].join();
    if (key === this.readoutKey) {
      const cells = this.readout.querySelectorAll("tbody td");
      names.forEach((_, line) =>
        rows.forEach((row, at) => put(cells[line * rows.length + at], "textContent", row.cells[line])),
      );
      return;
    }
    this.readoutKey = key;
    // One column per model: three fit beside the curves and on a phone.
    this.readout.replaceChildren(
      make(
        "table",
        {},
        make("caption", {}, `Numbers of this map`),
        make("thead", {}, make("tr", {}, make("td"), rows.map((row) => make("th", { scope: "col" }, row.name)))),
        make(
          "tbody",
          {},
          names.map((name, at) =>
            make("tr", {}, make("th", { scope: "row" }, name), rows.map((row) => make("td", {}, row.cells[at]))),
          ),
        ),
      ),
    );
  }

  boxName() {
    const [top, left, bottom, right] = this.box, { cols } = this.spec;
    if (top === bottom && left === right) return this.cellName(top * cols + left);
    return `rows ${top}\u2013${bottom}, columns ${left}\u2013${right}`;
  }

  atCell(map, at) {
    if (!map) return NaN;
    const { plane } = this.shown.found[at === 1 ? 1 : 0], { rows, cols } = this.spec;
    const row = Math.floor((Math.floor(this.cell / cols) * plane.rows) / rows);
    const col = Math.floor(((this.cell % cols) * plane.cols) / cols);
    return map[row * plane.cols + col];
  }

  writeForced() {
    const pair = this.lineup(), models = pair.map((model) => this.spec.models[model]);
    if (!models.some((one) => one.p)) return;
    const k = this.after[this.shown.token];
    const at = (one, name) => one.p?.[Math.min(k, one.p.length - 1)][name] ?? NaN;
    const key = [k, pair, this.candidate].join();
    if (key === this.forcedKey) return;
    this.forcedKey = key;
    const order = this.spec.candidates
      .map((name, index) => ({ name, index, most: Math.max(...models.map((one) => at(one, index) || 0)) }))
      .sort((one, two) => two.most - one.most || one.index - two.index);
    const shown = order.slice(0, 8);
    const when = k === 0 ? "before any step" : `after step ${k}`;
    const rows = shown.map(({ name, index }) => {
      const told = models.some((one) => one.leaked?.[Math.min(k, one.leaked.length - 1)][index]);
      const label = make("th", { scope: "row" }, this.candidateWords(name), told ? make("small", {}, " named in the text") : null);
      if (models.some((one) => index === this.candidateOf(one))) label.classList.add("ax-chosen");
      const cells = models.map((one) => {
        const p = at(one, index), bar = make("span", { class: "ax-p" });
        bar.style.setProperty("--p", Number.isFinite(p) ? p.toFixed(3) : "0");
        bar.style.setProperty("--colour", one.color);
        return make("td", {}, bar, make("span", {}, Number.isFinite(p) ? p.toFixed(2) : NONE));
      });
      return make("tr", {}, label, cells);
    });
    const more = order.length - shown.length;
    this.forced.replaceChildren(
      make(
        "table",
        {},
        make("caption", {}, `If it had to answer ${when}${more ? ` (${more} less likely left out)` : ""}`),
        make("thead", {}, make("tr", {}, make("td"), models.map((one) => make("th", { scope: "col" }, one.label)))),
        make("tbody", {}, rows),
      ),
    );
  }

  /** The selection in words; `at` is the pane described, all of them if not given. */
  describe(at) {
    const { token, part, found, source, slots } = this.shown, text = spoken(this.spec.tokens[token]);
    const name = this.partOf(token);
    const where = source.layered
      ? `, ${this.layerWords(this.shown.layer)}, ${this.headWords(this.shown.head)}`
      : "";
    const read = (one) => number(this.planes.stat(found[one].plane, slots[one].part, "mass"));
    const size = this.spec.steps.filter((step) => step === this.spec.steps[token]).length;
    const what = part === token
      ? `token ${token} "${text}"${name ? ` (${name})` : ""}`
      : `${name}, mean over its ${size} tokens`;
    const names = slots.map(({ name }) => name);
    const masses = at === undefined
      ? names.map((name, one) => `${name} ${read(one)}`).join(", ")
      : at === 2
        ? `${read(0)} and ${read(1)}`
        : read(at);
    return `${what}, ${source.label}${where}: ${source.massName} ${masses}`;
  }

  say() {
    const { found } = this.shown;
    let text = this.describe();
    if (found.some((one) => !one.exact)) {
      text += this.spec.live
        ? "; fetching this layer and head, the nearest mean is shown until then"
        : "; this page does not carry this layer and head, the nearest mean is shown";
    } else if (this.spec.live && found.some((one) => !one.plane.full)) text += "; coarse map, the full one is on its way";
    put(this.live, "textContent", text.charAt(0).toUpperCase() + text.slice(1));
  }
}

// --- saving and linking -------------------------------------------------------------------------

const KEPT_STYLES = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font", "text-anchor"];

/** What a view shows, with its numbers, as one SVG element. */
function drawing(view) {
  const width = 960, edge = 16, inner = width - 2 * edge, parts = [];
  const { backgroundColor, color } = getComputedStyle(view.root);
  let y = edge;
  const write = (words, x, size = 13, weight = 400) =>
    parts.push(draw("text", { x, y, fill: color, "font-size": size, "font-weight": weight, "font-family": "system-ui, DejaVu Sans, sans-serif" }, words));
  const lines = (words, size, weight) => {
    let line = "";
    for (const word of [...words.split(/\s+/), null]) {
      if (word === null || (line && line.length + word.length > (1.75 * inner) / size)) {
        y += 1.3 * size;
        write(line, edge, size, weight);
        line = "";
      }
      line += line ? ` ${word}` : word;
    }
  };
  lines(view.spec.question, 17, 600);
  lines(view.live.textContent, 13);
  y += 24;
  const panes = view.panes.filter((pane) => !pane.figure.hidden), gap = 12;
  const ratio = panes[0].canvas.height / panes[0].canvas.width;
  const w = Math.min(340 / ratio, (inner + gap) / panes.length - gap);
  panes.forEach((pane, at) => {
    const x = edge + at * (w + gap);
    write(view.paneTitle(pane), x, 13, 600);
    parts.push(draw("image", { x, y: y + 8, width: w, height: w * ratio, href: pane.canvas.toDataURL() }));
  });
  y += 8 + w * ratio;
  lines([...view.scaleBars.children].map((bar) => [...bar.childNodes].map((one) => one.textContent || "to").join(" ")).join("; "), 13);
  lines(view.scaleText.textContent, 13);
  y += 10;
  for (const chart of [view.access, view.commitment]) {
    if (!chart) continue;
    y += 18;
    const [label, field] = [chart.figure.querySelector("label"), chart.figure.querySelector("select")];
    write(`${label.textContent}: ${field.selectedOptions[0].textContent}`, edge, 13, 600);
    const box = chart.picture.viewBox.baseVal, copy = chart.picture.cloneNode(true);
    const originals = chart.picture.querySelectorAll("*");
    copy.querySelectorAll("*").forEach((one, at) => {
      const style = getComputedStyle(originals[at]);
      for (const name of KEPT_STYLES) one.style.setProperty(name, style.getPropertyValue(name));
    });
    const height = (box.height * inner) / box.width;
    for (const name of ["class", "style"]) copy.removeAttribute(name);
    parts.push(fill(copy, { x: edge, y: y + 6, width: inner, height }, []));
    y += 6 + height;
  }
  lines(view.legendBox.innerText.replace(/\n+/g, ", "), 13);
  y += 8;
  for (const row of view.readout.querySelectorAll("tr")) {
    y += 18;
    [...row.cells].forEach((cell, at) => write(cell.textContent, edge + (at ? 350 + 190 * (at - 1) : 0), 12.5));
  }
  const height = Math.ceil(y + edge);
  const ground = draw("rect", { width, height, fill: backgroundColor });
  return draw("svg", { xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}` }, ground, parts);
}

function save(view, kind) {
  const svg = drawing(view), text = new XMLSerializer().serializeToString(svg);
  const give = (blob) => {
    const href = URL.createObjectURL(blob), name = `${view.spec.item}-token-${view.shown.token}`.replace(/[^\w-]+/g, "_");
    make("a", { href, download: `${name}.${kind.toLowerCase()}` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 60000);
  };
  if (kind === "SVG") return give(new Blob([text], { type: "image/svg+xml" }));
  const image = new Image();
  image.onload = () => {
    const canvas = make("canvas", { width: 2 * image.naturalWidth, height: 2 * image.naturalHeight });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob(give);
  };
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
}

/** The selection as a page's address ends, such as #item=a&token=12&unit=token&layer=3&head=mean. */
function linkOf(view) {
  const word = (value) => WORDS[value] ?? value, { get } = { get: (name) => view.get(name) };
  const parts = { item: view.spec.item, token: get("token"), unit: get("unit"), layer: word(get("layer")), head: word(get("head")), source: get("source") };
  return `#${new URLSearchParams(parts)}`;
}

/** Select what an address names, as far as it is there. */
function followLink(view, hash) {
  const asked = new URLSearchParams(hash.slice(1)), { spec } = view, changes = {};
  const code = (text) => Number(Object.keys(WORDS).find((one) => WORDS[one] === text) ?? text ?? NaN);
  const [layer, head] = [code(asked.get("layer")), code(asked.get("head"))];
  if (view.layers.includes(layer)) changes.layer = layer;
  if (view.heads.includes(head)) changes.head = head;
  if (spec.sources.some(({ key }) => key === asked.get("source"))) changes.source = asked.get("source");
  const named = asked.get("token") ?? "", step = /^step (\d+)$/.exec(named);
  const token = step ? spec.steps.indexOf(Number(step[1])) : named === "answer" ? spec.answer : /^\d+$/.test(named) ? Number(named) : null;
  if (token !== null && token >= 0 && token < spec.tokens.length) {
    changes.token = token;
    changes.unit = step || asked.get("unit") === "step" ? "step" : "token";
  }
  view.set(changes);
  view.later();
}

// --- small drawings -----------------------------------------------------------------------------

const put = (node, name, value) => {
  if (node[name] !== value) node[name] = value;
};

/** A frame that shows on every colour: dark, light inside. */
function frame(context, x, y, width, height, colour, line = 2.5) {
  context.strokeStyle = "#101418";
  context.lineWidth = 3 * line;
  context.strokeRect(x + line, y + line, width - 2 * line, height - 2 * line);
  context.strokeStyle = colour;
  context.lineWidth = line;
  context.strokeRect(x + line, y + line, width - 2 * line, height - 2 * line);
}

/** Lines around the cells that reach a quarter, a half and three quarters of a scale. */
function contours(context, map, rows, cols, end) {
  const { width, height } = context.canvas, w = width / cols, h = height / rows;
  [0.25, 0.5, 0.75].forEach((share, level) => {
    const inside = (row, col) =>
      end > 0 && row >= 0 && col >= 0 && row < rows && col < cols && Math.abs(map[row * cols + col]) >= share * end;
    const path = new Path2D();
    for (let row = 0; row <= rows; row++) {
      for (let col = 0; col <= cols; col++) {
        const here = inside(row, col);
        if (here !== inside(row - 1, col)) path.rect(col * w, row * h, w, 0);
        if (here !== inside(row, col - 1)) path.rect(col * w, row * h, 0, h);
      }
    }
    for (const [colour, line] of [["#101418", 3 * (level + 1)], [LEVELS[level], 1.5 * (level + 1)]]) {
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.stroke(path);
    }
  });
}

const SHAPES = {
  o: (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
  s: (r) => `M${-r} ${-r}H${r}V${r}H${-r}Z`,
  "^": (r) => `M0 ${-1.2 * r}L${1.1 * r} ${r}H${-1.1 * r}Z`,
  D: (r) => `M0 ${-1.3 * r}L${1.3 * r} 0L0 ${1.3 * r}L${-1.3 * r} 0Z`,
};

function mark(shape, x, y, size, colour, name = "ax-mark") {
  const path = (SHAPES[shape] ?? SHAPES.o)(size);
  return draw("path", { class: name, d: path, fill: colour, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` });
}

function sample({ color, dash, marker }) {
  const line = draw("line", { x1: 1, x2: 33, y1: 7, y2: 7, class: "ax-line", stroke: color, "stroke-dasharray": dash });
  return draw("svg", { width: 34, height: 14, "aria-hidden": "true" }, line, mark(marker, 17, 7, 4, color));
}

/** A round number at or above a value. */
function nice(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * unit).find((one) => one >= value * 0.9999);
}

/** Per token, how many steps are finished when it is predicted. */
function stepsBefore(steps) {
  const last = new Map();
  steps.forEach((step, at) => step && last.set(step, at));
  return steps.map((_, at) => [...last.values()].filter((end) => end < at).length);
}

// --- in a notebook ------------------------------------------------------------------------------

function render({ model, el }) {
  const spec = model.get("items"), holder = make("div");
  let view = new View(model, holder);
  if (!spec?.entries) {
    el.append(holder);
    return () => view.close();
  }
  const gallery = new Gallery(spec, (at) => {
    gallery.said.textContent = `${spec.entries[at].item} is measured`;
    model.set("item", at);
    model.save_changes();
  });
  const renew = () => {
    view.close();
    view = new View(model, holder);
    gallery.show(model.get("item"));
  };
  const fail = () => model.get("failed") && (gallery.said.textContent = model.get("failed"));
  el.append(gallery.root, holder);
  model.on("change:spec", renew);
  model.on("change:failed", fail);
  gallery.show(model.get("item"));
  return () => {
    model.off("change:spec", renew);
    model.off("change:failed", fail);
    view.close();
  };
}

// --- without a kernel ---------------------------------------------------------------------------

/** What anywidget's model does, on a plain object. */
class Model {
  constructor(state) {
    this.state = state;
    this.handlers = new Map();
  }
  get(name) {
    return this.state[name];
  }
  set(name, value) {
    if (this.state[name] === value) return;
    this.state[name] = value;
    for (const handler of this.handlers.get(`change:${name}`) ?? []) handler();
  }
  on(event, handler) {
    this.handlers.set(event, [...(this.handlers.get(event) ?? []), handler]);
  }
  off(event, handler) {
    this.handlers.set(event, (this.handlers.get(event) ?? []).filter((one) => one !== handler));
  }
  save_changes() {}
  send() {}
}

async function standalone() {
  const text = (id) => document.getElementById(id)?.textContent;
  const spec = JSON.parse(text("gallery") ?? "null"), el = document.getElementById("explorer");
  const entries = spec?.entries ?? [];
  let outside = null, view = null, now = -1, asked = 0;
  try {
    outside = window.frameElement;
  } catch {
    // A frame of another origin keeps its height.
  }
  const alone = !outside && window.parent === window;
  const tell = () => alone && history.replaceState(null, "", linkOf(view));
  /** Unpack an item; what the one before took is let go. */
  const open = async (at) => {
    const mine = ++asked, place = at || "";
    const state = JSON.parse(text(`state${place}`));
    const packed = Uint8Array.from(atob(text(`data${place}`)), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    state.data = new Uint8Array(await new Response(stream).arrayBuffer());
    if (mine !== asked) return;
    view?.close();
    const model = new Model(state);
    [view, now] = [new View(model, el), at];
    gallery?.show(at);
    for (const name of SHARED) model.on(`change:${name}`, tell);
  };
  const choose = async (at) => {
    if (entries[at].failed) return (gallery.said.textContent = `${entries[at].item}: ${entries[at].failed}`);
    await open(at);
    tell();
  };
  const gallery = spec && new Gallery(spec, choose);
  if (gallery) el.before(gallery.root);
  await open(Math.max(0, entries.findIndex(({ failed }) => !failed)));
  if (alone) {
    const follow = async () => {
      const named = new URLSearchParams(location.hash.slice(1)).get("item");
      const at = entries.findIndex(({ item, failed }) => item === named && !failed);
      if (at >= 0 && at !== now) await open(at);
      followLink(view, location.hash);
    };
    await follow();
    window.addEventListener("hashchange", follow);
  }
  el.dataset.ready = "";
  if (!outside) return;
  // In a notebook or report: as high as its content, in place of the still picture before it.
  const fit = () => (outside.style.height = `${Math.ceil(document.body.scrollHeight) + 2}px`);
  new ResizeObserver(fit).observe(document.body);
  if (outside.previousElementSibling?.matches("img")) outside.previousElementSibling.hidden = true;
  fit();
}

export default { render };
