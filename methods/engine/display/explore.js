// The page on which models are tried by hand. Whatever it shows was computed by the command that serves it: the page
// sends an image, and what was painted over it, and asks each model about it.

const state = { original: null, painted: null };
const STEPS = 20; // of painting that can be undone

// Asking -------------------------------------------------------------------------------------------------------------

async function send(path, body, type) {
  let answer;
  try {
    answer = await fetch(path, { method: "POST", body, headers: { "Content-Type": type } });
  } catch {
    throw new Error("nothing answers: the command that served this page has ended, or the file is too large");
  }
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
}

const ask = async (path, content) => (await send(path, JSON.stringify(content), "application/json")).json();

/** A function that does some work, and does it once more where it was called meanwhile: the last call counts. */
function latest(work) {
  let busy = false;
  let again = false;
  return async () => {
    again = true;
    if (busy) return;
    busy = true;
    while (again) {
      again = false;
      await work(() => again);
    }
    busy = false;
  };
}

function say(node, words) {
  node.textContent = words;
  node.hidden = !words;
}

// Models -------------------------------------------------------------------------------------------------------------

const signed = (value) => `${value < 0 ? "\u2212" : "+"}${Math.abs(value).toFixed(3)}`;

function definitions(pairs) {
  return element("dl", {}, ...pairs.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
}

class Card {
  constructor(model, place) {
    this.model = model;
    this.place = place;
    this.known = new Map();
    this.map = element("select", {}, ...Object.keys(model.maps).map((kind) => element("option", {}, kind)));
    this.gain = element("input", { type: "number", min: 0, step: "any", placeholder: "its own" });
    this.gainLabel = element("label", { title: "How strongly the second pass looks for the class or question: its prior" }, "Gain of the prior", this.gain);
    this.cover = element("button", { type: "button" }, "Cover its focus");
    this.looks = element("div", { className: "looks" });
    this.said = element("p", { className: "said", hidden: true });
    this.trouble = element("p", { className: "trouble", hidden: true });
    this.trouble.setAttribute("role", "alert");
    this.table = element("table", { hidden: true });
    this.facts = element("div");
    this.node = element("article", { className: "model" }, element("h2", {}, model.name),
      element("div", { className: "row" }, element("label", {}, "Map", this.map), this.gainLabel, this.cover),
      this.looks, this.said, this.trouble, this.table, this.facts);
    this.update = latest((isOld) => this.look(isOld));
    this.map.addEventListener("change", () => this.choose());
    this.gain.addEventListener("change", () => this.update());
    this.cover.addEventListener("click", () => coverFocus(this.before));
    this.choose();
  }

  choose() {
    const { words, steered } = this.model.maps[this.map.value];
    this.gainLabel.hidden = !steered;
    this.tell(words);
    this.update();
  }

  tell(map) {
    const model = this.model;
    this.facts.replaceChildren(definitions([["Method", model.method], ["Weights", model.weights], ["SHA-256", model.sha256],
      ["Images are made", model.images], ["Map", map], ["Drawn", model.normalised]]));
  }

  /** The class that was typed as this model's number of it; null where nothing was typed. */
  label() {
    const name = byId("class").value.trim();
    if (this.model.asksInWords || !name) return null;
    const label = this.model.classes.indexOf(name);
    if (label < 0) throw new Error(`this model has no class '${name}'`);
    return label;
  }

  async look(isOld) {
    this.cover.disabled = !this.before;
    if (!state.original) return;
    this.node.setAttribute("aria-busy", "true");
    const { original, painted } = state;
    try {
      const typed = this.gain.value === "" || this.gainLabel.hidden ? null : Number(this.gain.value);
      const question = this.model.asksInWords ? byId("question").value : "";
      const asked = { model: this.place, map: this.map.value, gain: typed, question };
      const before = await this.answer({ ...asked, image: original.key, label: this.label() });
      const label = this.model.asksInWords ? null : before.label;
      const after = painted && await this.answer({ ...asked, image: painted.key, label });
      if (!isOld()) this.show(original, before, painted, after);
      say(this.trouble, "");
    } catch (error) {
      if (!isOld()) this.fail(error.message);
    }
    if (!isOld()) this.node.setAttribute("aria-busy", "false");
  }

  /** Say why there is no answer; an older one would be taken for it. */
  fail(words) {
    this.before = null;
    this.cover.disabled = true;
    this.looks.replaceChildren();
    this.table.hidden = true;
    say(this.said, "");
    say(this.trouble, words);
  }

  /** An answer of the model, which is not asked the same twice. */
  async answer(asked) {
    const key = JSON.stringify(asked);
    if (!this.known.has(key)) {
      if (this.known.size > 40) this.known.clear();
      this.known.set(key, await ask("/look", asked));
    }
    return this.known.get(key);
  }

  show(original, before, painted, after) {
    this.before = before;
    this.cover.disabled = false;
    this.tell(before.words);
    const name = this.model.asksInWords ? "" : `${this.model.classes[before.label]}, `;
    const pairs = [[original, before, `${name}as it is`],
      [painted, after, painted && `${name}${(100 * painted.covered).toFixed(1)} % painted over`]];
    const stages = pairs.filter(([, answer]) => answer).map(([image, answer, words]) => {
      const stage = stageOf({ ...image, name: words, boxes: [] }, answer.frame);
      return [element("figure", {}, stage, element("figcaption", {}, words)), stage.querySelector(".frame"), answer];
    });
    this.looks.replaceChildren(...stages.map(([figure]) => figure));
    for (const [, frame, answer] of stages) drawMap(frame, answer.map, Object.values(tables)[0]);
    say(this.said, [before.said, after && after.said && `Painted over: ${after.said}`].filter(Boolean).join(" \u00b7 "));
    this.score(before, after);
  }

  score(before, after) {
    this.table.hidden = !before.scores;
    if (!before.scores) return;
    const best = (scores) => [...scores.keys()].sort((one, other) => scores[other] - scores[one]).slice(0, 5);
    const shown = new Set([before.label, ...best(before.scores), ...(after ? best(after.scores) : [])]);
    const bar = (score) => {
      const node = element("i");
      node.style.width = percent(score);
      return node;
    };
    const rows = [...shown].sort((one, other) => before.scores[other] - before.scores[one]).map((label) => {
      const [first, second] = [before.scores[label], after?.scores[label]];
      const name = element("th", { scope: "row" }, this.model.classes[label]);
      const more = after ? [element("td", {}, second.toFixed(3)), element("td", {}, signed(second - first))] : [];
      return element("tr", { className: label === before.label ? "mapped" : "" }, name,
        element("td", { className: "bar" }, bar(first), ...(after ? [bar(second)] : [])), element("td", {}, first.toFixed(3)), ...more);
    });
    const heads = ["Class", "", "Score", ...(after ? ["Painted", "Change"] : [])];
    this.table.replaceChildren(
      element("thead", {}, element("tr", {}, ...heads.map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, ...rows));
  }
}

const cards = page.models.map((model, place) => new Card(model, place));
const askAll = () => cards.forEach((card) => card.update());

// The image ----------------------------------------------------------------------------------------------------------

const mask = byId("mask");
const pen = mask.getContext("2d", { willReadFrequently: true });
let steps = [];

async function open(name, path, body, type) {
  try {
    const image = await (await send(path, body, type)).json();
    Object.assign(state, { original: { ...image, name }, painted: null });
    Object.assign(mask, { width: image.width, height: image.height });
    steps = [];
    Object.assign(byId("picture"), { src: image.picture, alt: name, width: image.width, height: image.height });
    say(byId("trouble"), "");
    byId("opened").hidden = false;
    tell();
    askAll();
  } catch (error) {
    say(byId("trouble"), `${name}: ${error.message}`);
  }
}

function openFile(file) {
  if (!file) return;
  press(byId("begin").children, null);
  if (file.size > page.largest) say(byId("trouble"), `${file.name}: expected at most ${page.largest >> 20} MB`);
  else open(file.name, "/open", file, "application/octet-stream");
}

function press(buttons, pressed) {
  for (const button of buttons) button.setAttribute("aria-pressed", button === pressed);
}

function tell() {
  const { original, painted } = state;
  const covered = painted ? `; ${(100 * painted.covered).toFixed(1)} % painted over` : "";
  byId("name").textContent = `${original.name}: ${original.size.join(" x ")} pixels${covered}`;
  byId("undo").disabled = !steps.length;
  for (const id of ["swap", "clear", "save"]) byId(id).disabled = !painted;
}

// Painting -----------------------------------------------------------------------------------------------------------

/** Have the image made that was painted, and ask all models about it. */
const paintOver = latest(async (isOld) => {
  const { original } = state;
  const sent = { image: original.key, mask: mask.toDataURL("image/png").split(",")[1], fill: byId("fill").value };
  try {
    const painted = await ask("/paint", sent);
    if (isOld() || state.original !== original) return;
    state.painted = painted.covered > 0 ? painted : null;
    say(byId("trouble"), "");
  } catch (error) {
    state.painted = null;
    say(byId("trouble"), error.message);
  }
  tell();
  askAll();
});

function remember() {
  steps.push(pen.getImageData(0, 0, mask.width, mask.height));
  steps = steps.slice(-STEPS);
}

function placeOf(event) {
  const { left, top, width, height } = mask.getBoundingClientRect();
  return [(event.clientX - left) * mask.width / width, (event.clientY - top) * mask.height / height];
}

/** Change the mask by what a function draws on it, as a step that can be undone. */
function change(draw) {
  remember();
  draw();
  paintOver();
}

let last = null;
function stroke(to) {
  pen.globalCompositeOperation = byId("erase").getAttribute("aria-pressed") === "true" ? "destination-out" : "source-over";
  Object.assign(pen, { strokeStyle: "#d6006f", lineCap: "round", lineJoin: "round" });
  pen.lineWidth = byId("width").value / 100 * Math.max(mask.width, mask.height);
  pen.beginPath();
  pen.moveTo(...last);
  pen.lineTo(...to);
  pen.stroke();
  last = to;
}

mask.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  mask.setPointerCapture(event.pointerId);
  remember();
  last = placeOf(event);
  stroke(last);
});
mask.addEventListener("pointermove", (event) => last && stroke(placeOf(event)));
for (const end of ["pointerup", "pointercancel"]) {
  mask.addEventListener(end, () => {
    if (last) paintOver();
    last = null;
  });
}

