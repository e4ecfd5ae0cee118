// The studio: behind the explorer's script, whose elements, model and view it uses. A line carries
// messages to the session and events back, to a kernel (through anywidget) or to a local server.

const GLOW = [150, 12, 140]; // colour of a map while the text is written
const LARGEST = 640; // pixels of the stage's longer side
const EMPTY = new Uint8Array();
const HINTS = [
  "Ask about a picture: every word arrives with the places it looked at.",
  "Make it answer after any step: when had it made up its mind?",
  "Paint over what it looked at, and ask again: would it notice?",
];

class Studio {
  constructor(el, about, line) {
    this.about = about;
    this.line = line;
    this.id = `st${Math.random().toString(36).slice(2, 10)}`;
    this.painted = new Set();
    this.cursor = null;
    this.file = null;
    this.root = make("section", { class: "attcot-explorer attcot-studio", "aria-label": "Studio" });
    this.build();
    el.append(this.root);
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.tell("ready");
    line.listen((event, data) => this.told(event, data));
    this.send({ kind: "start" });
  }

  close() {
    this.view?.close();
    this.line.close?.();
    this.root.remove();
  }

  async send(message, data = EMPTY) {
    try {
      await this.line.send(message, data);
    } catch {
      this.told({ kind: "error", text: "Nothing answers; is the studio still running?" }, EMPTY);
    }
  }

  // --- building ---------------------------------------------------------------------------------

  build() {
    this.root.append(
      make(
        "header",
        { class: "st-head" },
        make("span", { class: "st-name" }, "Studio"),
        make("span", { class: "st-model" }, this.about.model),
      ),
      make("div", { class: "st-bench" }, this.side(), this.talk()),
    );
    this.answers = make("div", { class: "st-answers" });
    this.box = make("div", { class: "st-explorer" });
    this.root.append(this.answers, this.box);
  }

  button(words, press, kind = "st-plain") {
    return make("button", { type: "button", class: kind, onclick: press }, words);
  }

  choice(label, options, change) {
    const id = `${this.id}-${label.replaceAll(" ", "-")}`;
    const input = make("select", { id, onchange: change }, options.map(([value, words]) => make("option", { value }, words)));
    return { input, field: make("div", { class: "st-field" }, make("label", { for: id }, label), input) };
  }

