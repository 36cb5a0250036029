"use strict";
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const one = id => document.getElementById(id);
const bodies = all(".table > table > tbody"), heads = all("#heads th"), rows = all("tr.row");
const box = one("filter"), chips = all(".chip"), facets = all("[data-facet]"), clear = one("clear"), tip = one("tip");
const isOn = chip => chip.getAttribute("aria-pressed") === "true";
const turn = (chip, on) => chip.setAttribute("aria-pressed", String(on));
const marksOf = Map.groupBy?.(all(".group .m"), mark => mark.dataset.card) ?? new Map();

function filter() {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  const verdicts = chips.filter(isOn).map(chip => chip.dataset.verdict);
  const names = facets[0] ? JSON.parse(document.querySelector(".tools").dataset.facets) : [];
  let shown = 0;
  for (const body of bodies) {
    let here = 0;
    const heading = body.querySelector("h2")?.textContent ?? "";
    for (const row of all(".row", body)) {
      const text = `${heading} ${row.textContent}`.toLowerCase(), card = one(row.dataset.card);
      row.hidden = !words.every(word => text.includes(word))
        || (verdicts.length > 0 && !verdicts.includes(row.dataset.verdict))
        || facets.some(({ value, dataset }) => value && row.getAttribute(`data-facet-${names.indexOf(dataset.facet)}`) !== value);
      if (card) card.hidden = row.hidden;
      for (const mark of marksOf.get(row.dataset.card) ?? []) mark.classList.toggle("off", row.hidden);
      here += !row.hidden;
    }
    body.hidden = here === 0;
    shown += here;
  }
  for (const group of all(".group")) group.hidden = all(".m", group).every(mark => mark.classList.contains("off"));
  one("shown").textContent = `${shown} of ${rows.length} shown`;
  clear.hidden = shown === rows.length && !words.length && !verdicts.length && facets.every(({ value }) => !value);
}

