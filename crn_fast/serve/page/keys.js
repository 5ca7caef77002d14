// The keyboard: every tool by a key, and painting without a pointer.

export const KEYS = [
  ["B", "Brush"], ["E", "Eraser"], ["G", "Bucket"], ["P", "Polygon"], ["R", "Rectangle"],
  ["L", "Line"], ["I", "Eyedropper"], ["C", "Choose a class's variant"], ["O", "Other layer"],
  ["[ ]", "Brush size"], ["1 … 9, 0", "Material"], [", .", "Material before, after"],
  ["Z", "Undo"], ["Y", "Redo"], ["V", "Slider or both"], ["K", "Next variant"],
  ["S", "Save picture"], ["X", "Export layout"], ["M", "Import layout"], ["?", "This help"],
];
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export function listen(actions, canvas, pen) {
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.altKey) return;
    const typing = event.target.matches("select, textarea, input:not([type=range])");
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.ctrlKey || event.metaKey) {
      const known = { z: event.shiftKey ? "y" : "z", y: "y" }[key];
      if (known) { event.preventDefault(); actions[known](); }
      return;
    }
    if (event.target === canvas && onCanvas(key, event, pen)) return event.preventDefault();
    if (typing && key !== "?") return;
    const action = /^[0-9]$/.test(key) ? () => actions.digit((Number(key) + 9) % 10) : actions[key];
    if (action) { event.preventDefault(); action(); }
  });
}

function onCanvas(key, event, pen) {
  if (STEPS[key]) {
    const far = event.shiftKey ? 16 : 1;
    pen.move(STEPS[key].map((step) => step * far));
  } else if (key === " ") { if (!event.repeat) pen.toggle(); }
  else if (key === "Enter") pen.enter();
  else if (key === "Escape") pen.cancel();
  else return false;
  return true;
}

export function describe(list) {
  for (const [key, meaning] of KEYS) {
    const term = document.createElement("dt"), text = document.createElement("dd");
    const box = document.createElement("kbd");
    box.textContent = key;
    term.append(box);
    text.textContent = meaning;
    list.append(term, text);
  }
}
