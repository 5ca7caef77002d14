// The palette: each class with its name, its colour and what the model makes of it.

const SIDE = 64; // px of a swatch

export class Materials {
  constructor(box, classes, choose) {
    this.choose = choose;
    this.buttons = classes.map(({ id, name, color }, i) => {
      const button = document.createElement("button");
      button.setAttribute("role", "radio");
      const swatch = document.createElement("canvas");
      swatch.width = swatch.height = SIDE;
      swatch.setAttribute("aria-hidden", "true");
      const context = swatch.getContext("2d");
      context.fillStyle = `rgb(${color.join()})`;
      context.fillRect(0, 0, SIDE, SIDE);
      const dot = document.createElement("i");
      dot.style.background = context.fillStyle;
      const label = document.createElement("span");
      label.textContent = name;
      button.append(swatch, dot, label);
      if (i < 10) {
        const key = document.createElement("kbd");
        key.textContent = (i + 1) % 10;
        key.setAttribute("aria-hidden", "true");
        button.append(key);
      }
      button.addEventListener("click", () => choose(id));
      button.addEventListener("keydown", (event) => this.#step(event, i));
      box.append(button);
      return button;
    });
  }

  mark(chosen) {
    this.buttons.forEach((button, id) => {
      button.setAttribute("aria-checked", id === chosen);
      button.tabIndex = id === chosen ? 0 : -1;
    });
  }

  // Each class as the model renders it: where a picture has most of it, or a ground of it alone.
  async render(picture, ids, width, height, ground) {
    const squares = largestSquares(ids, width, height);
    for (const [id, button] of this.buttons.entries()) {
      let [x, y, side, source] = [0, 0, Math.min(width, height) / 2, picture];
      const found = squares.get(id);
      if (found) {
        side = Math.max(found.side, 24);
        x = Math.max(0, Math.min(found.x + (found.side - side) / 2, width - side));
        y = Math.max(0, Math.min(found.y + (found.side - side) / 2, height - side));
      } else {
        source = await ground(id);
        [x, y] = [(width - side) / 2, (height - side) / 2];
      }
      const scale = source.width / width, part = [x, y, side, side].map((n) => n * scale);
      button.firstChild.getContext("2d").drawImage(source, ...part, 0, 0, SIDE, SIDE);
    }
  }

  #step(event, i) {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = (i + step + this.buttons.length) % this.buttons.length;
    this.choose(next);
    this.buttons[next].focus();
  }
}

// The largest square of each id, all in one pass: a pixel ends a square one wider than the least of
// those that end left, above and between.
export function largestSquares(ids, width, height) {
  const best = new Map();
  let above = new Uint16Array(width + 1);
  for (let y = 0; y < height; y++) {
    const row = new Uint16Array(width + 1);
    for (let x = 0; x < width; x++) {
      const at = y * width + x, id = ids[at];
      const same = x && y && ids[at - 1] === id && ids[at - width] === id && ids[at - width - 1] === id;
      const side = same ? Math.min(row[x], above[x + 1], above[x]) + 1 : 1;
      row[x + 1] = side;
      if (side > (best.get(id)?.side ?? 0)) best.set(id, { x: x - side + 1, y: y - side + 1, side });
    }
    above = row;
  }
  return best;
}
