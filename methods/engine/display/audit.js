// Writes the report of an audit: each section is a heading, a line that says how to read it, and tables of figures.

const FEW = 8; // of one that is beside the point for most readers

// Figures ------------------------------------------------------------------------------------------------------------

const FAMILIES = { right: "is right", looks: "looks at", relies: "relies on", trust: "of the map" };
function counted(figure) {
  if (!figure) return "";
  const kind = element("small", { className: figure.kind === "measured" ? "" : `tag ${figure.kind}` }, figure.kind);
  return element("span", { className: "n" }, several(figure.n, figure.unit), kind);
}

function chance(figure) {
  if (!figure || figure.chance === null) return "";
  return element("span", {}, written(figure.chance, figure.form, decimals(figure)), element("small", {}, figure.chanceWords));
}

/** What a figure says, whether it is of maps or of interventions, and which way is good. */
function said(figure, words = figure.words) {
  return element("span", {}, element("span", { className: "tag" }, FAMILIES[figure.family]), " ", words,
    element("small", {}, BETTER[figure.better] ?? ""));
}

const SIGNS = { holds: "\u2713", passes: "\u2713", fails: "\u2715", undecided: "?", "not run": "\u2013" };
const stateNode = (state) => element("span", { className: `state ${state.replace(" ", "-")}` }, `${SIGNS[state]} ${state}`);

// Tables -------------------------------------------------------------------------------------------------------------

/** The columns that every table of figures has; each row has an axis of its own unless they are alike. */
function figureColumns(rows, figureOf = (row) => row, { limitOf = () => null, alike = false } = {}) {
  const shared = alike ? axis(rows.map(figureOf)) : null;
  const columns = [{
    name: "Value, 95 % interval",
    cell: (row) => figureNode(figureOf(row), shared ?? axis([figureOf(row)], [limitOf(row)]), limitOf(row)),
  }];
  if (rows.some((row) => (figureOf(row)?.chance ?? null) !== null)) columns.push({ name: "Chance", cell: (row) => chance(figureOf(row)) });
  columns.push({ name: "Measured on", cell: (row) => counted(figureOf(row)) });
  return columns;
}

// Pictures -----------------------------------------------------------------------------------------------------------

function mapView(item, label, when = "") {
  const stage = stageOf({ ...item, boxes: item.boxes.filter((box) => box.label === label) }, item.frame);
  stage.querySelector("img").alt = `${item.name}, with the map of ${page.classes[label]}`;
  const isTrue = item.true.includes(label);
  const score = item.scores[label];
  const words = [isTrue ? "true" : "not true", item.predicted.includes(label) ? "predicted" : "not predicted"];
  return element("div", {}, stage, element("p", { className: "of" },
    element("b", {}, `${when}${page.classes[label]}`), element("br"),
    `${words.join(", ")}${score === undefined ? "" : `, score ${score.toFixed(2)}`}`));
}

/** The map of an image's true class by the model before, and beside it that of the model that is audited. */
function pairNode({ image, label, says }) {
  const item = page.pictures[image];
  const views = [["before: ", { ...item, ...item.before }], ["after: ", item]];
  const node = element("figure", { className: "example" },
    element("div", { className: "pair" }, ...views.map(([when, view]) => mapView(view, label, when))),
    element("figcaption", {}, says, element("br"), item.name));
  return painted(node, views.map(([, view]) => view.maps[label]));
}

/** An image with the map of its true class, and beside it that of a class that is wrongly named, or the image alone. */
function exampleNode({ image, label, says }) {
  const item = page.pictures[image];
  const wrong = item.predicted.find((one) => !item.true.includes(one) && one !== label && item.maps[one]);
  const shown = [label, wrong].filter((one) => one !== undefined && one !== null && item.maps[one]);
  const views = shown.map((one) => mapView(item, one));
  if (views.length < 2) {
    const plain = element("img", { src: item.picture, alt: item.name, width: item.width, height: item.height });
    plain.style.height = "auto";
    views.push(element("div", {}, element("div", { className: "stage plain" }, plain),
      element("p", { className: "of" }, "without the map")));
  }
  const right = item.predicted.includes(label) && item.true.includes(label);
  const mark = item.true.length === 0 ? "" : element("span", { className: `mark ${right ? "right" : "wrong"}` },
    right ? "\u2713 right " : "\u2715 wrong ");
  const node = element("figure", { className: "example" }, element("div", { className: "pair" }, ...views),
    element("figcaption", {}, mark, says, element("br"), item.name));
  return painted(node, shown.map((one) => item.maps[one]));
}

