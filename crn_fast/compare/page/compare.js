// Shows a rater's pairs one by one, and sends each answer before the next pair appears.

const part = (id) => document.getElementById(id);
const sides = ["left", "right"];
const GAP_MS = 500; // an empty page before each pair, so that none masks the next

async function ask(path, options) {
  const reply = await fetch(path, options);
  const value = await reply.json();
  if (!reply.ok) throw new Error(value.error ?? `the server answered ${reply.status}`);
  return value;
}

async function load(rater, trial) {
  return Promise.all(sides.map(async (side) => {
    const query = new URLSearchParams({ rater, trial, side });
    const reply = await fetch(`picture?${query}`);
    if (!reply.ok) throw new Error((await reply.json()).error);
    return createImageBitmap(await reply.blob());
  }));
}

const frame = () => new Promise(requestAnimationFrame);
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

function draw(pictures) {
  sides.forEach((side, i) => {
    const canvas = part(side).firstElementChild;
    canvas.width = pictures[i].width;
    canvas.height = pictures[i].height;
    canvas.getContext("2d").drawImage(pictures[i], 0, 0);
  });
}

function clear() {
  for (const side of sides) {
    const canvas = part(side).firstElementChild;
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  }
}

// The pair is on screen from the frame after it was drawn to the frame after it was cleared.
async function show(pictures, milliseconds) {
  draw(pictures);
  const since = await frame();
  if (milliseconds === null) return { since, shown: 0 };
  let now = since;
  while (now - since < milliseconds - 4) now = await frame(); // within a quarter of a frame
  clear();
  return { since, shown: Math.round(now - since) };
}

function choice() {
  return new Promise((done) => {
    const listening = new AbortController();
    const finish = (side) => { listening.abort(); done(side); };
    const options = { signal: listening.signal };
    for (const side of sides) part(side).addEventListener("click", () => finish(side), options);
    addEventListener("keydown", (event) => {
      if (event.repeat) return;
      if (event.key === "ArrowLeft") finish("left");
      if (event.key === "ArrowRight") finish("right");
    }, options);
  });
}

async function run(rater) {
  const trials = await ask(`trials?${new URLSearchParams({ rater })}`);
  part("start").hidden = true;
  part("progress").max = Math.max(trials.length, 1);
  let next = trials.length ? load(rater, trials[0].trial) : null;
  for (const [i, { trial, milliseconds }] of trials.entries()) {
    part("status").textContent = "";
    const pictures = await next;
    if (i + 1 < trials.length) next = load(rater, trials[i + 1].trial);
    next?.catch(() => {}); // reported when it is awaited
    draw(pictures);
    clear(); // the page already has its final shape when the pair appears
    part("pair").hidden = false;
    await wait(GAP_MS);
    const { since, shown } = await show(pictures, milliseconds);
    part("status").textContent = `Pair ${i + 1} of ${trials.length}: left or right?`;
    const side = await choice();
    const answered = Math.round(performance.now() - since);
    clear();
    await ask("answer", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ rater, trial, side, shown_ms: shown, answered_ms: answered }),
    });
    part("progress").value = i + 1;
  }
  part("pair").hidden = true;
  part("progress").value = part("progress").max;
  part("status").textContent = "That was the last pair. Thank you.";
}

part("start").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await run(part("rater").value.trim());
  } catch (error) {
    part("status").textContent = `Stopped: ${error.message}. Load the page again to go on.`;
  }
});
