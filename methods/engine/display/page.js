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

/** Resize a map of bytes to width x height: bilinear, half-pixel centres; values in 0..1. */
function resized(map, width, height) {
  const values = bytes(map.data);
  const result = new Float32Array(width * height);
  const neighbours = (length, old) => Array.from({ length }, (_, place) => {
    const centre = Math.min(Math.max((place + 0.5) * old / length - 0.5, 0), old - 1);
    const before = Math.floor(centre);
    return [before, Math.min(before + 1, old - 1), centre - before];
  });
  const columns = neighbours(width, map.width);
  neighbours(height, map.height).forEach(([top, bottom, down], y) => {
    columns.forEach(([left, right, across], x) => {
      const at = (row, column) => values[row * map.width + column];
      const upper = at(top, left) * (1 - across) + at(top, right) * across;
      const lower = at(bottom, left) * (1 - across) + at(bottom, right) * across;
      result[y * width + x] = (upper * (1 - down) + lower * down) / 255;
    });
  });
  return result;
}

function paint(canvas, pixelOf, values) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  values.forEach((value, place) => image.data.set(pixelOf(value, place), place * 4));
  context.putImageData(image, 0, 0);
}

/** An image, the part of it that a network saw with the canvases for a map, and the boxes of its objects. */
function stageOf(item, [x, y, width, height], alt = item.name) {
  const frame = element("div", { className: "frame" },
    element("canvas", { className: "heat" }), element("canvas", { className: "edge" }),
    element("span", { className: "nothing", hidden: true, title: "the map is 0 everywhere: no place speaks for the class" },
      "no attention"));
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
function drawMap(stage, map, table, scaled = (value) => value) {
  const [heat, edge] = stage.querySelectorAll("canvas");
  const scale = 256 / Math.max(stage.clientWidth, stage.clientHeight, 1);
  const width = Math.max(1, Math.round(stage.clientWidth * scale));
  const height = Math.max(1, Math.round(stage.clientHeight * scale));
  for (const canvas of [heat, edge]) Object.assign(canvas, { width, height });
  const values = resized(map, width, height).map(scaled);
  stage.querySelector(".nothing").hidden = values.some((value) => value > 0);
  paint(heat, (value) => {
    const level = Math.round(255 * value);
    return [table[3 * level], table[3 * level + 1], table[3 * level + 2], level];
  }, values);
  const inside = (place) => values[place] === undefined || values[place] >= page.focus;
  paint(edge, (value, place) => {
    const rim = value >= page.focus && ![-1, 1, -width, width].every((step) => inside(place + step));
    return [255, 255, 255, rim ? 255 : 0];
  }, values);
}
