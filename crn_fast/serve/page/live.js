// Pictures as one paints: the quick answer first, the best one when the hand rests. One request at a
// time; one that is stale and slow is aborted, and the server then drops it from its queue.

const REST = 180; // ms without a change before better pictures are asked for
const STALE = 250; // ms that a stale request may still take

export class Live {
  #running = null;
  #shown = { version: -1, grade: -1 };
  #timer = 0;
  #changedAt = 0;
  #seen = -1;
  #generation = 0;

  // grades: from the quickest to the best, each a function -> query; show(blob, grade) draws.
  constructor(drawing, grades, { render, show, tell }) {
    Object.assign(this, { drawing, grades, render, show, tell });
  }

  // The drawing changed; `final` when a stroke has ended.
  changed(final = false) {
    if (this.#seen !== this.drawing.version) this.#changedAt = performance.now();
    this.#seen = this.drawing.version;
    const running = this.#running;
    const stale = running && running.version !== this.drawing.version;
    if (stale && (running.grade > 0 || final || performance.now() - running.since > STALE)) {
      running.controller.abort();
    }
    this.#next();
  }

  // What is asked for has changed, though the drawing has not.
  again(changedAt = performance.now()) {
    this.#generation++;
    this.#shown = { version: -1, grade: -1 };
    this.#running?.controller.abort();
    this.#changedAt = changedAt;
    this.#next();
  }

  get idle() {
    return !this.#running && this.#shown.version === this.drawing.version
      && this.#shown.grade === this.grades.length - 1;
  }

  #next() {
    clearTimeout(this.#timer);
    if (this.#running || this.idle) return;
    const current = this.#shown.version === this.drawing.version;
    const grade = current ? this.#shown.grade + 1 : 0;
    const rest = grade ? this.#changedAt + REST - performance.now() : 0;
    if (rest > 0) this.#timer = setTimeout(() => this.#next(), rest);
    else this.#ask(grade);
  }

  async #ask(grade) {
    const controller = new AbortController(), { version } = this.drawing;
    const since = performance.now(), generation = this.#generation, changedAt = this.#changedAt;
    this.#running = { controller, version, grade, since };
    let wait = 0;
    try {
      const ids = this.drawing.ids.slice();
      const blob = await this.render(ids, this.grades[grade](), controller.signal);
      const bitmap = await createImageBitmap(blob);
      if (generation === this.#generation) {
        this.show(bitmap, grade, blob);
        this.#shown = { version, grade };
        this.tell(null, grade ? 0 : performance.now() - since);
        if (!grade) requestAnimationFrame(() => measured(changedAt, version));
      }
      bitmap.close();
    } catch (error) {
      if (error.name !== "AbortError") {
        this.tell(error);
        wait = error.wait || (error.status === 504 ? 1 : Infinity);
      }
    }
    this.#running = null;
    if (wait === Infinity) return; // until the next change
    if (wait) this.#timer = setTimeout(() => this.#next(), wait * 1000);
    else this.#next();
  }
}

// For those who measure: from the last change that is in the picture to the frame that shows it.
function measured(start, version) {
  performance.measure("stroke to picture", { start, detail: version });
  if (performance.getEntriesByType("measure").length > 999) performance.clearMeasures();
}
