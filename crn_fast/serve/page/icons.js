// The tools' icons: paths on a 24 x 24 grid, drawn with strokes.

const PATHS = {
  brush: "M14 4l6 6-8 8c-2 2-5 2-8 2 1-1 1-4 2-6z M12 6l6 6",
  bucket: "M5 11l7-7 7 7-7 7z M5 11h14 M20 15c1 2 2 3 2 4a2 2 0 0 1-4 0c0-1 1-2 2-4z",
  polygon: "M12 3l9 7-4 10H7L3 10z",
  rectangle: "M4 6h16v12H4z",
  line: "M5 19L19 5",
  eyedropper: "M14 6l4 4 M12 8l4 4-8 8H4v-4z M16 4l1-1a2 2 0 0 1 3 0l1 1a2 2 0 0 1 0 3l-2 2",
  eraser: "M13 5l6 6-8 8H7l-4-4z M9 9l6 6 M11 19h10",
  region: "M4 9V4h5 M15 4h5v5 M20 15v5h-5 M9 20H4v-5 M12 9v6 M9 12h6",
  undo: "M9 7L4 12l5 5 M4 12h10a6 6 0 0 1 6 6",
  redo: "M15 7l5 5-5 5 M20 12H10a6 6 0 0 0-6 6",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(svg.namespaceURI, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}
