// Mouse, pen and finger: drags on a canvas become presses, drags and releases at pixels.

export function listen(canvas, view, tools, state) {
  let active = null;
  const inside = (point) => [0, 1].every((i) => point[i] >= 0 && point[i] < [view.drawing.width, view.drawing.height][i]);
  const shape = () => (["brush", "eraser", "line"].includes(state.tool) ? state.size : 0);

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || active !== null) return;
    const point = view.pixel(event, canvas);
    if (!inside(point)) return;
    active = event.pointerId;
    canvas.setPointerCapture(active);
    tools.press(point);
  });
  canvas.addEventListener("pointermove", (event) => {
    const point = view.pixel(event, canvas);
    view.hover(event.pointerType === "touch" && active === null ? null : point, shape());
    if (active === null ? state.tool !== "polygon" : event.pointerId !== active) return;
    // A fast hand makes several moves a frame, and each is a corner of the line.
    const moves = event.getCoalescedEvents?.() ?? [];
    for (const move of moves.length ? moves : [event]) tools.drag(view.pixel(move, canvas));
  });
  const end = (event) => {
    if (event.pointerId !== active) return;
    active = null;
    if (event.type === "pointercancel") tools.cancel();
    else tools.release();
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("pointerleave", () => view.hover(null));
  canvas.addEventListener("dblclick", () => tools.close());
}
