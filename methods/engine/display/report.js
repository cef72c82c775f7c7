// Writes the report of a comparison: headline figures, curves, plots, classes, images, and how it was made.

const SHAPES = ["", "7 4", "2 3", "10 3 2 3"]; // of lines: a dash for each split
const colourOf = (run) => `var(--run${run % 6})`;
const MARKS = { better: "\u25b2 better", worse: "\u25bc worse", differs: "\u2260 differs", unsure: "not sure", "": "" };

/** A name with the colour of its run. */
function runName(name, run) {
  const dot = element("i", { className: "run", ariaHidden: "true" });
  dot.style.setProperty("--colour", colourOf(run));
  return element("span", {}, dot, name);
}

function verdictNode(verdict) {
  return verdict ? element("span", { className: verdict }, MARKS[verdict]) : "";
}

// Headline figures ---------------------------------------------------------------------------------------------------

const BETTER_WAY = { higher: "higher is better", lower: "lower is better" };

function headlineFigure(row) {
  const head = element("h2", { title: row.words }, row.measure,
    element("small", {}, [row.split, BETTER_WAY[row.better]].filter(Boolean).join(" \u00b7 ")));
  const cells = row.cells.flatMap((cell, place) => {
    const [value, moved] = [cell.text.split(" (")[0], cell.text.includes(" (") ? cell.text.slice(cell.text.indexOf(" (") + 2, cell.text.lastIndexOf(")")) : ""];
    const change = moved ? [element("dd", { className: "moved" }, `${moved} `, verdictNode(cell.verdict))] : [];
    return [element("dt", {}, runName(page.columns[place], place)), element("dd", {}, value), ...change];
  });
  return element("div", { className: "headline-figure" }, head, element("dl", {}, ...cells));
}

function measuresTable(rows, caption) {
  return table(caption, [
    { name: "Measure", head: true, sort: (row) => row.measure,
      cell: (row) => element("span", {}, row.measure, element("small", {}, [row.words, BETTER_WAY[row.better]].filter(Boolean).join("; "))) },
    ...page.columns.map((name, place) => ({
      name, number: true, sort: (row) => row.cells[place].value,
      cell: (row) => element("span", {}, row.cells[place].text, element("small", {}, verdictNode(row.cells[place].verdict))),
    })),
  ], rows);
}

function measuresSection() {
  const splits = [...new Set(page.lines.map((line) => line.split))];
  const tables = splits.flatMap((split) => [title(split || "of all splits"),
    measuresTable(page.lines.filter((line) => line.split === split), `Measures of ${split || "all splits"}`)]);
  section("measures", "Measures", paragraph("Differences are to ", element("b", {}, page.columns[0]), ", with their 95 % interval."),
    element("details", {}, element("summary", {}, `All ${page.lines.length} figures`), ...tables,
      ...page.aid.map((text) => paragraph(text))));
}

// Charts -------------------------------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";

function shape(tag, properties = {}, text = "") {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}

/** Round numbers from low to high, some five of them. */
function ticks(low, high) {
  const rough = (high - low || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) found.push(Number(value.toPrecision(6)));
  return found;
}

/** The ends of an axis on which all values lie, with some room. */
function ends(values, { least = -Infinity, most = Infinity } = {}) {
  const known = values.filter((value) => value !== null && value !== undefined);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const room = 0.08 * (high - low) || Math.max(0.05 * Math.abs(high), 0.02);
  return [Math.max(least, low - room), Math.min(most, high + room)];
}

/** Axes on which `draw(x, y)` puts its shapes: x and y turn values into places. */
function chart(caption, words, [left, right], [low, high], xName, yName, draw) {
  const [width, height, side, foot] = [360, 250, 40, 36];
  const x = (value) => side + (value - left) / (right - left || 1) * (width - side - 10);
  const y = (value) => height - foot - (value - low) / (high - low || 1) * (height - foot - 16);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  svg.setAttribute("aria-label", `${caption}: ${words}`);
  for (const value of ticks(low, high)) {
    svg.append(shape("line", { class: "grid", x1: side, x2: width - 10, y1: y(value), y2: y(value) }),
      shape("text", { x: side - 5, y: y(value) + 4, "text-anchor": "end" }, value));
  }
  for (const value of ticks(left, right)) svg.append(shape("text", { x: x(value), y: height - foot + 15, "text-anchor": "middle" }, value));
  svg.append(shape("text", { x: (side + width) / 2, y: height - 4, "text-anchor": "middle" }, xName), shape("text", { x: 2, y: 9 }, yName));
  svg.append(...draw(x, y));
  return element("figure", { className: "chart" }, element("figcaption", {}, caption), svg);
}

const coloured = (node, run) => {
  node.style.setProperty("--colour", colourOf(run));
  return node;
};

