// What was done, to be undone and done again, within a bound on memory.

export class History {
  #done = [];
  #undone = [];
  #bytes = 0;

  constructor(limit) {
    this.limit = limit;
  }

  // An entry is a list of records that are undone together; each has arrays `before` and `after`.
  push(entry) {
    this.#undone = [];
    this.#done.push(entry);
    this.#bytes = this.#done.reduce((sum, one) => sum + size(one), 0);
    while (this.#bytes > this.limit && this.#done.length > 1) this.#bytes -= size(this.#done.shift());
  }

  clear() {
    [this.#done, this.#undone, this.#bytes] = [[], [], 0];
  }

  undo() {
    return move(this.#done, this.#undone);
  }

  redo() {
    return move(this.#undone, this.#done);
  }

  get canUndo() {
    return this.#done.length > 0;
  }

  get canRedo() {
    return this.#undone.length > 0;
  }

  get bytes() {
    return this.#bytes;
  }
}

function move(from, to) {
  const entry = from.pop();
  if (entry) to.push(entry);
  return entry ?? null;
}

function size(entry) {
  return entry.reduce((sum, record) => sum + record.before.byteLength + record.after.byteLength, 0);
}