const picturesNode = (entries, write = exampleNode) => element("div", { className: "pictures" }, ...entries.map(write));

/** Each finding under its title, with how its pictures were chosen. */
const findingsNodes = (findings, write) => findings.flatMap((finding) => [title(finding.title),
  paragraph(element("span", { className: "soft" }, `${finding.how[0].toUpperCase()}${finding.how.slice(1)}.`)),
  picturesNode(finding.examples, write)]);

// Sections -----------------------------------------------------------------------------------------------------------

function legend() {
  const sample = (figure, limit) => plot({ ci: null, value: null, chance: null, ...figure }, [0, 1], limit);
  return element("ul", { className: "legend" },
    element("li", {}, sample({ value: 0.5, ci: [0.15, 0.85] }), "value and its 95 % interval"),
    element("li", {}, sample({ chance: 0.5 }), "what chance reaches"),
    element("li", {}, sample({}, 0.5), "threshold"));
}

function trustSection({ trust }) {
  const rows = trust.entries;
  section("trust", "Can the map be trusted?", paragraph(stateNode(trust.verdict), " \u00b7 ", trust.text), rows.length ? table(
    "What was asked of the map", [
      { name: "Question", head: true, cell: (row) => element("span", {}, row.question, element("small", {}, row.rule)) },
      { name: "Answer", cell: (row) => element("span", {}, stateNode(row.verdict), element("small", {}, row.reason)) },
      ...figureColumns(rows, (row) => row.figure),
    ], rows) : null);
  if (trust.verdict !== "fails") return;
  byId("warning").hidden = false;
  byId("warning").append(element("h2", {}, "The map cannot be trusted here"), paragraph(trust.text,
    " What this page says of where the model looks may not be so; what it says of scores and of what the model relies on does not need the map."));
}

function checksSection({ checks }) {
  if (!checks.length) return;
  const from = { yours: "yours", reference: "of a reference", none: "" };
  section("checks", "Checks", paragraph("A check holds or fails only where the whole interval lies on one side of its threshold."), table(
    "Conditions", [
      { name: "Condition", head: true, cell: (row) => (row.figure
        ? element("span", {}, said(row.figure, row.says), element("small", {}, row.figure.words)) : row.says) },
      { name: "State", cell: (row) => element("div", { className: "said" }, stateNode(row.state), element("small", {}, row.reason)) },
      ...figureColumns(checks, (row) => row.figure, { limitOf: (row) => row.threshold }),
      { name: "Threshold", cell: (row) => element("span", {},
        row.threshold === null ? "none" : written(row.threshold, row.figure?.form, row.figure ? decimals(row.figure) : 0),
        element("small", {}, row.threshold_words || from[row.threshold_of])) },
    ], checks), legend());
}

function figuresSection({ figures }) {
  const rows = figures.filter((one) => one.value !== null);
  if (!rows.length) return null;
  const all = table("All figures of the whole", [
    { name: "Figure", head: true, cell: (row) => element("span", {}, said(row), element("small", {}, row.name)) },
    ...figureColumns(rows)], rows);
  return element("details", {}, element("summary", {}, `All ${rows.length} figures`), all);
}