/** Lines over epochs: a colour for each run, a dash for each split. */
function curvesChart(caption, tables, yName) {
  const splits = [...new Set(tables.flatMap(({ splits: own }) => Object.keys(own)))];
  const lines = tables.flatMap(({ splits: own }, run) => Object.entries(own).map(([split, points]) => ({ run, split, points })));
  const points = lines.flatMap((line) => line.points);
  if (!points.length) return null;
  const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
  const last = lines.map(({ run, split, points: own }) => `${tables[run].run} ${split} ${own.at(-1)[1].toFixed(1)}`).join(", ");
  const figure = chart(caption, `at the end ${last}`, [Math.min(...xs), Math.max(...xs)], ends(ys), "epoch", yName, (x, y) =>
    lines.flatMap(({ run, split, points: own }) => [
      coloured(shape("polyline", { class: "run", points: own.map(([a, b]) => `${x(a)},${y(b)}`).join(" "),
        "stroke-dasharray": SHAPES[splits.indexOf(split) % SHAPES.length] }), run),
      coloured(shape("circle", { class: "dot", cx: x(own.at(-1)[0]), cy: y(own.at(-1)[1]), r: 3 }), run)]));
  const keys = splits.map((split, place) => {
    const line = shape("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" });
    line.append(shape("line", { x1: 0, x2: 26, y1: 4, y2: 4, stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": SHAPES[place % SHAPES.length] }));
    return element("li", {}, line, split);
  });
  figure.append(element("ul", { className: "keys" }, ...keys));
  return figure;
}

const runKeys = () => element("ul", { className: "keys" }, ...page.runs.map((name, run) => element("li", {}, runName(name, run))));

function curvesSection() {
  const charts = [
    curvesChart(`${page.measure} over epochs`, page.curves, page.measure),
    curvesChart("What is lost on the other splits", page.gaps, `${page.measure} lost`),
    curvesChart("Attention on the object", page.looks, "area matched"),
  ].filter(Boolean);
  if (charts.length) section("curves", "While they learned", runKeys(), element("div", { className: "charts" }, ...charts));
}

function scatterChart({ split, points }) {
  const xs = ends(points.flatMap((one) => [one.x, ...(one.xs ?? [])]), { least: 0, most: 1 });
  const ys = ends(points.flatMap((one) => [one.y, ...(one.ys ?? [])]), { least: 0, most: 100 });
  const words = points.map((one) => `${page.runs[one.run]} ${one.y.toFixed(1)} at ${one.x.toFixed(3)}`).join(", ");
  return chart(split, words, xs, ys, "attention on the object", page.chosen.metric, (x, y) => points.flatMap((one) => {
    const late = x(one.x) > 220;
    const reach = [];
    if (one.xs) reach.push(shape("line", { class: "reach", x1: x(one.xs[0]), x2: x(one.xs[1]), y1: y(one.y), y2: y(one.y) }));
    if (one.ys) reach.push(shape("line", { class: "reach", x1: x(one.x), x2: x(one.x), y1: y(one.ys[0]), y2: y(one.ys[1]) }));
    return [...reach, shape("circle", { class: "dot", cx: x(one.x), cy: y(one.y), r: 5 }),
      shape("text", { class: "name", x: x(one.x) + (late ? -8 : 8), y: y(one.y) - 7, "text-anchor": late ? "end" : "start" }, page.runs[one.run]),
    ].map((node) => coloured(node, one.run));
  }));
}

function scatterSection() {
  if (!page.scatter.length) return;
  section("attention", "Accuracy against attention", paragraph("Up is more accurate, right is more of the attention on the object. ",
    "Lines are 95 % intervals over images. Axes show the part where the runs lie."),
  element("div", { className: "charts" }, ...page.scatter.map(scatterChart)));
}

/** Share of right answers over the score, with how many samples each score has. */
function reliabilityChart({ run, ece, bins, samples }) {
  const known = bins.filter((bin) => bin.samples);
  const most = Math.max(...known.map((bin) => bin.samples));
  return chart(page.runs[run], `expected calibration error ${(100 * ece).toFixed(1)} %`, [0, 1], [0, 1], "score", "share that is right", (x, y) => [
    ...known.map((bin) => shape("rect", { class: "share", x: x(bin.from) + 1, width: x(bin.to) - x(bin.from) - 2,
      y: y(0.3 * bin.samples / most), height: y(0) - y(0.3 * bin.samples / most) })),
    shape("line", { class: "even", x1: x(0), y1: y(0), x2: x(1), y2: y(1) }),
    shape("polyline", { class: "run", points: known.map((bin) => `${x(bin.mean_score)},${y(bin.share_right)}`).join(" ") }),
    ...known.map((bin) => shape("circle", { class: "dot", cx: x(bin.mean_score), cy: y(bin.share_right), r: 3 })),
    shape("text", { x: x(0.03), y: y(0.93) }, `expected calibration error ${(100 * ece).toFixed(1)} % of ${samples.toLocaleString("en")}`),
  ].map((node) => coloured(node, run)));
}

function calibrationSection() {
  if (!page.calibration.length) return;
  section("calibration", `Are scores probabilities? ${page.calibration[0].split}`,
    paragraph("On the dashed line a score of 0.8 is right in 80 of 100 cases; below it the model is too sure. Bars count the samples of each score."),
    element("div", { className: "charts" }, ...page.calibration.map(reliabilityChart)));
}

// Classes and images -------------------------------------------------------------------------------------------------

function classesSection() {
  const rows = page.by_class;
  if (!rows.length) return;
  const figures = rows.flatMap((row) => row.changes.filter(Boolean).map((change) => changeFigure(change)));
  const axes = figures.length ? axis(figures) : [-1, 1];
  section("classes", `Classes on ${page.chosen.hard}`, paragraph("Average precision of each class; differences on the same images, with 95 % intervals."), table("Classes", [
    { name: "Class", head: true, sort: (row) => row.name, cell: (row) => row.name },
    { name: "Images", number: true, sort: (row) => row.images, first: -1, cell: (row) => row.images.toLocaleString("en") },
    ...page.runs.map((name, run) => ({ name, number: true, sort: (row) => row.values[run],
      cell: (row) => (row.values[run] === null ? "\u2013" : row.values[run].toFixed(1)) })),
    ...page.runs.slice(1).map((name, run) => ({ name: `${name} \u2212 ${page.runs[0]}`, sort: (row) => row.changes[run]?.difference ?? null, first: -1,
      cell: (row) => (row.changes[run] ? figureNode(changeFigure(row.changes[run]), axes) : "\u2013") })),
  ], rows));
}

const changeFigure = ({ difference, ci }) => ({ value: difference, ci, chance: 0, form: "number" });

/** An image under each run, with the map of one class, and what each says of it. */
function exampleNode({ image, label, says }) {
  const item = page.pictures[image];
  const views = item.views.map((view, run) => {
    const stage = stageOf({ ...item, boxes: item.boxes.filter((box) => box.label === label) }, view.frame,
      `${item.name}, with the map of ${page.runs[run]} for ${page.classes[label]}`);
    const score = view.scores[label];
    return element("div", {}, stage, element("p", { className: "of" }, runName(page.runs[run], run), element("br"),
      score === undefined ? "" : `score ${score.toFixed(2)}`));
  });
  const truth = item.true.includes(label) ? "a true class" : "not a true class";
  const known = item.true.map((one) => page.classes[one]).join(", ");
  const node = element("figure", { className: "example" }, element("div", { className: "views" }, ...views),
    element("figcaption", {}, element("b", {}, `Maps of ${page.classes[label]}, ${truth}. `), says, element("br"), `${item.name}; true: ${known || "nothing"}`));
  return painted(node, item.views.map((view) => view.maps[label] ?? Object.values(view.maps)[0]));
}

function temptedSection() {
  if (!page.tempted.length) return;
  const share = (value) => `${Math.round(100 * value)} %`;
  section("suggested", `What suggests a class that is not there, on ${page.chosen.hard}`, paragraph(
    "Images that show what came with a class in training, but not the class: how often each run names the class all the same, and in how many images that show neither."), table("What suggests what", [
    { name: "Shown", head: true, cell: (row) => element("span", {}, row.thing, element("small", {},
      `${share(row.share)} of the training images with it had ${page.classes[row.label]}`)) },
    { name: "Suggests", cell: (row) => page.classes[row.label] },
    { name: "Images", number: true, cell: (row) => row.images.toLocaleString("en") },
    ...page.runs.map((name, run) => ({ name: `Named by ${name}`, number: true,
      cell: (row) => element("span", {}, share(row.alone[run]), element("small", {}, `${share(row.neither[run])} without either`)) })),
  ], page.tempted), element("div", { className: "pictures" }, ...page.tempted
    .filter((row) => page.pictures[row.image].views.some((view) => view.maps[row.label]))
    .map((row) => exampleNode({ image: row.image, label: row.label, says: `${row.thing} is there.` }))));
}

function worstSection() {
  if (page.left_out) section("images", "Images", paragraph(page.left_out));
  if (!page.worst.length) return;
  section("worst", `Worst cases on ${page.chosen.hard}`, paragraph("The images on which all runs together err most, with the maps of the class that is worst. ",
    "A map that is 0 everywhere says so: no place speaks for the class."),
  element("div", { className: "pictures" }, ...page.worst.map(exampleNode)));
}

// How it was made ----------------------------------------------------------------------------------------------------

function plainTable(caption, rows) {
  return table(caption, [
    { name: "", head: true, cell: (row) => row[0] },
    ...page.runs.map((name, run) => ({ name, plain: true, cell: (row) => row[run + 1] })),
  ], rows);
}

function madeSection() {
  section("made", "How it was made", title("Where the recipes differ"),
    page.recipe.length ? plainTable("Where the recipes differ", page.recipe) : paragraph("Nowhere."),
    title("On what"), plainTable("Environment", page.environment),
    title("To make it again"), ...page.commands.map((text) => element("code", { className: "command" }, text)));
}

if (page.four.length) {
  byId("answer").append(element("div", { id: "four" }, ...page.four.map(headlineFigure)));
}
for (const write of [measuresSection, curvesSection, temptedSection, scatterSection, calibrationSection, classesSection,
  worstSection, madeSection]) write();
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((node) => { node.open = true; }));
