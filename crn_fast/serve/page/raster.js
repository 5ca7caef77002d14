// Shapes as spans of whole pixels: every function calls span(y, from, to) with `to` exclusive, inside
// the picture. No antialiasing: a pixel has a class or it has not.

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

function clipped(width, height, span) {
  return (y, from, to) => {
    const a = Math.max(from, 0), b = Math.min(to, width);
    if (y >= 0 && y < height && a < b) span(y, a, b);
  };
}

// Rows of a disc of `size` pixels across: [dy, from, to] about its middle pixel.
export function disc(size) {
  const rows = [], middle = (size - 1) / 2, low = -Math.floor(size / 2), radius = size / 2;
  for (let i = 0; i < size; i++) {
    const half = Math.sqrt(Math.max(radius * radius - (i - middle) ** 2, 0));
    const from = Math.ceil(middle - half - 1e-9), to = Math.floor(middle + half + 1e-9) + 1;
    if (from < to) rows.push([low + i, low + from, low + to]);
  }
  return rows;
}

// A brush drawn from a to b: its disc at each pixel of the line between them (Bresenham).
export function line(width, height, [x0, y0], [x1, y1], size, span) {
  const put = clipped(width, height, span), rows = disc(size);
  const dx = Math.abs(x1 - x0), dy = -Math.abs(y1 - y0);
  const sx = x0 < x1 ? 1 : -1, sy = y0 < y1 ? 1 : -1;
  let error = dx + dy, x = x0, y = y0;
  for (;;) {
    for (const [row, from, to] of rows) put(y + row, x + from, x + to);
    if (x === x1 && y === y1) return;
    const twice = 2 * error;
    if (twice >= dy) { error += dy; x += sx; }
    if (twice <= dx) { error += dx; y += sy; }
  }
}

// The rectangle with both corners in it.
export function rectangle(width, height, [x0, y0], [x1, y1], span) {
  const put = clipped(width, height, span);
  const top = Math.max(Math.min(y0, y1), 0), bottom = Math.min(Math.max(y0, y1), height - 1);
  for (let y = top; y <= bottom; y++) put(y, Math.min(x0, x1), Math.max(x0, x1) + 1);
}

// The pixels whose centres lie inside, by the even-odd rule, and the outline itself.
export function polygon(width, height, points, span) {
  const put = clipped(width, height, span);
  const ys = points.map((point) => point[1]);
  const top = clamp(Math.min(...ys), 0, height), bottom = clamp(Math.max(...ys), -1, height - 1);
  for (let y = top; y <= bottom; y++) {
    const crossings = [];
    points.forEach(([x0, y0], i) => {
      const [x1, y1] = points[(i + 1) % points.length];
      // Half open, so that a corner counts once.
      if ((y0 <= y) !== (y1 <= y)) crossings.push(x0 + ((y - y0) * (x1 - x0)) / (y1 - y0));
    });
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      put(y, Math.ceil(crossings[i]), Math.floor(crossings[i + 1]) + 1);
    }
  }
  points.forEach((point, i) => line(width, height, point, points[(i + 1) % points.length], 1, span));
}

// The pixels of one id that are connected with [x, y] by sides.
export function flood(ids, width, height, [x, y], span) {
  const id = ids[y * width + x], seen = new Uint8Array(width * height), stack = [[x, y]];
  while (stack.length) {
    const [column, row] = stack.pop(), start = row * width;
    if (seen[start + column]) continue;
    let from = column, to = column + 1;
    while (from > 0 && ids[start + from - 1] === id && !seen[start + from - 1]) from--;
    while (to < width && ids[start + to] === id && !seen[start + to]) to++;
    seen.fill(1, start + from, start + to);
    span(row, from, to);
    for (const next of [row - 1, row + 1]) {
      if (next < 0 || next >= height) continue;
      for (let i = from, inside = false; i < to; i++) {
        const at = next * width + i, open = ids[at] === id && !seen[at];
        if (open && !inside) stack.push([i, next]);
        inside = open;
      }
    }
  }
}
