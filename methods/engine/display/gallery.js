// Draws the gallery: cards, filters, and the attention maps of the class that is looked at.

const state = { filter: "all", class: null };

// Truth and verdicts -------------------------------------------------------------------------------------------------

/** Whether a run is right on an image, or on one class of it; null where that cannot be said. */
function isRight(item, view, label = null) {
  if (item.true === null) return null;
  const known = (labels) => labels.filter((one) => !item.unknown.includes(one));
  if (label !== null) {
    return item.unknown.includes(label) ? null : item.true.includes(label) === view.predicted.includes(label);
  }
  const predicted = known(view.predicted);
  return predicted.length === item.true.length && predicted.every((one) => item.true.includes(one));
}

const FILTERS = {
  all: ["All", () => true],
  right: ["Right", (verdicts) => verdicts.every((verdict) => verdict === true)],
  wrong: ["Wrong", (verdicts) => verdicts.includes(false)],
  differ: ["Runs differ", (verdicts) => verdicts.includes(true) && verdicts.includes(false)],
};

function passes(item, filter, label) {
  const concerns = item.true?.includes(label) || item.views.some((view) => view.predicted.includes(label));
  if (label !== null && !concerns) return false;
  return FILTERS[filter][1](item.views.map((view) => isRight(item, view, label)));
}

// Cards --------------------------------------------------------------------------------------------------------------

function scoreRow(item, view, label) {
  const isTrue = item.true?.includes(label);
  const isPredicted = view.predicted.includes(label);
  const judged = item.true !== null && !item.unknown.includes(label);
  const error = judged && isTrue && !isPredicted ? "missed" : judged && !isTrue && isPredicted ? "added" : "";
  const name = element("span", { className: "name" }, page.classes[label]);
  if (error) name.append(" ", element("small", {}, error));
  const row = element("li", { className: error }, name, view.scores[label].toFixed(2));
  row.style.setProperty("--score", view.scores[label]);
  return row;
}

function legendRow([colour, words]) {
  const swatch = element("i");
  swatch.style.background = colour;
  return element("li", {}, swatch, words);
}

function viewOf(item, view, run) {
  const stage = stageOf(item, view.frame);
  for (const kind of ["predicted", "labelled"]) {
    const pixels = view.segments?.[kind];
    if (pixels) stage.append(element("img", { className: `pixels ${kind}`, src: pixels, alt: `${kind} classes` }));
  }
  const right = isRight(item, view);
  const verdict = right === null ? "" : right ? "right" : "wrong";
  const listed = Object.keys(view.scores).map(Number).sort((one, other) => view.scores[other] - view.scores[one]);
  return element("figure", {}, stage, element("figcaption", {},
    element("div", { className: "verdict" }, element("b", {}, run.name), element("span", { className: verdict }, verdict)),
    element("p", { className: "figure" }),
    element("ul", { className: "legend" }, ...(view.segments?.legend ?? []).map(legendRow)),
    element("ul", { className: "scores" }, ...listed.map((label) => scoreRow(item, view, label)))));
}

class Card {
  constructor(item, place) {
    this.item = item;
    this.visible = false;
    this.selected = item.labels[0];
    const chips = item.labels.map((label) => this.chip(label, place));
    const views = element("div", { className: "views" }, ...item.views.map((view, run) => viewOf(item, view, page.runs[run])));
    this.node = element("article", { className: "card", tabIndex: -1 }, element("h2", { title: item.name }, item.name), views,
      element("fieldset", { className: "chips" }, element("legend", {}, "Attention for"), ...chips));
    this.node.dataset.name = item.name;
    this.node.addEventListener("change", (event) => this.select(Number(event.target.value)));
  }

  chip(label, place) {
    const input = element("input", { type: "radio", name: `class-${place}`, value: label, checked: label === this.selected });
    const isTrue = this.item.true?.includes(label);
    return element("label", { className: isTrue ? "true" : "", title: isTrue ? "true label" : "" },
      input, element("span", {}, page.classes[label]));
  }

  select(label) {
    if (!this.item.labels.includes(label)) return;
    this.selected = label;
    this.node.querySelector(`.chips input[value="${label}"]`).checked = true;
    this.draw();
  }

  draw() {
    const boxes = byId("boxes").value;
    for (const box of this.node.querySelectorAll(".box")) {
      box.hidden = boxes === "off" || (boxes === "class" && Number(box.dataset.label) !== this.selected);
    }
    this.node.querySelectorAll(".figure").forEach((figure, run) => {
      figure.textContent = this.item.views[run].figures[this.selected] ?? "";
    });
    if (!this.visible) return;
    const table = tables[byId("colours").value];
    this.node.querySelectorAll(".frame").forEach((stage, run) => {
      drawMap(stage, this.item.views[run].maps[this.selected], table);
    });
  }
}

const cards = page.items.map((item, place) => new Card(item, place));

// The page -----------------------------------------------------------------------------------------------------------

