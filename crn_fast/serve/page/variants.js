// The model's K pictures of the layout: one is chosen for all, or one for each class.

const WIDTH = 256; // px of a thumbnail

export class Variants {
  constructor(model, classes, elements, changed) {
    Object.assign(this, { count: model.images, classes, changed, ...elements });
    this.k = 0;
    this.choice = new Map(); // class -> picture
    this.target = null; // the class that is being chosen for; null for the whole picture
    this.box.hidden = this.count < 2;
    this.buttons = Array.from({ length: this.count }, (_, k) => {
      const button = document.createElement("button"), canvas = document.createElement("canvas");
      Object.assign(canvas, { width: WIDTH, height: Math.round((WIDTH * model.height) / model.width) });
      button.setAttribute("aria-label", `Variant ${k + 1}`);
      button.append(canvas);
      button.addEventListener("click", () => this.take(k));
      this.choices.append(button);
      return button;
    });
    this.uncompose.addEventListener("click", () => this.reset());
    this.#tell();
  }

  // What to ask the server for: the picture as it has been chosen.
  get query() {
    if (!this.composed) return { k: this.k };
    const all = this.classes.map(({ id, name }) => `${name}=${this.choice.get(id) ?? this.k}`);
    return { compose: all.join(), seam: 3 };
  }

  get composed() {
    return this.choice.size > 0;
  }

  aim(id) {
    this.target = id;
    this.#tell();
  }

  take(k) {
    if (this.target === null) this.k = k;
    else if (k === this.k) this.choice.delete(this.target);
    else this.choice.set(this.target, k);
    this.#tell();
    this.changed();
  }

  next() {
    if (this.count > 1) this.take((this.#current + 1) % this.count);
  }

  reset() {
    this.choice.clear();
    this.target = null;
    this.#tell();
    this.changed();
  }

  // Begin with the one whose light is nearest to the middle; from the thumbnails.
  begin() {
    const light = this.buttons.map((button) => {
      const canvas = button.firstChild, { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return Math.abs(data.reduce((sum, part) => sum + part, 0) / data.length - (3 * 115 + 255) / 4);
    });
    this.k = light.indexOf(Math.min(...light));
    this.#tell();
  }

  // All pictures, one below the other. With a class in hand, the part of each around it is shown.
  show(bitmap, ids, width, height) {
    const part = this.target === null ? [0, 0, width, height] : around(ids, width, height, this.target);
    this.buttons.forEach((button, k) => {
      const canvas = button.firstChild, [x, y, w, h] = part, scale = bitmap.width / width;
      const from = [x * scale, (y + k * height) * scale, w * scale, h * scale];
      canvas.getContext("2d").drawImage(bitmap, ...from, 0, 0, canvas.width, canvas.height);
    });
  }

  get #current() {
    return this.target === null ? this.k : this.choice.get(this.target) ?? this.k;
  }

  #tell() {
    const name = (id) => this.classes.find((one) => one.id === id)?.name;
    this.buttons.forEach((button, k) => button.setAttribute("aria-pressed", k === this.#current));
    this.title.textContent = this.target === null ? "Variants" : `Variants of ${name(this.target)}`;
    const chosen = [...this.choice].map(([id, k]) => `${name(id)} from ${k + 1}`).join(", ");
    this.composedLine.textContent = chosen ? `Variant ${this.k + 1}, ${chosen}` : "";
    this.uncompose.hidden = !this.composed && this.target === null;
    this.uncompose.textContent = this.composed ? "Drop the choices" : "Whole picture";
  }
}

// The smallest box of the picture's shape around a class, with some room.
function around(ids, width, height, id) {
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let at = 0; at < ids.length; at++) {
    if (ids[at] !== id) continue;
    const x = at % width, y = (at - x) / width;
    left = Math.min(left, x); right = Math.max(right, x);
    top = Math.min(top, y); bottom = Math.max(bottom, y);
  }
  if (right < 0) return [0, 0, width, height];
  const scale = Math.min(Math.max((right - left + 1) / width, (bottom - top + 1) / height) * 1.2, 1);
  const w = width * scale, h = height * scale;
  const fit = (middle, size, whole) => Math.max(0, Math.min(middle - size / 2, whole - size));
  return [fit((left + right) / 2, w, width), fit((top + bottom) / 2, h, height), w, h];
}