/** Paint over the focus of a map: where its values are at least 0.5. */
function coverFocus({ map, frame: [x, y, width, height] }) {
  const [across, down] = [Math.max(1, Math.round(width * mask.width)), Math.max(1, Math.round(height * mask.height))];
  const layer = element("canvas", { width: across, height: down });
  paint(layer, (data) => resized(map, across, down).forEach((value, place) => {
    if (value >= page.focus) data.set([214, 0, 111, 255], 4 * place);
  }));
  change(() => {
    pen.globalCompositeOperation = "source-over";
    pen.drawImage(layer, Math.round(x * mask.width), Math.round(y * mask.height));
  });
}

// The page -----------------------------------------------------------------------------------------------------------

byId("about").textContent = `${page.models.length} ${page.models.length > 1 ? "models" : "model"} \u00b7 computed by the command that serves this page at ${location.host}; nothing is sent anywhere else, and nothing is kept.`;
byId("models").append(...cards.map((card) => card.node));
byId("fill").append(...page.fills.map((name) => element("option", { value: name }, name === "mean" ? "its mean colour" : name)));
byId("classes").append(...[...new Set(page.models.flatMap((model) => (model.asksInWords ? [] : model.classes)))]
  .map((name) => element("option", { value: name })));
byId("by-class").hidden = page.models.every((model) => model.asksInWords);
byId("by-question").hidden = !page.models.some((model) => model.asksInWords);
byId("begin").hidden = !page.images.length;
byId("begin").append(...page.images.map(({ name, picture }, number) => {
  const button = element("button", { type: "button", title: name }, element("img", { src: picture, alt: name }));
  button.addEventListener("click", () => {
    press(byId("begin").children, button);
    open(name, "/begin", JSON.stringify({ number }), "application/json");
  });
  return button;
}));

