// Draws the gallery: cards, filters, and the attention maps of the class that is looked at.

const state = { filter: "all", class: null };

// Truth and verdicts -------------------------------------------------------------------------------------------------

/** What a run makes of a class on an image: found, missed, added or refused; "" where that cannot be said. */
function outcome(item, view, label) {
  if (item.true === null || item.unknown.includes(label)) return "";
  const predicted = view.predicted.includes(label);
  return item.true.includes(label) ? (predicted ? "found" : "missed") : predicted ? "added" : "refused";
}

/** The labels that a run misses and adds; null where nobody knows the true ones. */
function errors(item, view) {
  if (item.true === null) return null;
  const of = (kind, labels) => labels.filter((label) => outcome(item, view, label) === kind);
  return { missed: of("missed", item.true), added: of("added", view.predicted) };
}

/** Whether a run is right on an image, or on one class of it; null where that cannot be said. */
function isRight(item, view, label = null) {
  if (label !== null) return { found: true, refused: true, missed: false, added: false }[outcome(item, view, label)] ?? null;
  const wrong = errors(item, view);
  return wrong && wrong.missed.length + wrong.added.length === 0;
}

/** What is counted of an image: its labels. */
function verdictOf(item, view) {
  const wrong = errors(item, view);
  if (wrong === null) return "";
  const parts = ["missed", "added"].filter((kind) => wrong[kind].length).map((kind) => `${wrong[kind].length} ${kind}`);
  if (parts.length) return `\u2715 ${parts.join(", ")}`;
  return item.true.length > 1 ? `\u2713 all ${item.true.length} labels` : "\u2713 right";
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

// Orders -------------------------------------------------------------------------------------------------------------

const chosen = (item, labels) => (state.class === null ? labels : labels.filter((label) => label === state.class));

/** The lowest score that a run gives to a true class. */
function lowestScore(item) {
  const labels = chosen(item, item.true ?? item.labels);
  return Math.min(...labels.flatMap((label) => item.views.map((view) => view.scores[label] ?? 1)));
}

/** How far the runs' scores of one class lie apart, at most. */
function widestDifference(item) {
  const widths = chosen(item, item.labels).map((label) => {
    const scores = item.views.map((view) => view.scores[label]).filter((score) => score !== undefined);
    return Math.max(...scores) - Math.min(...scores);
  });
  return Math.max(0, ...widths);
}

/** The share of a map, as it is drawn, that lies off the boxes of its class. */
function offObject(item, view, label) {
  const map = view.maps[label];
  const values = bytes(map.data);
  const [left, top, width, height] = view.frame;
  const boxes = item.boxes.filter((box) => box.label === label);
  const overlap = (start, length, from, extent) => Math.max(0, Math.min(start + length, from + extent) - Math.max(start, from));
  let inside = 0, whole = 0;
  values.forEach((value, place) => {
    const [w, h] = [width / map.width, height / map.height];
    const [x, y] = [left + (place % map.width) * w, top + Math.floor(place / map.width) * h];
    const covered = boxes.reduce((sum, box) => sum + overlap(x, w, box.x, box.w) * overlap(y, h, box.y, box.h), 0);
    inside += value * Math.min(1, covered / (w * h));
    whole += value;
  });
  return whole ? 1 - inside / whole : 1;
}

function mostOffObject(item) {
  const labels = chosen(item, item.labels.filter((label) => item.boxes.some((box) => box.label === label)));
  return Math.max(-1, ...labels.flatMap((label) => item.views.map((view) => offObject(item, view, label))));
}

const hasBoxes = page.items.some((item) => item.boxes.length);
const ORDERS = {
  given: ["as they come", () => 0, true],
  score: ["lowest true score", lowestScore, page.items.some((item) => item.true !== null)],
  difference: ["largest difference of runs", (item) => -widestDifference(item), page.runs.length > 1],
  off: ["most off the object", (item) => -mostOffObject(item), hasBoxes],
};

// Cards --------------------------------------------------------------------------------------------------------------

function scoreRow(item, view, label) {
  const kind = outcome(item, view, label);
  const name = element("span", { className: "name" }, page.classes[label]);
  const bar = element("span", { className: "bar", ariaHidden: "true" }, element("i"));
  if (page.threshold !== null) bar.append(element("b"));
  const row = element("li", { className: kind }, name, element("small", {}, kind), bar, view.scores[label].toFixed(2));
  row.style.setProperty("--score", view.scores[label]);
  return row;
}

function legendRow([colour, words]) {
  const swatch = element("i");
  swatch.style.background = colour;
  return element("li", {}, swatch, words);
}

function stageWithPixels(item, view) {
  const stage = stageOf(item, view.frame);
  for (const kind of ["predicted", "labelled"]) {
    const pixels = view.segments?.[kind];
    if (pixels) stage.append(element("img", { className: `pixels ${kind}`, src: pixels, alt: `${kind} classes` }));
  }
  return stage;
}

function viewOf(item, view, run) {
  const right = isRight(item, view);
  const verdict = right === null ? "" : right ? "right" : "wrong";
  const listed = Object.keys(view.scores).map(Number).sort((one, other) => view.scores[other] - view.scores[one]);
  const enlarge = element("button", { type: "button", className: "enlarge", ariaLabel: `Enlarge ${item.name}, ${run.name}` }, "\u2922");
  return element("figure", {}, element("div", { className: "window" }, stageWithPixels(item, view), enlarge), element("figcaption", {},
    element("div", { className: "verdict" }, element("b", {}, run.name), element("span", { className: verdict }, verdictOf(item, view))),
    element("p", { className: "figure" }),
    element("ul", { className: "legend" }, ...(view.segments?.legend ?? []).map(legendRow)),
    element("ul", { className: "scores" }, ...listed.map((label) => scoreRow(item, view, label)))));
}

/** Paint a map by the scale that is chosen: its own, or the highest of the image's maps of the same kind. */
function paintMap(stage, item, run, label) {
  const view = item.views[run];
  let scaled = null;
  if (byId("scale").value === "shared") {
    const alike = item.views.filter((_, other) => page.runs[other].map === page.runs[run].map);
    const top = Math.max(...alike.flatMap((one) => Object.values(one.ranges).map(([, high]) => high)), Number.MIN_VALUE);
    const [low, high] = view.ranges[label];
    scaled = (value) => Math.min(1, Math.max(0, (low + value * (high - low)) / top));
  }
  drawMap(stage, view.maps[label], tables[byId("colours").value], scaled);
  stage.closest(".stage").querySelector("img").alt = `${item.name}, with the map of ${page.runs[run].name} for ${page.classes[label]}`;
}

function showBoxes(node, label) {
  const boxes = byId("boxes").value;
  for (const box of node.querySelectorAll(".box")) {
    box.hidden = boxes === "off" || (boxes === "class" && Number(box.dataset.label) !== label);
  }
}

/** An image's card: its name always, the rest while it is near the window, or printed. */
class Card {
  constructor(item, place) {
    this.item = item;
    this.place = place;
    this.filled = false;
    this.selected = item.opens;
    this.node = element("article", { className: "card", tabIndex: -1 }, element("h2", { title: item.name }, item.name));
    this.node.dataset.name = item.name;
    this.node.style.minHeight = `${Math.round(250 * item.height / item.width) + 190}px`;
    this.node.addEventListener("change", (event) => this.select(Number(event.target.value)));
    this.node.addEventListener("click", (event) => {
      const figure = event.target.closest(".window")?.closest("figure");
      if (figure) zoom.open(this, [...this.node.querySelectorAll("figure")].indexOf(figure));
    });
  }

  fill() {
    if (this.filled) return;
    const { item } = this;
    const views = element("div", { className: "views" }, ...item.views.map((view, run) => viewOf(item, view, page.runs[run])));
    this.node.append(views, element("fieldset", { className: "chips" }, element("legend", {}, "Attention for"),
      ...item.labels.map((label) => this.chip(label))), element("p", { className: "suggested" }));
    this.filled = true;
    this.draw();
    this.node.style.minHeight = "";
  }

  empty() {
    if (!this.filled || this.node.contains(document.activeElement)) return;
    this.node.style.minHeight = `${this.node.offsetHeight}px`;
    this.node.replaceChildren(this.node.firstChild);
    this.filled = false;
  }

  chip(label) {
    const input = element("input", { type: "radio", name: `class-${this.place}`, value: label, checked: label === this.selected });
    const kinds = [...new Set(this.item.views.map((view) => outcome(this.item, view, label)))];
    const isTrue = this.item.true?.includes(label);
    const isAdded = kinds.includes("added");
    const className = isTrue ? "true" : isAdded ? "added" : "";
    return element("label", { className, title: isTrue ? "true label" : isAdded ? "added: not a true label" : "" },
      input, element("span", {}, page.classes[label]));
  }

  select(label) {
    if (!this.item.labels.includes(label)) return;
    this.selected = label;
    this.draw();
  }

  draw() {
    if (!this.filled) return;
    this.node.querySelector(`.chips input[value="${this.selected}"]`).checked = true;
    showBoxes(this.node, this.selected);
    this.node.querySelectorAll(".figure").forEach((figure, run) => {
      figure.textContent = this.item.views[run].figures[this.selected] ?? "";
    });
    const words = this.item.suggested[this.selected];
    this.node.querySelector(".suggested").textContent = words ? `${page.classes[this.selected]}: ${words}` : "";
    this.node.querySelectorAll(".frame").forEach((stage, run) => paintMap(stage, this.item, run, this.selected));
  }
}

const cards = page.items.map((item, place) => new Card(item, place));

// One image, large ---------------------------------------------------------------------------------------------------

const zoom = {
  node: byId("zoom"),

  open(card, run) {
    Object.assign(this, { card, run });
    this.draw();
    if (!this.node.open) this.node.showModal();
  },

  draw() {
    const { card: { item, selected }, run } = this;
    const view = item.views[run];
    const stage = stageWithPixels(item, view);
    const score = view.scores[selected];
    const words = [outcome(item, view, selected), score === undefined ? "" : `score ${score.toFixed(2)}`, item.suggested[selected]];
    this.node.replaceChildren(
      element("p", {}, element("b", {}, `${page.runs[run].name}: ${page.classes[selected]}`), " \u00b7 ",
        [...words.filter(Boolean), item.name].join(" \u00b7 ")),
      stage,
      element("button", { type: "button", className: "close", ariaLabel: "Close", onclick: () => this.node.close() }, "\u00d7"));
    stage.style.width = `min(92vw, ${Math.round(82 * item.width / item.height)}vh)`;
    showBoxes(stage, selected);
    paintMap(stage.querySelector(".frame"), item, run, selected);
  },

  /** The next image, class or run. */
  image(direction) {
    const shown = cards.filter((card) => !card.node.hidden).sort((one, other) => one.position - other.position);
    const card = shown[shown.indexOf(this.card) + direction];
    if (card) this.open(card, this.run);
  },
  turn(direction) {
    turn(this.card, direction);
    this.draw();
  },
  keys: {
    j: () => zoom.image(1),
    k: () => zoom.image(-1),
    ArrowRight: () => zoom.turn(1),
    ArrowLeft: () => zoom.turn(-1),
    m: () => zoom.node.classList.toggle("plain"),
    r: () => zoom.open(zoom.card, (zoom.run + 1) % page.runs.length),
  },
};
zoom.node.addEventListener("click", (event) => { if (event.target === zoom.node) zoom.node.close(); });
zoom.node.addEventListener("close", () => zoom.card.node.focus());

// The page -----------------------------------------------------------------------------------------------------------

function definitions(pairs) {
  return element("dl", {}, ...pairs.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
}

/** The recipe's fields in which the runs differ: what a comparison is about. */
function differences(run) {
  const names = Object.keys(run.recipe).filter((name) => page.runs.some((other) => other.recipe[name] !== run.recipe[name]));
  return names.map((name) => `${name} ${run.recipe[name]}`).join(", ");
}

function runPanel(run) {
  return element("section", { className: "run" },
    element("h2", {}, run.name, element("span", {}, run.verdict)),
    definitions([["Map", run.map], ["Differs in", differences(run)]].filter(([, text]) => text)),
    Object.assign(definitions(Object.entries(run.figures)), { className: "figures" }),
    element("details", {}, element("summary", {}, "Method, checkpoint, images and recipe"),
      definitions([["Method", run.method], ["Checkpoint", run.checkpoint], ["Normalised", run.normalisation],
        ["Images", run.images]]),
      definitions(Object.entries(run.recipe))));
}

/** Put the cards in the order that is chosen. */
function arrange() {
  const key = ORDERS[byId("sort").value][1];
  const keys = new Map(cards.map((card) => [card, key(card.item)]));
  const sorted = [...cards].sort((one, other) => keys.get(one) - keys.get(other) || one.place - other.place);
  sorted.forEach((card, position) => { card.position = position; });
  byId("cards").append(...sorted.map((card) => card.node));
}

function update() {
  const text = byId("search").value.trim().toLowerCase();
  let shown = 0;
  for (const card of cards) {
    card.node.hidden = !card.item.name.toLowerCase().includes(text) || !passes(card.item, state.filter, state.class);
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
  const shown = [...byId("cards").children].filter((node) => !node.hidden);
  const place = shown.indexOf(document.activeElement.closest?.(".card"));
  const next = shown[place < 0 ? 0 : Math.min(Math.max(place + direction, 0), shown.length - 1)];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

const focused = () => cards.find(({ node }) => node === document.activeElement.closest?.(".card"));

function turn(card, direction) {
  if (!card) return;
  const labels = card.item.labels;
  card.select(labels[(labels.indexOf(card.selected) + direction + labels.length) % labels.length]);
}

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  ArrowRight: () => turn(focused(), 1),
  ArrowLeft: () => turn(focused(), -1),
  z: () => { if (focused()) zoom.open(focused(), 0); },
  "/": () => byId("search").focus(),
  s: () => {
    if (byId("scale").closest("label").hidden) return;
    byId("scale").selectedIndex = 1 - byId("scale").selectedIndex;
    redraw();
  },
  "[": () => setOpacity(Number(byId("opacity").value) - 5),
  "]": () => setOpacity(Number(byId("opacity").value) + 5),
  b: () => {
    byId("boxes").selectedIndex = (byId("boxes").selectedIndex + 1) % byId("boxes").length;
    redraw();
  },
  c: () => byId("contour").click(),
};

document.documentElement.style.setProperty("--runs", page.runs.length);
document.documentElement.style.setProperty("--threshold", percent(page.threshold ?? 0));
byId("headline").textContent = page.headline;
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
byId("scale").closest("label").hidden = page.items.some((item) => item.views.some((view) => item.labels.some((label) => !view.ranges[label])));
byId("sort").append(...Object.entries(ORDERS).filter(([, [,, possible]]) => possible)
  .map(([value, [text]]) => element("option", { value }, text)));

byId("filters").addEventListener("click", (event) => {
  state.filter = event.target.closest("button")?.value ?? state.filter;
  update();
});
byId("class").addEventListener("change", (event) => {
  state.class = event.target.value === "" ? null : Number(event.target.value);
  if (state.class !== null) for (const card of cards) card.select(state.class);
  arrange();
  update();
});
byId("search").addEventListener("input", update);
byId("sort").addEventListener("change", arrange);
byId("opacity").addEventListener("input", (event) => setOpacity(event.target.value));
byId("contour").addEventListener("change", (event) => document.body.classList.toggle("contour", event.target.checked));
byId("pixels").addEventListener("change", (event) => { document.body.dataset.pixels = event.target.value; });
for (const id of ["boxes", "colours", "scale"]) byId(id).addEventListener("change", redraw);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  const keys = zoom.node.open ? zoom.keys : KEYS;
  const typing = event.target.matches("input:not([type=checkbox]), select");
  if (event.ctrlKey || event.metaKey || event.altKey || typing || !(event.key in keys)) return;
  keys[event.key]();
  event.preventDefault();
});

setOpacity(100 * page.opacity);
arrange();
update();

// Cards are filled when they come near the window, and emptied when they are far from it again: a page of thousands
// opens at once and stays light. All are filled before the page is printed.
const NEAR = 800;
const nearby = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const card = cardOf.get(target);
    if (isIntersecting) card.fill();
    else card.empty();
  }
}, { rootMargin: `${NEAR}px` });
const cardOf = new Map(cards.map((card) => [card.node, card]));
for (const { node } of cards) nearby.observe(node);
window.addEventListener("beforeprint", () => cards.filter((card) => !card.node.hidden).forEach((card) => card.fill()));
window.addEventListener("afterprint", () => {
  for (const card of cards) {
    const { top, bottom } = card.node.getBoundingClientRect();
    if (bottom < -NEAR || top > innerHeight + NEAR) card.empty();
  }
});
