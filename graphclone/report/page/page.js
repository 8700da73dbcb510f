"use strict";
// Colours of charts are names of CSS variables: each theme draws them anew with its own values.
const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
const views = new Map();
let chosen = "auto"; // the reader's choice: auto follows the system

const theme = () => (chosen === "auto" ? (dark.matches ? "dark" : "light") : chosen);

function coloured(spec) {
  const held = getComputedStyle(root);
  return JSON.parse(JSON.stringify(spec), (key, value) =>
    typeof value === "string" && value.startsWith("--") ? held.getPropertyValue(value).trim() : value);
}

function config() {
  const of = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const text = { labelColor: of("--faint"), titleColor: of("--faint"), titleFontWeight: 500, labelFontSize: 12, titleFontSize: 12 };
  return {
    background: "transparent",
    font: getComputedStyle(document.body).fontFamily,
    view: { stroke: null },
    axis: { ...text, gridColor: of("--grid"), domainColor: of("--line"), tickColor: of("--line") },
    legend: { ...text, labelColor: of("--ink"), labelLimit: 320 },
    text: { fontSize: 12 },
  };
}

async function draw(place) {
  const known = views.get(place.id);
  if (known) known.finalize();
  const spec = coloured(charts[place.id]);
  const options = { actions: false, renderer: place.dataset.renderer || "svg", ast: true, config: config() };
  const made = await vegaEmbed(place, spec, options);
  views.set(place.id, made);
}

// A chart is drawn when its place has a width: what lies in a hidden panel waits until it is shown.
async function drawAll(again) {
  for (const place of document.querySelectorAll(".chart")) {
    if (place.offsetWidth > 0 && (again || !views.has(place.id))) await draw(place);
  }
  root.dataset.drawn = theme();
}

async function themed() {
  root.dataset.theme = theme();
  for (const button of document.querySelectorAll("button.theme")) button.textContent = `Theme: ${chosen}`;
  for (const place of document.querySelectorAll(".chart")) if (place.offsetWidth === 0 && views.has(place.id)) {
    views.get(place.id).finalize();
    views.delete(place.id);
  }
  await drawAll(true);
}

function select(tab) {
  for (const other of tab.parentElement.querySelectorAll("[role=tab]")) {
    const on = other === tab;
    other.setAttribute("aria-selected", on);
    other.tabIndex = on ? 0 : -1;
    document.getElementById(other.getAttribute("aria-controls")).hidden = !on;
  }
  drawAll(false);
}

for (const tab of document.querySelectorAll("[role=tab]")) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const all = [...tab.parentElement.querySelectorAll("[role=tab]")];
    const next = all[(all.indexOf(tab) + step + all.length) % all.length];
    next.focus();
    select(next);
  });
}
for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.of).innerText;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch { // without the right to the clipboard the text is marked, ready to be copied by hand
      getSelection().selectAllChildren(document.getElementById(button.dataset.of));
      button.textContent = "Marked";
    }
  });
}
for (const button of document.querySelectorAll("button.theme")) {
  button.addEventListener("click", () => {
    chosen = { auto: "light", light: "dark", dark: "auto" }[chosen];
    themed();
  });
}
for (const part of document.querySelectorAll("details")) part.addEventListener("toggle", () => drawAll(false));
dark.addEventListener("change", themed);
themed();