function sort(column, down) {
  const number = heads[column].classList.contains("n");
  const value = ({ cells: { [column]: cell } }) =>
    (cell.dataset.sort ?? ((!number && cell.firstElementChild) || cell).textContent).trim().replace(/^\((.*)\)$/, "$1");
  const compare = (a, b) => number ? parseFloat(a) - parseFloat(b) : a.localeCompare(b, "en", { numeric: true });
  const missing = text => !text || (number && isNaN(parseFloat(text)));
  for (const body of bodies) {
    body.append(...all(".row", body).sort((x, y) => {
      const a = value(x), b = value(y);
      if (missing(a) || missing(b)) return missing(a) - missing(b);  // what is missing stays at the end
      return down ? compare(b, a) : compare(a, b);
    }));
  }
  heads.forEach((head, i) => i === column ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
}

// What is filtered and sorted stands in the address, so that it can be sent to somebody. Anchors have no "=".
function keep() {
  const state = new URLSearchParams(), column = heads.findIndex(head => head.hasAttribute("aria-sort"));
  if (box.value) state.set("q", box.value);
  for (const { value, dataset } of facets) if (value) state.set(dataset.facet, value);
  for (const chip of chips.filter(isOn)) state.append("verdict", chip.dataset.verdict);
  if (column >= 0) state.set("sort", (heads[column].getAttribute("aria-sort") === "descending" ? "-" : "") + column);
  history.replaceState(null, "", `#${state}`);
}
function restore() {
  const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  box.value = state.get("q") ?? "";
  for (const select of facets) {
    select.value = state.get(select.dataset.facet) ?? "";
    if (select.selectedIndex < 0) select.value = "";
  }
  for (const chip of chips) turn(chip, state.getAll("verdict").includes(chip.dataset.verdict));
  const [, minus, column] = /^(-?)(\d+)$/.exec(state.get("sort") ?? "") ?? [];
  if (heads[column]?.querySelector("button")) sort(Number(column), minus === "-");
  filter();
}
const changed = () => { filter(); keep(); };
heads.forEach((head, i) => head.querySelector("button")?.addEventListener("click", () => {
  sort(i, head.getAttribute("aria-sort") === "ascending");
  keep();
}));
chips.forEach(chip => chip.addEventListener("click", () => { turn(chip, !isOn(chip)); changed(); }));
facets.forEach(select => select.addEventListener("change", changed));
box.addEventListener("input", changed);
clear.addEventListener("click", () => {
  box.value = "";
  for (const select of facets) select.value = "";
  for (const chip of chips) turn(chip, false);
  changed();
  box.focus();
});
addEventListener("hashchange", () => { if (location.hash.includes("=")) restore(); });

function point(mark, on) {
  for (const same of marksOf.get(mark.dataset.card) ?? []) same.classList.toggle("on", on);
  tip.hidden = !on;
  if (!on) return;
  tip.textContent = mark.dataset.told;
  const at = mark.getBoundingClientRect(), size = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(at.left + at.width / 2 - size.width / 2, innerWidth - size.width - 8))}px`;
  tip.style.top = `${at.top > size.height + 12 ? at.top - size.height - 8 : at.bottom + 8}px`;
}
for (const panel of all(".group .panel")) {
  const marks = all(".m", panel);
  for (const mark of marks) {
    const title = mark.querySelector("title");
    mark.dataset.told = title.textContent;
    title.remove();  // or the browser shows it a second time
    for (const come of ["mouseenter", "focus"]) mark.addEventListener(come, () => point(mark, true));
    for (const go of ["mouseleave", "blur"]) mark.addEventListener(go, () => point(mark, false));
  }
  panel.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const place = marks.indexOf(document.activeElement);
    if (event.key === "Escape") document.activeElement.blur();
    if (!step || place < 0) return;
    event.preventDefault();
    const next = marks[(place + step + marks.length) % marks.length];
    for (const mark of marks) mark.setAttribute("tabindex", mark === next ? 0 : -1);
    next.focus();
  });
}
// A mark that has the focus keeps its words: to bring it into view is what scrolls the page.
addEventListener("scroll", () => {
  const mark = document.activeElement.closest(".group .m");
  if (mark) point(mark, true); else tip.hidden = true;
}, { passive: true });

function compare() {
  const { lists, runs } = JSON.parse(one("scored").textContent), other = one("other");
  const first = runs[one("one").value];
  for (const option of all("option", other)) option.hidden = option.disabled = option.value !== "" && runs[option.value].list !== first.list;
  for (const group of all("optgroup", other)) group.hidden = all("option", group).every(option => option.disabled);
  if (other.selectedOptions[0]?.disabled) other.value = "";
  const second = runs[other.value];
  const mean = run => { const known = run.values.filter(value => value !== null); return known.reduce((a, b) => a + b, 0) / known.length; };
  const lines = lists[first.list].map((name, i) => {
    const a = first.values[i], b = second ? second.values[i] : null;
    return { name, a, b, gap: a === null || b === null ? null : a - b };
  });
  const key = { score: line => line.a, gap: line => line.gap }[one("order").value];
  if (key) lines.sort((x, y) => (key(x) ?? Infinity) - (key(y) ?? Infinity));
  const make = (tag, className, text) => { const made = document.createElement(tag); made.className = className; made.textContent = text; return made; };
  const signed = value => value === null ? "" : (value < 0 ? "-" : "+") + Math.abs(value).toFixed(2);
  one("bars").replaceChildren(...lines.map(({ name, a, b, gap }) => {
    const line = document.createElement("li"), label = make("b", "", name), bar = make("div", "bar", "");
    label.title = name;
    for (const [value, colour] of [[a, "s0"], [b, "s1"]]) {
      if (value !== null) bar.append(make("i", colour, ""));
      if (value !== null) bar.lastChild.style.width = `${value}%`;
    }
    line.append(label, bar, make("span", "", a === null ? "" : a.toFixed(1)), make("span", "gap-of", signed(gap)));
    return line;
  }));
  one("means").textContent = `mean ${mean(first).toFixed(2)}` + (second ? ` beside ${mean(second).toFixed(2)}` : "");
}
for (const button of all("figure button")) {
  button.addEventListener("click", () => button.setAttribute("aria-expanded", String(button.getAttribute("aria-expanded") !== "true")));
}
if (one("scored")) {
  for (const id of ["one", "other", "order"]) one(id).addEventListener("change", compare);
  compare();
}
restore();
