// What is read from top to bottom stands on: sections, figures with their intervals, tables, and images with maps.

const heat = tables.inferno;
const main = document.querySelector("main");
const ROWS = 100; // of a long table that are drawn at once

// Figures ------------------------------------------------------------------------------------------------------------

const rounded = (value, digits) => value.toFixed(digits).replace("-", "\u2212");

/** A number as it is written: a share as per cent. */
function written(value, form, digits = 0) {
  if (value === null) return "not defined";
  return form === "number" ? rounded(value, 2) : `${rounded(100 * value, digits)}\u00a0%`;
}

/** Decimals that a figure's per cent need: one where it is near an end, or known to less than a per cent. */
function decimals(figure) {
  const values = [figure.value, ...(figure.ci ?? [])].filter((value) => value !== null);
  const near = values.every((value) => value <= 1) && values.some((value) => [value, 1 - value].some((rest) => rest > 0 && rest < 0.01));
  return near || (figure.ci && figure.ci[1] - figure.ci[0] < 0.02 && figure.ci[1] > figure.ci[0]) ? 1 : 0;
}

const valueOf = (figure) => written(figure.value, figure.form, decimals(figure));

function range(figure) {
  if (!figure.ci) return figure.value === null ? "" : "no interval";
  const [low, high] = figure.ci.map((edge) => written(edge, figure.form, decimals(figure)));
  return `${low.replace("\u00a0%", "")} to ${high}`;
}

/** The ends of an axis on which all values of a column lie: 0 to 1, further where they are, or even around 0. */
function axis(figures, limits = []) {
  const values = figures.flatMap((one) => (one ? [one.value, one.chance, ...(one.ci ?? [])] : [])).concat(limits);
  const known = values.filter((value) => value !== null && value !== undefined);
  if (known.every((value) => value >= 0)) return [0, Math.max(1, ...known)];
  const far = Math.max(...known.map(Math.abs));
  return [-far, far];
}

function plot(figure, [low, high], limit = null) {
  const place = (value) => percent(Math.min(Math.max((value - low) / (high - low), 0), 1));
  const node = element("div", { className: "plot", ariaHidden: "true" });
  const mark = (className, value) => {
    if (value === null || value === undefined) return;
    node.append(Object.assign(element("i", { className })));
    node.lastChild.style.left = place(value);
  };
  if (figure.ci) {
    mark("reach", figure.ci[0]);
    node.lastChild.style.right = `calc(100% - ${place(figure.ci[1])})`;
  }
  mark("chance", figure.chance);
  mark("limit", limit);
  mark("dot", figure.value);
  return node;
}

/** Value, interval and their drawing. */
function figureNode(figure, ends, limit = null) {
  if (!figure) return element("span", { className: "soft" }, "\u2013");
  const node = element("div", { className: "figure" }, element("b", {}, valueOf(figure)),
    element("span", {}, range(figure)));
  if (figure.value !== null) node.append(plot(figure, ends, limit));
  return node;
}

const BETTER = { higher: "higher is better \u2191", lower: "lower is better \u2193" };
const several = (n, unit) => `${n.toLocaleString("en")} ${n === 1 ? unit.slice(0, -1) : unit}`;

// Tables -------------------------------------------------------------------------------------------------------------

/**
 * A table whose rows are drawn as they are needed.
 * A column: name, cell(row) -> text or node, optionally number, sort(row) -> what it is sorted by, head (of the row).
 */
class Table {
  constructor(caption, columns, rows, { few = () => false, first = ROWS } = {}) {
    Object.assign(this, { columns, few, first, shown: rows, drawn: 0, sorted: null });
    const heads = columns.map((column, place) => this.head(column, place));
    this.body = element("tbody");
    const table = element("table", { className: "cards" }, element("caption", { className: "hidden-text" }, caption),
      element("thead", {}, element("tr", {}, ...heads)), this.body);
    this.heads = heads;
    this.more = element("button", { type: "button", className: "more", onclick: () => this.draw() });
    this.node = element("div", { className: "wide", tabIndex: 0, role: "region", ariaLabel: caption }, table, this.more);
    this.show(rows);
  }

  head(column, place) {
    const name = column.sort
      ? element("button", { type: "button", onclick: () => this.sort(place) }, column.name) : column.name;
    const node = element(column.name ? "th" : "td", { className: column.number ? "number" : "" }, name);
    if (column.name) node.scope = "col";
    if (column.note) node.append(element("small", {}, column.note));
    if (column.sort) node.ariaSort = "none";
    return node;
  }

  /** Sort by a column: first the way in which the rows that need a look stand above, then the other one. */
  sort(place) {
    const column = this.columns[place];
    const again = this.sorted?.place === place ? -this.sorted.way : column.first ?? 1;
    this.sorted = { place, way: again };
    this.heads.forEach((head, one) => {
      if (this.columns[one].sort) head.ariaSort = one !== place ? "none" : again > 0 ? "ascending" : "descending";
    });
    this.show(this.shown);
  }

  show(rows) {
    this.shown = [...rows];
    if (this.sorted) {
      const { sort } = this.columns[this.sorted.place];
      const order = (one, other) => {
        const a = sort(one), b = sort(other);
        if (a === null || b === null) return (a === null) - (b === null); // what is not defined stands last
        return this.sorted.way * (typeof a === "string" ? a.localeCompare(b) : a - b);
      };
      this.shown.sort(order);
    }
    this.body.replaceChildren();
    this.drawn = 0;
    this.draw(this.first);
  }

  draw(count = ROWS) {
    const rows = this.shown.slice(this.drawn, this.drawn + count);
    this.body.append(...rows.map((row) => element("tr", { className: this.few(row) ? "few" : "" },
      ...this.columns.map((column) => this.cell(column, row)))));
    this.drawn += rows.length;
    const left = this.shown.length - this.drawn;
    this.more.hidden = left === 0;
    const others = `the other ${left.toLocaleString("en")}`;
    this.more.textContent = left > ROWS ? `Show ${ROWS} of ${others}` : `Show ${others}`;
  }

  cell(column, row) {
    if (column.head) return element("th", { scope: "row" }, column.cell(row));
    const node = element("td", { className: column.number ? "number" : column.plain ? "plain" : "" }, column.cell(row));
    node.dataset.name = column.name;
    return node;
  }
}

const table = (caption, columns, rows, options) => new Table(caption, columns, rows, options).node;

// Images -------------------------------------------------------------------------------------------------------------

/** A figure whose frames get their maps when it comes near the window. */
function painted(node, maps) {
  nearby.observe(node);
  node.paint = () => {
    node.querySelectorAll(".frame").forEach((stage, place) => drawMap(stage, maps[place], heat));
    node.paint = () => {};
  };
  return node;
}

// Maps are painted when they first come near the window, and all of them before the page is printed.
const nearby = new IntersectionObserver((entries) => {
  for (const { target } of entries.filter((one) => one.isIntersecting)) {
    target.paint();
    nearby.unobserve(target);
  }
}, { rootMargin: "600px" });
window.addEventListener("beforeprint", () => document.querySelectorAll(".example").forEach((node) => node.paint()));

// Sections -----------------------------------------------------------------------------------------------------------

const paragraph = (...words) => element("p", {}, ...words);
const title = (text) => element("h3", {}, text);

function section(id, heading, ...parts) {
  const shown = parts.filter(Boolean);
  main.append(element("section", { id }, element("h2", {}, heading), ...shown));
  byId("contents").append(element("a", { href: `#${id}` }, heading));
}

function definitions(pairs) {
  const known = pairs.filter(([, text]) => text);
  return element("dl", { className: "facts" },
    ...known.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
}