  side() {
    this.canvas = make("canvas", { width: LARGEST, height: 420 });
    const file = make("input", { type: "file", accept: "image/*", class: "ax-hidden", tabindex: -1, "aria-hidden": "true" });
    file.addEventListener("change", () => this.take(file.files[0]));
    this.empty = make(
      "div",
      { class: "st-empty" },
      make("p", {}, "Drop a picture here"),
      make(
        "div",
        { class: "st-row" },
        this.button("Choose a file", () => file.click()),
        this.button("Take an example", () => this.send({ kind: "example" })),
      ),
    );
    this.stage = make("div", { class: "st-stage", tabindex: -1, role: "group", "aria-label": "Picture" }, this.canvas, this.empty, file);
    this.stage.addEventListener("dragover", (event) => {
      event.preventDefault();
      this.stage.classList.add("st-over");
    });
    this.stage.addEventListener("dragleave", () => this.stage.classList.remove("st-over"));
    this.stage.addEventListener("drop", (event) => {
      event.preventDefault();
      this.stage.classList.remove("st-over");
      this.take(event.dataTransfer.files[0]);
    });
    this.stage.addEventListener("keydown", (event) => this.paintKey(event));
    this.stage.addEventListener("blur", () => this.point(null));
    let drawing = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      const cell = this.cellAt(event);
      if (cell === null) return;
      this.canvas.setPointerCapture(event.pointerId);
      drawing = !this.painted.has(cell);
      this.brush(cell, drawing);
    });
    this.canvas.addEventListener("pointermove", (event) => drawing !== null && this.brush(this.cellAt(event), drawing));
    for (const name of ["pointerup", "pointercancel"]) this.canvas.addEventListener(name, () => (drawing = null));
    this.caption = make("p", { class: "st-caption" });
    this.fills = this.choice("Hide it with", this.about.fills);
    this.sizes = this.choice("Brush", [[0, "one patch"], [1, "3 × 3"], [2, "5 × 5"]]);
    this.hide = this.button("Hide and ask again", () => this.edit(), "st-main");
    this.wipe = this.button("Clear", () => this.clear());
    this.other = this.button("New picture", () => file.click());
    this.other.hidden = true;
    this.tools = make(
      "div",
      { class: "st-tools", role: "group", "aria-label": "Hide a region" },
      make("div", { class: "st-row" }, this.fills.field, this.sizes.field),
      make("div", { class: "st-row" }, this.hide, this.wipe),
    );
    return make("div", { class: "st-side" }, this.stage, this.caption, this.tools);
  }

  talk() {
    const id = `${this.id}-question`, options = `${this.id}-options`;
    this.question = make("textarea", { id, rows: 2, placeholder: "What do you want to know about it?" });
    this.question.value = this.about.question;
    this.options = make("input", { id: options, type: "text", placeholder: "none: it answers in its own words", size: 12 });
    const names = this.about.formats.map((name) => [name, name || "as loaded, or detected"]);
    this.formats = this.choice("Format", names);
    this.askButton = this.button("Ask", () => this.ask(), "st-main");
    this.stopButton = this.button("Stop", () => this.stop(false));
    this.forceButton = this.button("Answer now", () => this.stop(true));
    this.status = make("p", { class: "st-status", role: "status" });
    this.strip = make("div", { class: "st-strip", "aria-hidden": "true" });
    this.steps = make("ol", { class: "st-steps", "aria-label": "Steps" });
    this.hints = make("ol", { class: "st-hints" }, HINTS.map((words) => make("li", {}, words)));
    return make(
      "div",
      { class: "st-talk" },
      make("div", { class: "st-field" }, make("label", { for: id }, "Question"), this.question),
      make(
        "div",
        { class: "st-row st-how" },
        this.formats.field,
        make("div", { class: "st-field st-grow" }, make("label", { for: options }, "Possible answers, by commas"), this.options),
      ),
      make("div", { class: "st-row" }, this.askButton, this.other, this.forceButton, this.stopButton, make("span", { class: "st-keys" }, "Ctrl + Enter asks, F makes it answer now")),
      this.status,
      this.strip,
      this.steps,
      this.hints,
    );
  }

  /** "ready", "writing" or "measuring": which buttons can be pressed. */
  tell(state) {
    this.state = state;
    const busy = state !== "ready";
    this.askButton.disabled = busy;
    for (const one of [this.stopButton, this.forceButton]) one.hidden = state !== "writing";
    this.hide.disabled = busy || !this.painted.size;
    this.wipe.disabled = busy || !this.painted.size;
    this.other.disabled = busy;
    this.tools.hidden = !this.view || state === "writing";
    this.root.setAttribute("aria-busy", String(busy));
    for (const one of this.steps.querySelectorAll("button")) one.disabled = busy;
  }

  say(words, fault = false) {
    this.status.textContent = words;
    this.status.classList.toggle("st-fault", fault);
  }

  // --- asking -----------------------------------------------------------------------------------

  take(file) {
    if (!file || this.state !== "ready") return;
    this.file = file;
    const address = URL.createObjectURL(file);
    this.load(address, () => URL.revokeObjectURL(address));
    this.question.focus();
  }

  /** A picture to ask about, in place of the last one. */
  load(address, then) {
    const picture = new Image();
    picture.onload = () => {
      this.original = this.shown = picture;
      this.grid = this.map = null;
      this.clear();
      this.forget();
      const ratio = LARGEST / Math.max(picture.naturalWidth, picture.naturalHeight);
      this.canvas.width = Math.round(picture.naturalWidth * ratio);
      this.canvas.height = Math.round(picture.naturalHeight * ratio);
      this.empty.hidden = true;
      this.stage.classList.add("st-full");
      this.other.hidden = false;
      this.caption.textContent = "";
      this.draw();
      this.tell("ready");
      then?.();
    };
    picture.onerror = () => {
      this.say("This file is no picture that can be shown; choose a PNG, JPEG or WebP.", true);
      then?.();
    };
    picture.src = address;
  }

  /** Everything that was about another question. */
  forget() {
    this.view?.close();
    this.view = null;
    this.steps.replaceChildren();
    this.answers.replaceChildren();
    this.strip.replaceChildren();
  }

  async ask() {
    if (this.state !== "ready") return;
    const data = this.file ? new Uint8Array(await this.file.arrayBuffer()) : EMPTY;
    this.file = null;
    this.edited = null;
    this.hints.hidden = true;
    this.clear();
    this.forget();
    this.tell("writing");
    this.say("It reads the picture …");
    const options = this.options.value.split(",").map((one) => one.trim()).filter(Boolean);
    this.send({ kind: "ask", question: this.question.value, options, format: this.formats.input.value }, data);
  }

  stop(force) {
    this.forcing = force;
    this.say("It stops …");
    this.send({ kind: "stop" });
  }

  force(after) {
    if (this.state !== "ready") return;
    this.tell("measuring");
    this.send({ kind: "force", after });
  }

  edit() {
    if (this.state !== "ready" || !this.painted.size) return;
    this.tell("writing");
    this.say("It reads the changed picture …");
    this.send({ kind: "edit", cells: [...this.painted], fill: this.fills.input.value });
  }

  // --- what the session tells -------------------------------------------------------------------

  told(event, data) {
    if (event.kind === "picture") {
      const address = URL.createObjectURL(new Blob([data], { type: "image/png" }));
      if (event.question) this.question.value = event.question;
      this.load(address, () => URL.revokeObjectURL(address));
    } else if (event.kind === "begin") this.begin(event);
    else if (event.kind === "token") this.token(event, data);
    else if (event.kind === "edited") {
      const picture = new Image(), address = URL.createObjectURL(new Blob([data], { type: "image/png" }));
      picture.onload = () => {
        this.shown = picture;
        this.draw();
      };
      picture.src = address;
      this.edited = address;
    } else if (event.kind === "shown") this.finish(event, data);
    else if (event.kind === "forced") this.forced(event);
    else if (event.kind === "planes") {
      for (const handler of this.model?.handlers.get("msg:custom") ?? []) handler(event, [data]);
    } else if (event.kind === "error") {
      this.say(event.text, true);
      this.map = null;
      this.tell("ready");
    }
  }

  begin({ which, rows, cols }) {
    this.grid = { rows, cols };
    this.top = 0;
    this.most = 1e-9;
    this.strip.replaceChildren();
    this.say(which === "edited" ? "It writes, with the region hidden …" : "It writes …");
    this.stage.tabIndex = 0;
    this.stage.setAttribute("aria-label", "Picture; arrow keys move over its patches, Space hides one or shows it again");
  }

  token({ text, mass }, data) {
    const map = new Float32Array(data.slice().buffer);
    this.top = Math.max(this.top, ...map);
    this.most = Math.max(this.most, mass);
    this.map = map;
    const node = make("span", { class: "st-token" }, visible(text));
    if (/^\s/.test(text) && text.trim()) node.classList.add("ax-word");
    node.style.setProperty("--mass", mass.toFixed(4));
    this.strip.style.setProperty("--most", this.most.toFixed(4));
    this.strip.append(node);
    if (text.includes("\n")) this.strip.append(make("br"));
    this.strip.scrollTop = this.strip.scrollHeight;
    this.caption.textContent = `Where it looks as it writes “${spoken(text)}”: ${number(mass)} of its attention is on the picture.`;
    this.draw();
  }

  finish(event, data) {
    const [first, second] = event.answers;
    this.map = null;
    this.shown = this.original;
    this.strip.replaceChildren();
    this.caption.textContent = "Paint what it shall not see.";
    const words = (answer) => answer ?? "nothing that can be told";
    const change = first === second ? `With the region hidden the answer stays: ${words(first)}.` : `With the region hidden it answers ${words(second)} instead of ${words(first)}.`;
    this.say([second === undefined ? `It answers: ${words(first)}.` : change, ...event.notes].join(" "));
    this.answers.replaceChildren();
    if (second !== undefined) this.answers.append(this.card("Original", this.original.src, first), this.card("Region hidden", this.edited, second, first !== second));
    else this.listSteps(event);
    this.view?.close();
    this.model = new Model({ ...event.state, data: data.slice() });
    this.model.send = (message) => this.send(message);
    this.view = new View(this.model, this.box);
    this.tell("ready");
    this.draw();
    if (this.forcing) this.force(event.whole);
    this.forcing = false;
  }

  card(name, address, answer, changed = false) {
    const picture = make("img", { alt: name, src: this.thumbnail(name, address) });
    const words = make("div", {}, make("span", { class: "st-small" }, name), make("strong", {}, answer ?? "no answer that can be told"));
    return make("div", { class: changed ? "st-card st-changed" : "st-card" }, picture, words);
  }

  /** The original's address is revoked by then. */
  thumbnail(name, address) {
    if (name !== "Original") return address;
    const small = make("canvas", { width: 128, height: Math.round((128 * this.canvas.height) / this.canvas.width) });
    small.getContext("2d").drawImage(this.original, 0, 0, small.width, small.height);
    return small.toDataURL();
  }

  listSteps({ steps, whole }) {
    const rows = ["before it writes anything", ...steps].map((text, after) => {
      const said = make("span", { class: "st-said" });
      const words = after === 0 ? make("i", {}, text) : text;
      const name = `Answer here, ${after ? `after step ${after}` : "before any step"}`;
      const press = this.button("Answer here", () => this.force(after));
      press.setAttribute("aria-label", name);
      return make("li", { class: after > whole ? "st-cut" : "" }, make("span", { class: "st-text" }, words), said, press);
    });
    this.steps.replaceChildren(...rows);
  }

  forced({ after, answer, p }) {
    const row = this.steps.children[after], said = row?.querySelector(".st-said");
    const words = `${answer ?? "no answer within the limit"}`;
    if (said) said.replaceChildren("→ ", make("strong", {}, words), p === null ? "" : ` (p of its final answer ${p.toFixed(2)})`);
    this.say(`Made to answer ${after ? `after step ${after}` : "before it wrote anything"}, it says: ${words}.`);
    this.tell("ready");
    row?.querySelector("button").focus({ preventScroll: true });
  }

  // --- painting ---------------------------------------------------------------------------------

  cellAt(event) {
    if (!this.grid || this.state !== "ready") return null;
    const box = this.canvas.getBoundingClientRect(), { rows, cols } = this.grid;
    const col = clamp(Math.floor(((event.clientX - box.left) / box.width) * cols), 0, cols - 1);
    const row = clamp(Math.floor(((event.clientY - box.top) / box.height) * rows), 0, rows - 1);
    return row * cols + col;
  }

  /** Paint the patches around one, or take their paint away. */
  brush(cell, on) {
    if (cell === null) return;
    const { rows, cols } = this.grid, reach = +this.sizes.input.value;
    const row = Math.floor(cell / cols), col = cell % cols;
    for (let y = Math.max(0, row - reach); y <= Math.min(rows - 1, row + reach); y++) {
      for (let x = Math.max(0, col - reach); x <= Math.min(cols - 1, col + reach); x++) {
        this.painted[on ? "add" : "delete"](y * cols + x);
      }
    }
    this.repainted();
  }

  clear() {
    this.painted.clear();
    this.repainted();
  }

  repainted() {
    this.draw();
    this.tell(this.state);
    const size = this.painted.size;
    if (size) this.caption.textContent = `${size} of ${this.grid.rows * this.grid.cols} patches will be hidden.`;
  }

  point(cell) {
    this.cursor = cell;
    this.draw();
  }

  paintKey(event) {
    if (!this.grid || this.state !== "ready" || event.target !== this.stage) return;
    const { rows, cols } = this.grid, at = this.cursor ?? Math.floor(rows / 2) * cols + Math.floor(cols / 2);
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (move) {
      const row = clamp(Math.floor(at / cols) + move[0], 0, rows - 1), col = clamp((at % cols) + move[1], 0, cols - 1);
      this.point(row * cols + col);
      this.caption.textContent = `Row ${row}, column ${col}${this.painted.has(row * cols + col) ? ", hidden" : ""}`;
    } else if (event.key === " ") {
      this.cursor = at;
      this.brush(at, !this.painted.has(at));
    } else if (event.key === "Enter") this.edit();
    else if (event.key === "Delete" || event.key === "Backspace") this.clear();
    else return;
    event.preventDefault();
  }

  key(event) {
    const typing = ["INPUT", "TEXTAREA", "SELECT"].includes(event.target.tagName);
    const control = event.ctrlKey || event.metaKey;
    if (event.key === "Enter" && control) {
      this.ask();
      event.preventDefault();
    } else if (event.key.toLowerCase() === "f" && !typing && !control) {
      if (this.state === "writing") this.stop(true);
      else {
        const rows = [...this.steps.children], here = rows.findIndex((row) => row.contains(event.target));
        if (rows.length) this.force(here >= 0 ? here : rows.length - 1);
      }
    } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && this.steps.contains(event.target)) {
      const all = [...this.steps.querySelectorAll("button")], next = all.indexOf(event.target) + (event.key === "ArrowDown" ? 1 : -1);
      all[next]?.focus();
      event.preventDefault();
    }
    // JupyterLab acts on plain keys unless they stop here.
    if (!control && !event.altKey && event.key !== "Tab" && event.key !== "Escape") event.stopPropagation();
  }

  draw() {
    const context = this.canvas.getContext("2d"), { width, height } = this.canvas;
    context.clearRect(0, 0, width, height);
    if (!this.shown) return;
    context.filter = this.map ? "grayscale(1) contrast(0.75) brightness(1.15)" : "none";
    context.imageSmoothingEnabled = this.shown.naturalWidth > width;
    context.drawImage(this.shown, 0, 0, width, height);
    context.filter = "none";
    if (!this.grid) return;
    const { rows, cols } = this.grid, w = width / cols, h = height / rows;
    if (this.map) {
      const small = make("canvas", { width: cols, height: rows }), inner = small.getContext("2d"), image = inner.createImageData(cols, rows);
      this.map.forEach((value, cell) => image.data.set([...GLOW, 225 * Math.min(1, value / (this.top || 1))], 4 * cell));
      inner.putImageData(image, 0, 0);
      context.imageSmoothingEnabled = false;
      context.drawImage(small, 0, 0, width, height);
      return;
    }
    for (const cell of this.painted) {
      const x = (cell % cols) * w, y = Math.floor(cell / cols) * h;
      context.fillStyle = "rgba(10,14,20,.72)";
      context.fillRect(x, y, w, h);
      context.strokeStyle = "#ffd84a";
      context.lineWidth = 3;
      context.beginPath();
      // Lines where the region ends, and none between its patches.
      const edge = (open, ...line) => {
        if (!open) return;
        context.moveTo(line[0], line[1]);
        context.lineTo(line[2], line[3]);
      };
      edge(!this.painted.has(cell - cols), x, y, x + w, y);
      edge(!this.painted.has(cell + cols), x, y + h, x + w, y + h);
      edge(cell % cols === 0 || !this.painted.has(cell - 1), x, y, x, y + h);
      edge(cell % cols === cols - 1 || !this.painted.has(cell + 1), x + w, y, x + w, y + h);
      context.stroke();
    }
    if (this.cursor !== null) frame(context, (this.cursor % cols) * w, Math.floor(this.cursor / cols) * h, w, h, "#00e5ff");
  }
}

