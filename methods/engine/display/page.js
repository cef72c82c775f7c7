"use strict";
// What every page stands on: its content, as JSON in #page, elements made of texts, and maps as coloured canvases.

const page = JSON.parse(document.getElementById("page").textContent);
const byId = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
const tables = Object.fromEntries(Object.entries(page.colours).map(([name, data]) => [name, bytes(data)]));
const percent = (share) => `${share * 100}%`;

// Attention maps -----------------------------------------------------------------------------------------------------
// Plain loops without an object a pixel: pages of thousands of images are scrolled while their maps are painted.

/** For each place on a longer side, the two old ones that it lies between, and how far it is from the first. */
function between(length, old) {
  const found = { before: new Uint32Array(length), after: new Uint32Array(length), share: new Float64Array(length) };
  for (let place = 0; place < length; place += 1) {
    const centre = Math.min(Math.max((place + 0.5) * old / length - 0.5, 0), old - 1);
    found.before[place] = Math.floor(centre);
    found.after[place] = Math.min(Math.floor(centre) + 1, old - 1);
    found.share[place] = centre - Math.floor(centre);
  }
  return found;
}

/** Resize a map of bytes to width x height: bilinear, half-pixel centres; values in 0..1. */
function resized(map, width, height) {
  const values = bytes(map.data);
  const result = new Float32Array(width * height);
  const [columns, rows] = [between(width, map.width), between(height, map.height)];
  for (let y = 0, place = 0; y < height; y += 1) {
    const above = rows.before[y] * map.width;
    const below = rows.after[y] * map.width;
    const down = rows.share[y];
    for (let x = 0; x < width; x += 1, place += 1) {
      const left = columns.before[x];
      const right = columns.after[x];
      const across = columns.share[x];
      const upper = values[above + left] * (1 - across) + values[above + right] * across;
      const lower = values[below + left] * (1 - across) + values[below + right] * across;
      result[place] = (upper * (1 - down) + lower * down) / 255;
    }
  }
  return result;
}

/** Fill a canvas: `write` sets the bytes of its pixels, red, green, blue and opacity of each. */
function paint(canvas, write) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  write(image.data);
  context.putImageData(image, 0, 0);
}

/** An image, the part of it that a network saw with the canvases for a map, and the boxes of its objects. */
function stageOf(item, [x, y, width, height], alt = item.name) {
  const frame = element("div", { className: "frame" },
    element("canvas", { className: "heat" }), element("canvas", { className: "edge" }),
    element("span", { className: "nothing", hidden: true, title: "the map is 0 everywhere: no place speaks for the class" },
      "no attention"));
  const longer = Math.max(item.width * width, item.height * height);
  const pixels = (length) => Math.max(1, Math.round(256 * length / longer)); // asking the page for its size is slow
  for (const canvas of frame.querySelectorAll("canvas")) {
    Object.assign(canvas, { width: pixels(item.width * width), height: pixels(item.height * height) });
  }
  Object.assign(frame.style, { left: percent(x), top: percent(y), width: percent(width), height: percent(height) });
  const picture = element("img", { src: item.picture, alt, width: item.width, height: item.height });
  picture.style.height = "auto";
  const stage = element("div", { className: "stage" }, picture, frame);
  for (const box of item.boxes) {
    const node = element("div", { className: "box" }, element("span", {}, page.classes[box.label]));
    node.dataset.label = box.label;
    Object.assign(node.style,
      { left: percent(box.x), top: percent(box.y), width: percent(box.w), height: percent(box.h) });
    stage.append(node);
  }
  return stage;
}

/** Paint a map and the rim of its focus on the two canvases of a stage; `scaled` makes levels (0..1) of its values. */
function drawMap(stage, map, table, scaled = null) {
  const [heat, edge] = stage.querySelectorAll("canvas");
  const { width, height } = heat;
  const values = scaled ? resized(map, width, height).map(scaled) : resized(map, width, height);
  let highest = 0;
  paint(heat, (data) => {
    for (let place = 0; place < values.length; place += 1) {
      const level = Math.round(255 * values[place]);
      if (values[place] > highest) highest = values[place];
      data[4 * place] = table[3 * level];
      data[4 * place + 1] = table[3 * level + 1];
      data[4 * place + 2] = table[3 * level + 2];
      data[4 * place + 3] = level;
    }
  });
  stage.querySelector(".nothing").hidden = highest > 0;
  const { focus } = page;
  paint(edge, (data) => {
    for (let y = 0, place = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1, place += 1) {
        if (values[place] < focus) continue;
        const rim = (x > 0 && values[place - 1] < focus) || (x + 1 < width && values[place + 1] < focus)
          || (y > 0 && values[place - width] < focus) || (y + 1 < height && values[place + width] < focus);
        if (rim) data.fill(255, 4 * place, 4 * place + 4);
      }
    }
  });
}