function quadrantsSection({ quadrants, objects }) {
  if (!quadrants.length) return;
  const panel = element("div", { id: "cell-pictures", role: "status" });
  const cellNode = (cell) => {
    const drawn = cell.pictures.length;
    const node = element("button", { type: "button", className: "cell", disabled: !drawn },
      element("b", {}, cell.count.toLocaleString("en")),
      element("small", {}, `${valueOf(cell.figure)} (${range(cell.figure)})`),
      element("small", { className: "open" }, drawn ? `show ${drawn} of its pictures` : cell.count ? "no pictures on this page" : ""));
    node.setAttribute("aria-controls", "cell-pictures");
    node.ariaExpanded = "false";
    node.dataset.cell = `${cell.right}-${cell.on_object}`;
    node.onclick = () => {
      const open = node.ariaExpanded !== "true";
      for (const one of grid.querySelectorAll(".cell")) one.ariaExpanded = "false";
      node.ariaExpanded = String(open);
      panel.replaceChildren(...(open ? [title(`${cell.right ? "Right" : "Wrong"}, and ${cell.on_object
        ? "looks at the object" : "looks elsewhere"}`), paragraph(element("span", { className: "soft" },
        `${drawn} of ${several(cell.count, "objects")}, the clearest first.`)), picturesNode(cell.pictures)] : []));
      if (open) panel.scrollIntoView({ block: "nearest" });
    };
    return node;
  };
  const at = (right, onObject) => cellNode(quadrants.find((cell) => cell.right === right && cell.on_object === onObject));
  const grid = element("div", { className: "square", role: "group", ariaLabel: "Right or wrong, by where the map looks" },
    element("span", { className: "head" }), element("span", { className: "head" }, "looks at the object"),
    element("span", { className: "head" }, "looks elsewhere"),
    element("span", { className: "side" }, "right"), at(true, true), at(true, false),
    element("span", { className: "side" }, "wrong"), at(false, true), at(false, false));
  section("right-and-looking", "Right, and looking at the object?",
    paragraph(`Counts of ${several(objects, "objects")}: whether the class is named, and whether the map's focus (values of at least ${page.focus}) meets the object. Shares are of all of them, with 95 % intervals. A cell opens its pictures.`),
    grid, panel);
}

function scoresSection({ scores }) {
  if (!scores.length) return;
  section("scores", "With the object, and without",
    paragraph("The mean score of the true class when the image is changed: this is what the model relies on, whatever the map shows."),
    table("Mean score of the true class", [
      { name: "What the model is shown", head: true, cell: (row) => said(row) }, ...figureColumns(scores, undefined, { alike: true })], scores));
}

const CLASS_FIGURES = ["accuracy", "average_precision", "position_biased", "on_object", "context_only"];

/** A class as the page's JSON has it: a list, to be short. */
function classRow([name, objects, few, ...figures]) {
  const full = ([value, low, high, chance, n, form]) => ({ value, ci: low === null ? null : [low, high], chance, n, form });
  return { name, objects, few, ...Object.fromEntries(CLASS_FIGURES.map((key, place) => [key, figures[place] && full(figures[place])])) };
}

function classesSection({ rows }) {
  const classes = rows.map(classRow);
  if (!classes.length) return;
  const few = classes.filter((row) => row.few).length;
  const columns = [
    { name: "Class", head: true, sort: (row) => row.name,
      cell: (row) => element("span", {}, row.name, row.few ? element("small", {}, "too few objects to say") : "") },
    { name: "Objects", number: true, first: -1, sort: (row) => row.objects, cell: (row) => row.objects.toLocaleString("en") },
  ];
  const measures = [
    ["accuracy", "Named when there", "accuracy, higher is better", 1],
    ["average_precision", "Average precision", "higher is better", 1],
    ["position_biased", "Looks elsewhere", "position bias, lower is better", -1],
    ["on_object", "Map on the object", "share of the map, higher is better", 1],
    ["context_only", "Relies on context", "score left without the object, lower is better", -1],
  ];
  for (const [key, name, note, first] of measures) {
    const figures = classes.map((row) => row[key]).filter(Boolean);
    if (!figures.length) continue;
    const ends = axis(figures);
    columns.push({ name, note, first, sort: (row) => row[key]?.value ?? null, cell: (row) => figureNode(row[key], ends) });
  }
  const list = new Table(`${several(classes.length, "classes").replace("classe ", "class ")}, 95 % intervals`, columns, classes, { few: (row) => row.few });
  const count = element("span", { role: "status" });
  const input = element("input", { type: "search", id: "class-filter", oninput: () => {
    const rows = classes.filter((row) => row.name.toLowerCase().includes(input.value.toLowerCase()));
    list.show(rows);
    count.textContent = input.value ? `${rows.length.toLocaleString("en")} of ${classes.length.toLocaleString("en")}` : "";
  } });
  const filter = classes.length > 12
    ? element("div", { className: "filter" }, element("label", { htmlFor: "class-filter" }, "Find a class"), input, count) : null;
  section("classes", "Classes",
    paragraph("Sort by a heading. ", few ? `${several(few, "classes").replace("classe ", "class ")} in grey ${few === 1 ? "has" : "have"} too few objects to say anything. ` : "",
      "Each interval is that of one class: among many classes, some lie far out by chance."), filter, list.node);
}