function renderStudio({ model, el }) {
  const studio = new Studio(el, model.get("about"), {
    send: (message, data) => model.send(message, undefined, data.length ? [data.buffer] : []),
    listen(told) {
      this.heard = (event, buffers) => told(event, buffers?.length ? bytes(buffers[0]) : EMPTY);
      model.on("msg:custom", this.heard);
    },
    close() {
      model.off("msg:custom", this.heard);
    },
  });
  return () => studio.close();
}

// --- without a kernel ---------------------------------------------------------------------------

/** Messages as requests of the page's own server; events as they arrive in the answer. */
function studioPage() {
  let told = null;
  const encoder = new TextEncoder(), decoder = new TextDecoder();
  new Studio(document.getElementById("studio"), JSON.parse(document.getElementById("about").textContent), {
    listen: (listener) => (told = listener),
    async send(message, data) {
      const body = new Blob([encoder.encode(`${JSON.stringify(message)}\n`), data]);
      const response = await fetch("message", { method: "POST", body });
      if (!response.ok) throw new Error(response.statusText);
      // Events: the lengths of text and data, four bytes each, then both.
      let held = EMPTY;
      for (const reader = response.body.getReader(); ; ) {
        const { value, done } = await reader.read();
        if (done) break;
        const joined = new Uint8Array(held.length + value.length);
        joined.set(held);
        joined.set(value, held.length);
        held = joined;
        while (held.length >= 8) {
          const sizes = new DataView(held.buffer, held.byteOffset), text = sizes.getUint32(0, true), end = 8 + text + sizes.getUint32(4, true);
          if (held.length < end) break;
          told(JSON.parse(decoder.decode(held.subarray(8, 8 + text))), held.slice(8 + text, end));
          held = held.subarray(end);
        }
      }
    },
  });
  document.body.dataset.ready = "";
}

export default { render: renderStudio };
