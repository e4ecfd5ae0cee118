const rows = [...document.querySelectorAll("article")];
let at = 0;
let saved = true;

function count() {
  const of = (word) => rows.filter((row) => row.dataset.decision === word).length;
  document.getElementById("count").textContent =
    `${of("accept")} accepted, ${of("reject")} rejected, ${of("")} undecided`;
}

function go(to) {
  at = Math.min(Math.max(to, 0), rows.length - 1);
  rows[at].focus();
  rows[at].scrollIntoView({ block: "center" });
}

function decide(word) {
  rows[at].dataset.decision = word;
  saved = false;
  count();
  go(at + 1);
}

function save() {
  const decisions = {};
  for (const { dataset } of rows) {
    if (dataset.decision) {
      decisions[dataset.item] ??= {};
      decisions[dataset.item][dataset.kind] = dataset.decision;
    }
  }
  const link = document.createElement("a");
  link.href = "data:application/json," + encodeURIComponent(JSON.stringify(decisions, null, 1));
  link.download = "edits.json";
  link.click();
  saved = true;
}

const keys = {
  j: () => go(at + 1),
  k: () => go(at - 1),
  a: () => decide("accept"),
  r: () => decide("reject"),
  u: () => decide(""),
  s: save,
};
document.addEventListener("keydown", (event) => {
  if (keys[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) keys[event.key]();
});
rows.forEach((row, place) => row.addEventListener("focusin", () => { at = place; }));
document.addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (!button) return;
  const row = button.closest("article");
  if (row) at = rows.indexOf(row);
  keys[button.dataset.key]();
});
window.addEventListener("beforeunload", (event) => {
  if (!saved) event.preventDefault();
});
count();
