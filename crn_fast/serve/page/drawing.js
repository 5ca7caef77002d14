// The layout: two layers of ids, and what they give together. This is the truth; pixels are made of it.

import { History } from "./history.js";

export const EMPTY = 255; // of the objects' layer: the background shows
export const LAYERS = ["background", "objects"];

export class Drawing {
  constructor(width, height, fill) {
    this.width = width;
    this.height = height;
    this.layers = [new Uint8Array(width * height).fill(fill), new Uint8Array(width * height).fill(EMPTY)];
    this.ids = new Uint8Array(width * height).fill(fill);
    this.history = new History(32 << 20);
    this.version = 0;
    this.onchange = () => {};
  }

  at([x, y]) {
    return this.ids[y * this.width + x];
  }

  // A change under way on one layer: spans are written at once, and can be taken back.
  begin(layer, id) {
    return new Stroke(this, layer, id);
  }

  // New ids for everything, as one change.
  replace(background, objects = null) {
    const both = [background, objects ?? new Uint8Array(background.length).fill(EMPTY)];
    const records = both.map((ids, layer) => {
      const stroke = new Stroke(this, layer, 0);
      this.layers[layer].set(ids);
      stroke.touch(0, 0, this.width, this.height);
      return stroke.record();
    });
    this.history.push(records);
    this.refresh(0, 0, this.width, this.height);
  }

  undo() {
    return this.#apply(this.history.undo(), "before");
  }

  redo() {
    return this.#apply(this.history.redo(), "after");
  }

  #apply(records, which) {
    for (const record of records ?? []) {
      const { layer, box: [x, y, right, bottom] } = record;
      const ids = unpack(record[which]);
      for (let row = y, at = 0; row < bottom; row++, at += right - x) {
        this.layers[layer].set(ids.subarray(at, at + right - x), row * this.width + x);
      }
      this.refresh(x, y, right, bottom);
    }
    return Boolean(records);
  }

  // Put the layers together again inside a box, and tell.
  refresh(x, y, right, bottom) {
    const [background, objects] = this.layers, { ids, width } = this;
    for (let row = y; row < bottom; row++) {
      for (let at = row * width + x, end = row * width + right; at < end; at++) {
        ids[at] = objects[at] === EMPTY ? background[at] : objects[at];
      }
    }
    this.version++;
    this.onchange([x, y, right, bottom]);
  }
}

class Stroke {
  constructor(drawing, layer, id) {
    this.drawing = drawing;
    this.layer = layer;
    this.id = id;
    this.ids = drawing.layers[layer];
    this.before = this.ids.slice();
    this.box = null;
    this.fresh = null;
    this.span = (y, from, to) => {
      this.ids.fill(this.id, y * drawing.width + from, y * drawing.width + to);
      this.touch(from, y, to, y + 1);
    };
  }

  touch(x, y, right, bottom) {
    this.box = around(this.box, [x, y, right, bottom]);
    this.fresh = around(this.fresh, [x, y, right, bottom]);
  }

  // Show what has been written since last time.
  flush() {
    if (this.fresh) this.drawing.refresh(...this.fresh);
    this.fresh = null;
  }

  // Take everything back, to write another shape.
  reset() {
    if (!this.box) return;
    const [x, y, right, bottom] = this.box, { width } = this.drawing;
    for (let row = y; row < bottom; row++) {
      const at = row * width + x;
      this.ids.set(this.before.subarray(at, at + right - x), at);
    }
    this.fresh = around(this.fresh, this.box);
    this.box = null;
  }

  cancel() {
    this.reset();
    this.flush();
  }

  commit() {
    this.flush();
    const record = this.box && this.record();
    if (record) this.drawing.history.push([record]);
  }

  record() {
    const [x, y, right, bottom] = this.box, { width } = this.drawing;
    const cut = (ids) => {
      const found = new Uint8Array((right - x) * (bottom - y));
      for (let row = y, at = 0; row < bottom; row++, at += right - x) {
        found.set(ids.subarray(row * width + x, row * width + right), at);
      }
      return pack(found);
    };
    return { layer: this.layer, box: this.box, before: cut(this.before), after: cut(this.ids) };
  }
}

function around(a, b) {
  if (!a) return b;
  return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])];
}

// Runs of equal ids: layouts have few, so a change takes little memory.
export function pack(ids) {
  const runs = [];
  for (let from = 0, to = 0; from < ids.length; from = to) {
    while (to < ids.length && ids[to] === ids[from]) to++;
    runs.push(to, ids[from]);
  }
  return Uint32Array.from(runs);
}

export function unpack(runs) {
  const ids = new Uint8Array(runs.length ? runs[runs.length - 2] : 0);
  for (let i = 0, from = 0; i < runs.length; from = runs[i], i += 2) ids.fill(runs[i + 1], from, runs[i]);
  return ids;
}
