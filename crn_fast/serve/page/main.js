// Puts the page together: what is chosen, and who is told when it changes.

import * as api from "./api.js";
import { encode } from "./png.js";
import { Drawing, LAYERS } from "./drawing.js";
import { icon } from "./icons.js";
import * as keys from "./keys.js";
import { Live } from "./live.js";
import { Materials } from "./materials.js";
import * as pointer from "./pointer.js";
import { Tools } from "./tools.js";
import { Variants } from "./variants.js";
import { View } from "./view.js";

const SCENES = ["town", "boulevard", "suburb", "terrace"];
const SCENE = { labels: "camvid", unknown: "void", fit: "nearest" };
const TOOLS = {
  brush: "B", eraser: "E", bucket: "G", polygon: "P", rectangle: "R", line: "L", eyedropper: "I",
  region: "C",
};
const $ = (id) => document.getElementById(id);
const say = (text) => { $("status").textContent = text; };
const title = (text) => text[0].toUpperCase() + text.slice(1);

async function start() {
  const [model, labels] = await Promise.all([api.json("/v1/model"), api.json("/v1/labels")]);
  const { width, height } = model, { classes } = labels;
  const named = (name) => classes.find((one) => one.name === name)?.id;
  $("model").textContent = `${model.model.replace(/\.\w+$/, "")} · ${width} × ${height} · ${model.backend}`;

  const empty = labels.void ?? 0;
  const state = { tool: "brush", material: named("road") ?? 0, size: 24, layer: 0, empty };
  const drawing = new Drawing(width, height, named("sky") ?? empty);
  const view = new View(drawing, classes.map((one) => one.color), {
    frames: $("frames"), layout: $("layout"), picture: $("picture"), cursor: $("cursor"),
    divider: $("divider"),
    below: () => $("below").offsetHeight + ($("variants").hidden ? 0 : $("variants").offsetHeight) + 34,
  });

  // The picture.
  const jpeg = { format: "jpg", quality: 88 };
  const variants = new Variants(model, classes, {
    box: $("variants"), choices: $("choices"), title: $("variants-title"),
    composedLine: $("composed"), uncompose: $("uncompose"),
  }, () => live.again());
  const strip = () => ({ ...jpeg, images: model.images });
  const grades = [() => ({ ...jpeg, ...variants.query })];
  if (model.preview) grades.unshift(() => ({ ...jpeg, preview: true }));
  if (model.images > 1) grades.push(strip);
  const live = new Live(drawing, grades, {
    render: api.render,
    show(bitmap, grade) {
      if (grades[grade] === strip) variants.show(bitmap, drawing.ids, width, height);
      else view.show(bitmap);
    },
    tell(error, ms) {
      if (error) say(error.message);
      else if (ms) {
        $("pace").textContent = `Rendered in ${Math.round(ms)} ms`;
        if (/answer|waiting/.test($("status").textContent)) say("");
      }
    },
  });
  drawing.onchange = (box) => { view.paint(box); live.changed(); };
  drawing.onfinish = () => { live.changed(true); tell(); };

  // What is chosen.
  const choose = (changes) => {
    if ("tool" in changes && changes.tool !== state.tool) tools.cancel();
    if ("tool" in changes && changes.tool !== "region" && variants.target !== null) aim(null);
    Object.assign(state, changes);
    state.size = Math.max(1, Math.min(120, state.size));
    tell();
  };
  const aim = (id) => {
    variants.aim(id);
    live.again();
    if (id !== null) say(`Choose a variant for ${classes[id].name}.`);
  };
  const tools = new Tools(drawing, state, {
    say,
    pick: (id) => { choose({ material: id, tool: "brush" }); say(`${title(classes[id].name)} picked.`); },
    region: aim,
  });
  const materials = new Materials($("materials"), classes, (id) => choose({ material: id }));

  const buttons = new Map();
  for (const [tool, key] of Object.entries(TOOLS)) {
    if (tool === "region" && model.images < 2) continue;
    const label = tool === "region" ? "Choose a class's variant" : title(tool);
    buttons.set(tool, button(tool, `${label} (${key})`, () => choose({ tool })));
  }
  const undo = button("undo", "Undo (Z)", () => again("undo"));
  const redo = button("redo", "Redo (Y)", () => again("redo"));
  $("tools").append(...buttons.values(), undo, redo);
  function again(what) {
    tools.cancel(); // first: it writes back what lay under its stroke
    say(drawing[what]() ? "" : `Nothing to ${what}.`);
    drawing.onfinish();
  }

  function tell() {
    for (const [tool, one] of buttons) one.setAttribute("aria-pressed", tool === state.tool);
    materials.mark(state.material);
    LAYERS.forEach((_, i) => $(`layer-${i}`).setAttribute("aria-pressed", i === state.layer));
    $("size").value = $("size-shown").value = state.size;
    undo.disabled = !drawing.history.canUndo;
    redo.disabled = !drawing.history.canRedo;
  }

  // Files.
  const read = async (blob, query, what) => {
    const { ids, encoding } = await api.readLayout(blob, query);
    tools.cancel();
    drawing.replace(ids);
    drawing.onfinish();
    say(`${what}: read as ${encoding}.`);
  };
  const guarded = (work) => work.catch((error) => say(error.message));
  const scene = async (name) => read(
    await api.file(`/page/scenes/${name}.png`), SCENE, title(name),
  );
  const importFile = (file) => guarded((async () => {
    const query = { name: file.name.slice(-200), fit: "nearest" };
    if (/_label(Train)?Ids\.png$/.test(file.name)) query.labels = "cityscapes";
    try {
      await read(file, query, file.name);
    } catch (error) {
      // The server says which set the file seems to be in.
      const [, labels] = error.message.match(/try \?labels=([\w-]+)/) ?? [];
      if (!labels || query.labels) throw error;
      await read(file, { ...query, labels }, `${file.name}, taken for ${labels}`);
    }
  })());
  const stem = () => `crn-fast-${new Date().toISOString().slice(0, 19).replace(/[:T]/g, "-")}`;
  const exportLayout = async () => {
    const png = await encode(drawing.ids, width, height, classes.map((one) => one.color));
    save(png, `${stem()}-layout.png`);
    say("Layout exported: a PNG whose palette index is the class.");
  };
  const download = () => guarded((async () => {
    save(await api.render(drawing.ids.slice(), { ...variants.query, format: "png" }), `${stem()}.png`);
    say("Picture saved.");
  })());
  for (const name of SCENES) $("scene").append(new Option(title(name), name));
  $("scene").addEventListener("change", () => $("scene").value && guarded(scene($("scene").value)));
  $("import").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    if ($("file").files.length) importFile($("file").files[0]);
    $("file").value = "";
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) importFile(event.dataTransfer.files[0]);
  });
  $("export").addEventListener("click", exportLayout);
  $("download").addEventListener("click", download);

  // Controls.
  const setView = (slider) => {
    view.arrange(slider);
    $("view-both").setAttribute("aria-pressed", !slider);
    $("view-slider").setAttribute("aria-pressed", slider);
  };
  LAYERS.forEach((_, layer) => $(`layer-${layer}`).addEventListener("click", () => choose({ layer })));
  $("size").addEventListener("input", () => choose({ size: Number($("size").value) }));
  $("view-both").addEventListener("click", () => setView(false));
  $("view-slider").addEventListener("click", () => setView(true));
  $("help").addEventListener("click", () => $("keys").showModal());
  $("keys-close").addEventListener("click", () => $("keys").close());
  keys.describe($("keys-list"));
  pointer.listen($("layout"), view, tools, state);
  pointer.listen($("picture"), view, tools, state);

  const pen = penAt([width >> 1, height >> 1], drawing, tools, view, state, (point) => {
    say(`Column ${point[0]}, row ${point[1]}: ${classes[drawing.at(point)].name}`);
  });
  const step = (by) => choose({ material: (state.material + by + classes.length) % classes.length });
  const tool = (name) => () => buttons.has(name) && choose({ tool: name });
  keys.listen({
    ...Object.fromEntries(Object.entries(TOOLS).map(([name, key]) => [key.toLowerCase(), tool(name)])),
    o: () => { choose({ layer: 1 - state.layer }); say(`Layer: ${LAYERS[state.layer]}.`); },
    "[": () => choose({ size: state.size - Math.max(1, Math.round(state.size / 8)) }),
    "]": () => choose({ size: state.size + Math.max(1, Math.round(state.size / 8)) }),
    digit: (i) => classes[i] && choose({ material: i }),
    ",": () => step(-1), ".": () => step(1),
    z: () => undo.click(), y: () => redo.click(),
    v: () => setView(!view.slider), k: () => variants.next(),
    s: download, x: exportLayout, m: () => $("file").click(), "?": () => $("help").click(),
  }, $("layout"), pen);

  // A first look, which lends the materials their swatches.
  tell();
  const example = await api.file(`/page/scenes/${SCENES[0]}.png`);
  const begun = await api.readLayout(example, SCENE).catch(() => null); // no such classes
  let picture = null;
  if (begun) {
    const all = await createImageBitmap(await api.render(begun.ids, strip()));
    variants.show(all, begun.ids, width, height);
    variants.begin();
    drawing.replace(begun.ids);
    const scale = all.width / width, top = variants.k * height * scale;
    picture = await createImageBitmap(all, 0, top, width * scale, height * scale);
    view.show(picture);
  } else live.again();
  drawing.history.clear();
  tell();
  const ground = async (id) => createImageBitmap(
    await api.render(new Uint8Array(width * height).fill(id), { ...jpeg, k: variants.k }),
  );
  await materials.render(picture, begun?.ids ?? [], width, height, ground);
}

function button(name, label, act) {
  const made = document.createElement("button");
  made.append(icon(name));
  made.title = label;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// The pen that the keyboard moves.
function penAt(point, drawing, tools, view, state, tell) {
  let down = false;
  const show = () => view.hover(point, ["brush", "eraser", "line"].includes(state.tool) ? state.size : 0);
  return {
    move([dx, dy]) {
      point = [
        Math.max(0, Math.min(drawing.width - 1, point[0] + dx)),
        Math.max(0, Math.min(drawing.height - 1, point[1] + dy)),
      ];
      if (down || state.tool === "polygon") tools.drag(point);
      show();
      tell(point);
    },
    toggle() {
      if (down) { down = false; tools.release(); }
      else { tools.press(point); down = tools.busy && state.tool !== "polygon"; }
      show();
    },
    enter() {
      if (state.tool === "polygon") tools.close();
      else if (down) this.toggle();
    },
    cancel() { down = false; tools.cancel(); show(); },
  };
}

start().catch((error) => say(error.message));