byId("file").addEventListener("change", (event) => openFile(event.target.files[0]));
document.addEventListener("paste", (event) => openFile(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", () => document.body.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  openFile(event.dataTransfer.files[0]);
});

for (const id of ["brush", "erase"]) {
  byId(id).addEventListener("click", () => press([byId("brush"), byId("erase")], byId(id)));
}
byId("fill").addEventListener("change", () => state.painted && paintOver());
byId("undo").addEventListener("click", () => {
  pen.putImageData(steps.pop(), 0, 0);
  paintOver();
});
byId("swap").addEventListener("click", () => change(() => {
  pen.globalCompositeOperation = "xor";
  pen.fillStyle = "#d6006f";
  pen.fillRect(0, 0, mask.width, mask.height);
}));
byId("clear").addEventListener("click", () => change(() => pen.clearRect(0, 0, mask.width, mask.height)));
byId("save").addEventListener("click", async () => {
  try {
    const file = await (await send("/png", JSON.stringify({ image: state.painted.key }), "application/json")).blob();
    const link = element("a", { href: URL.createObjectURL(file), download: "painted.png" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    say(byId("trouble"), error.message);
  }
});
for (const id of ["class", "question"]) byId(id).addEventListener("change", askAll);
byId("opacity").addEventListener("input", (event) => document.documentElement.style.setProperty("--opacity", event.target.value / 100));
byId("contour").addEventListener("change", (event) => document.body.classList.toggle("contour", event.target.checked));
if (page.images.length) byId("begin").children[0].click();