function definitions(pairs) {
  return element("dl", {}, ...pairs.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
}

/** The recipe's fields in which the runs differ: what a comparison is about. */
function differences(run) {
  const names = Object.keys(run.recipe).filter((name) => page.runs.some((other) => other.recipe[name] !== run.recipe[name]));
  return names.map((name) => `${name} ${run.recipe[name]}`).join(", ");
}

function runPanel(run, place) {
  const verdicts = page.items.map((item) => isRight(item, item.views[place])).filter((verdict) => verdict !== null);
  const right = verdicts.filter(Boolean).length;
  const share = verdicts.length ? `${right} of ${verdicts.length} right` : "";
  return element("section", { className: "run" },
    element("h2", {}, run.name, element("span", {}, share)),
    definitions([["Method", run.method], ["Checkpoint", run.checkpoint], ["Map", run.map],
      ["Normalised", run.normalisation], ["Images", run.images], ["Differs in", differences(run)]].filter(([, text]) => text)),
    Object.assign(definitions(Object.entries(run.figures)), { className: "figures" }),
    element("details", {}, element("summary", {}, "Recipe"), definitions(Object.entries(run.recipe))));
}

function update() {
  let shown = 0;
  for (const card of cards) {
    card.node.hidden = !passes(card.item, state.filter, state.class);
    shown += !card.node.hidden;
  }
  for (const button of byId("filters").children) {
    button.setAttribute("aria-pressed", button.value === state.filter);
    const count = page.items.filter((item) => passes(item, button.value, state.class)).length;
    button.querySelector("span").textContent = count;
  }
  byId("count").textContent = `${shown} of ${cards.length} images`;
  byId("empty").hidden = shown > 0;
}

function setOpacity(value) {
  byId("opacity").value = value;
  byId("opacity-value").value = `${byId("opacity").value} %`;
  document.documentElement.style.setProperty("--opacity", byId("opacity").value / 100);
}

function redraw() {
  for (const card of cards) card.draw();
}

function step(direction) {
  const shown = cards.filter((card) => !card.node.hidden).map((card) => card.node);
  const place = shown.indexOf(document.activeElement.closest?.(".card"));
  const next = shown[place < 0 ? 0 : Math.min(Math.max(place + direction, 0), shown.length - 1)];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

function turn(direction) {
  const card = cards.find(({ node }) => node === document.activeElement);
  if (!card) return;
  const labels = card.item.labels;
  card.select(labels[(labels.indexOf(card.selected) + direction + labels.length) % labels.length]);
}

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  ArrowRight: () => turn(1),
  ArrowLeft: () => turn(-1),
  "[": () => setOpacity(Number(byId("opacity").value) - 5),
  "]": () => setOpacity(Number(byId("opacity").value) + 5),
  b: () => {
    byId("boxes").selectedIndex = (byId("boxes").selectedIndex + 1) % byId("boxes").length;
    redraw();
  },
  c: () => byId("contour").click(),
};

document.documentElement.style.setProperty("--runs", page.runs.length);
byId("about").textContent = [page.source, `${cards.length} images`, page.date].join(" \u00b7 ");
byId("runs").append(...page.runs.map(runPanel));
for (const [value, [text]] of Object.entries(FILTERS)) {
  const needsTruth = value !== "all" && page.items.every((item) => item.true === null);
  if (needsTruth || (value === "differ" && page.runs.length < 2)) continue;
  byId("filters").append(element("button", { type: "button", value }, text, element("span")));
}
const present = new Set(page.items.flatMap((item) => [...(item.true ?? []), ...item.views.flatMap((view) => view.predicted)]));
byId("class").append(element("option", { value: "" }, "any"),
  ...[...present].sort((one, other) => one - other).map((label) => element("option", { value: label }, page.classes[label])));
byId("colours").append(...Object.keys(tables).map((name) => element("option", {}, name)));
byId("boxes").value = page.boxes ? "class" : "off";
const segmented = page.items.some((item) => item.views.some((view) => view.segments));
byId("pixels").closest("label").hidden = !segmented;
document.body.dataset.pixels = byId("pixels").value = segmented ? "predicted" : "map";
byId("cards").append(...cards.map((card) => card.node));

byId("filters").addEventListener("click", (event) => {
  state.filter = event.target.closest("button")?.value ?? state.filter;
  update();
});
byId("class").addEventListener("change", (event) => {
  state.class = event.target.value === "" ? null : Number(event.target.value);
  if (state.class !== null) for (const card of cards) card.select(state.class);
  update();
});
byId("opacity").addEventListener("input", (event) => setOpacity(event.target.value));
byId("contour").addEventListener("change", (event) => document.body.classList.toggle("contour", event.target.checked));
byId("pixels").addEventListener("change", (event) => { document.body.dataset.pixels = event.target.value; });
for (const id of ["boxes", "colours"]) byId(id).addEventListener("change", redraw);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=checkbox]), select");
  if (event.ctrlKey || event.metaKey || event.altKey || typing || !(event.key in KEYS)) return;
  KEYS[event.key]();
  event.preventDefault();
});

setOpacity(100 * page.opacity);
update();
redraw();

// Maps are painted when a card first comes near the window: a page of hundreds opens at once.
const nearby = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((one) => one.isIntersecting)) {
    const card = cards.find(({ node }) => node === entry.target);
    card.visible = true;
    card.draw();
    nearby.unobserve(entry.target);
  }
}, { rootMargin: "600px" });
for (const card of cards) nearby.observe(card.node);