function causesSection({ causes }) {
  const parts = [];
  const { pairs, groups, properties, backgrounds } = causes;
  if (pairs.length) {
    const both = axis(pairs.flatMap((row) => [row.together, row.alone]));
    const figureOf = (figure, ends) => element("div", {}, figureNode(figure, ends),
      element("small", {}, `${several(figure.n, figure.unit)}, ${figure.kind}`));
    const difference = (row) => ({ ...row.difference, chance: 0 });
    const apart = axis(pairs.map(difference));
    parts.push(title("Company"), paragraph(element("span", { className: "soft" }, "How often a class is named with and without another one that is often beside it.")), table(
      "Classes that are often together", [
        { name: "Class, and its company", head: true, cell: (row) => `${row.name}, with ${row.context}` },
        { name: "Named with company", cell: (row) => figureOf(row.together, both) },
        { name: "Named without", cell: (row) => figureOf(row.alone, both) },
        { name: "Difference", sort: (row) => row.difference.value, first: -1, cell: (row) => figureNode(difference(row), apart) },
        { name: "Sure?", cell: (row) => sureNode(row.sure) },
      ], pairs, { first: FEW }));
  }
  if (groups.length) {
    parts.push(title("Groups"), table("Accuracy by label and attribute", [
      { name: "Group", head: true, sort: (row) => row.name, cell: (row) => element("span", {}, row.name,
        element("small", {}, row.worst ? "the worst group" : row.too_small ? "too few images to say" : "")) },
      ...sortable(figureColumns(groups, (row) => row.accuracy, { alike: true }), (row) => row.accuracy.value)], groups, { few: (row) => row.too_small, first: FEW }));
  }
  if (properties.length) {
    parts.push(title("Properties of the picture, and of its metadata"),
      paragraph(element("span", { className: "soft" }, "What tells a label or an error without a look at the object; each is one rule, tried on images that it was not found on. It says what goes together, not what the model uses.")),
      table("What predicts a label or an error", [
        { name: "Property", head: true, cell: (row) => element("span", {}, element("span", { className: "tag" },
          row.source === "column" ? "metadata" : "picture"), " ", row.text, element("small", {}, row.rule)) },
        ...figureColumns(properties, (row) => row.figure, { alike: true }),
        { name: "Sure?", cell: (row) => sureNode(row.sure) },
      ], properties, { first: FEW }));
  }
  if (backgrounds.length) {
    parts.push(title("Other backgrounds"), table("Objects on the contexts of other images", [
      { name: "What the model is shown", head: true, cell: (row) => said(row) }, ...figureColumns(backgrounds, undefined, { alike: true })], backgrounds));
  }
  const missing = Object.entries(causes.not_run);
  if (missing.length) parts.push(title("Not looked at"), definitions(missing));
  if (parts.length) section("causes", "Where it may come from", ...parts);
}

const sureNode = (sure) => element("span", { className: "state" }, sure ? "\u2713 sure" : "? not sure",
  element("small", {}, sure ? "at 5 % among all that were tried" : "chance can make as much"));
const sortable = ([value, ...others], sort) => [{ ...value, sort }, ...others];

function picturesSection({ findings, about }) {
  if (!findings.length) return;
  const parts = findingsNodes(findings);
  section("pictures", "Pictures",
    paragraph(`The map of the true class, and beside it that of the class that was wrongly named, or the image alone. Boxes are the annotated objects; the white line encloses the focus. ${about.map_words}`), ...parts);
}

