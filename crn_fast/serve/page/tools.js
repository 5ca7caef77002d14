// The tools: what a press, a drag and a release at a pixel do to the drawing.

import * as raster from "./raster.js";
import { EMPTY } from "./drawing.js";

export class Tools {
  constructor(drawing, state, { pick, region, say }) {
    Object.assign(this, { drawing, state, pick, region, say });
    this.stroke = null;
    this.points = []; // of the polygon under way
  }

  get #id() {
    if (this.state.tool !== "eraser") return this.state.material;
    return this.state.layer ? EMPTY : this.state.empty;
  }

  get busy() {
    return Boolean(this.stroke);
  }

  press(point) {
    const { tool, layer } = this.state;
    if (tool === "eyedropper") return this.pick(this.drawing.at(point));
    if (tool === "region") return this.region(this.drawing.at(point), point);
    if (tool === "polygon") return this.#corner(point);
    this.stroke = this.drawing.begin(layer, this.#id);
    this.from = this.last = point;
    if (tool === "bucket") {
      const { width, height, ids } = this.drawing;
      raster.flood(ids.slice(), width, height, point, this.stroke.span);
      return this.#finish();
    }
    this.drag(point);
  }

  drag(point) {
    const { tool, size } = this.state, { width, height } = this.drawing;
    if (tool === "polygon") return this.#showPolygon(point);
    if (!this.stroke) return;
    const { span } = this.stroke;
    if (tool === "line" || tool === "rectangle") this.stroke.reset();
    if (tool === "brush" || tool === "eraser") {
      raster.line(width, height, this.last, point, size, span);
    } else if (tool === "line") raster.line(width, height, this.from, point, size, span);
    else if (tool === "rectangle") raster.rectangle(width, height, this.from, point, span);
    this.last = point;
    this.stroke.flush();
  }

  release() {
    if (this.state.tool !== "polygon" && this.stroke) this.#finish();
  }

  // Close the polygon.
  close() {
    if (this.state.tool !== "polygon" || !this.stroke) return;
    if (this.points.length < 3) return this.cancel();
    this.#showPolygon(null);
    this.points = [];
    this.#finish();
  }

  cancel() {
    this.stroke?.cancel();
    this.stroke = null;
    this.points = [];
  }

  #corner(point) {
    const [first] = this.points;
    const near = first && Math.hypot(first[0] - point[0], first[1] - point[1]) < 5;
    const again = this.points.at(-1)?.join() === point.join();
    if (this.points.length > 2 && (near || again)) return this.close();
    this.stroke ??= this.drawing.begin(this.state.layer, this.#id);
    if (!again) this.points.push(point);
    this.#showPolygon(null);
    this.say(`Corner ${this.points.length}. Enter closes the polygon, Escape drops it.`);
  }

  #showPolygon(cursor) {
    if (!this.stroke) return;
    const { width, height } = this.drawing;
    this.stroke.reset();
    raster.polygon(width, height, cursor ? [...this.points, cursor] : this.points, this.stroke.span);
    this.stroke.flush();
  }

  #finish() {
    this.stroke.commit();
    this.stroke = null;
    this.drawing.onfinish?.();
  }
}
