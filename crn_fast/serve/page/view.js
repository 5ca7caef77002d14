// What is seen of the drawing: ids as colours, the cursor over them, the picture, and how they share
// the window. Canvases have the layout's own pixels; CSS makes them larger.

const GAP = 12; // px between the frames

export class View {
  constructor(drawing, colors, elements) {
    Object.assign(this, { drawing, ...elements });
    const { width, height } = drawing;
    for (const canvas of [this.layout, this.picture]) Object.assign(canvas, { width, height });
    this.frames.style.setProperty("--ratio", `${width} / ${height}`);
    this.layoutContext = this.layout.getContext("2d", { alpha: false });
    this.pictureContext = this.picture.getContext("2d", { alpha: false });
    this.image = this.layoutContext.createImageData(width, height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.table = Uint32Array.from(
      { length: 256 },
      (_, id) => { const [r, g, b] = colors[id] ?? [0, 0, 0]; return (255 << 24 | b << 16 | g << 8 | r) >>> 0; },
    );
    this.paint([0, 0, width, height]);
    this.slider = false;
    this.divider.addEventListener("input", () => this.#divide());
    new ResizeObserver(() => this.arrange()).observe(this.frames.closest("main"));
    this.arrange();
  }

  paint([x, y, right, bottom]) {
    const { ids, width } = this.drawing, { pixels, table } = this;
    for (let row = y; row < bottom; row++) {
      for (let at = row * width + x, end = row * width + right; at < end; at++) pixels[at] = table[ids[at]];
    }
    this.layoutContext.putImageData(this.image, 0, 0, x, y, right - x, bottom - y);
  }

  show(bitmap, [x, y, width, height] = [0, 0, bitmap.width, bitmap.height]) {
    const { pictureContext: context } = this;
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, x, y, width, height, 0, 0, this.drawing.width, this.drawing.height);
  }

  // The pixel under a pointer; outside, the nearest or beyond.
  pixel(event, canvas) {
    const box = canvas.getBoundingClientRect(), { width, height } = this.drawing;
    return [
      Math.floor(((event.clientX - box.left) / box.width) * width),
      Math.floor(((event.clientY - box.top) / box.height) * height),
    ];
  }

  // Outline of what would be painted: a circle for brushes, a cross else.
  hover(point, size) {
    const box = this.layout.getBoundingClientRect(), dense = devicePixelRatio || 1;
    const canvas = this.cursor, context = canvas.getContext("2d");
    const wanted = [Math.round(box.width * dense), Math.round(box.height * dense)];
    if (canvas.width !== wanted[0] || canvas.height !== wanted[1]) [canvas.width, canvas.height] = wanted;
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!point) return;
    const scale = canvas.width / this.drawing.width;
    const x = (point[0] + 0.5) * scale, y = (point[1] + 0.5) * scale;
    for (const [color, wide] of [["#000", 3 * dense], ["#fff", dense]]) {
      context.strokeStyle = color;
      context.lineWidth = wide;
      context.beginPath();
      if (size) context.arc(x, y, Math.max((size / 2) * scale, 2 * dense), 0, 2 * Math.PI);
      else {
        const arm = 8 * dense;
        context.moveTo(x - arm, y); context.lineTo(x + arm, y);
        context.moveTo(x, y - arm); context.lineTo(x, y + arm);
      }
      context.stroke();
    }
  }

  // Beside each other or one above the other, whichever is larger; or one over the other.
  arrange(slider = this.slider) {
    this.slider = slider;
    const { width, height } = this.drawing, stage = this.frames.parentElement;
    const main = this.frames.closest("main"), style = getComputedStyle(main);
    this.frames.classList.toggle("over", slider);
    this.divider.hidden = !slider;
    const inner = main.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const narrow = style.display === "flex"; // a phone: as wide as it is, and scroll
    const room = narrow ? inner : stage.clientWidth, top = this.frames.getBoundingClientRect().top + scrollY;
    const tall = Math.max(innerHeight - top - this.below(), 180);
    const beside = Math.min((room - GAP) / 2 / width, tall / height);
    const above = Math.min(room / width, (tall - GAP) / 2 / height);
    const alone = Math.min(room / width, tall / height);
    const scale = slider ? (narrow ? room / width : alone) : narrow ? room / width : Math.max(beside, above);
    this.frames.classList.toggle("beside", !slider && !narrow && beside > above);
    this.frames.style.setProperty("--frame", `${Math.floor(width * scale)}px`);
    this.#divide();
    this.hover(null);
  }

  #divide() {
    this.frames.style.setProperty("--cut", this.slider ? `${this.divider.value}%` : "0%");
  }
}