function subsetsSection({ subsets }) {
  if (!subsets.length) return;
  const names = [...new Map(subsets.flatMap((row) => row.figures).map((one) => [one.name, one])).values()];
  const columns = names.map(({ name, words, better }) => {
    const of = (row) => row.figures.find((one) => one.name === name) ?? null;
    const ends = axis(subsets.map(of));
    return { name: words, note: BETTER[better] ?? "", sort: (row) => of(row)?.value ?? null, cell: (row) => figureNode(of(row), ends) };
  });
  section("subsets", "Subsets", paragraph("The same figures for parts of the objects."), table("Parts of the objects", [
    { name: "Part", head: true, sort: (row) => `${row.family} ${row.name}`, cell: (row) => element("span", {},
      element("span", { className: "tag" }, row.family), " ", row.name, element("small", {}, row.words)) },
    { name: "Objects", number: true, sort: (row) => row.n, cell: (row) => row.n.toLocaleString("en") }, ...columns], subsets));
}

function againstSection({ against, about }) {
  if (!against) return;
  const rows = against.rows;
  const change = (row) => ({ value: row.difference, ci: row.interval_95, form: row.before.form, chance: 0 });
  const both = (row) => axis([row.before, row.after]);
  const verdict = (row) => {
    const better = row.before.better && (row.difference > 0) === (row.before.better === "higher");
    if (!row.sure) return element("span", { className: "state" }, "? not sure");
    if (!row.before.better) return element("span", { className: "state" }, "\u2260 differs");
    return element("span", { className: `state ${better ? "holds" : "fails"}` }, better ? "\u2713 better" : "\u2715 worse");
  };
  section("against", "Before and after", paragraph(against.text), paragraph(`Before: ${against.about.model}. After: ${about.model}.`), table(
    "Figures before and after", [
      { name: "Figure", head: true, cell: (row) => said(row.before, row.words) },
      { name: "Before", cell: (row) => figureNode(row.before, both(row)) },
      { name: "After", cell: (row) => figureNode(row.after, both(row)) },
      { name: "Change, 95 % interval", cell: (row) => figureNode(change(row), axis([change(row)])) },
      { name: "Sure?", cell: (row) => element("span", {}, verdict(row),
        element("small", {}, row.paired ? "paired, on the same samples" : "not paired")) },
    ], rows), ...findingsNodes(against.findings.filter((finding) => finding.examples.length), pairNode));
}

function suggestionsSection({ suggestions }) {
  if (!suggestions.length) return;
  section("try", "What to try", element("ol", {}, ...suggestions.map((one) => element("li", {}, one.text,
    element("code", { className: "command" }, one.command), evidenceNode(one.because)))));
}

/** Figures by their names, a line each. */
function evidence(names) {
  return names.map((name) => page.figures.find((one) => one.name === name)).filter(Boolean).map((one) => {
    const known = one.chance === null ? [] : [`${one.chanceWords || "chance"} ${written(one.chance, one.form, decimals(one))}`];
    const facts = [range(one), several(one.n, one.unit), one.kind, ...known].filter(Boolean);
    return `${one.words}: ${valueOf(one)} (${facts.join("; ")})`;
  });
}

/** What a statement rests on, to be opened. */
function evidenceNode(names) {
  const lines = evidence(names);
  return lines.length ? element("details", { className: "evidence" }, element("summary", {}, "What this rests on"),
    element("ul", {}, ...lines.map((line) => element("li", {}, line)))) : "";
}

function methodSection({ about, limits }) {
  section("method", "Method and limits", definitions(about.facts),
    limits.length ? title("Limits") : null,
    limits.length ? element("ul", { className: "limits" }, ...limits.map((text) => element("li", {}, text))) : null,
    figuresSection(page));
}

byId("answer").append(evidenceNode(page.restsOn));
for (const write of [trustSection, checksSection, quadrantsSection, scoresSection, classesSection, causesSection,
  picturesSection, subsetsSection, againstSection, suggestionsSection, methodSection]) write(page);
