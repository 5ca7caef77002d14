// The server: requests with the token, and errors as the server words them.

const stored = new URLSearchParams(location.hash.slice(1)).get("token");
if (stored) {
  sessionStorage.setItem("token", stored);
  history.replaceState(null, "", location.pathname); // out of the address bar
}

export class Refused extends Error {
  constructor(status, message, wait) {
    super(message);
    this.status = status;
    this.wait = wait; // seconds, where another try is worth it
  }
}

async function call(path, options = {}) {
  const headers = new Headers(options.headers);
  const token = sessionStorage.getItem("token");
  if (token) headers.set("Authorization", `Bearer ${token}`);
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer. Is it still running?", 2);
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  const wait = Number(response.headers.get("Retry-After")) || 0;
  throw new Refused(response.status, told.message ?? `The server said ${response.status}.`, wait);
}

export const json = async (path) => (await call(path)).json();

export async function file(path) {
  return (await call(path)).blob();
}

// uint8 ids -> the picture's file.
export async function render(ids, query, signal) {
  const headers = { "Content-Type": "application/octet-stream" };
  const response = await call(`/v1/render?${new URLSearchParams(query)}`, {
    method: "POST", body: ids, headers, signal,
  });
  return response.blob();
}

// A label PNG -> ids in the model's classes and size, and how they were read.
export async function readLayout(png, query) {
  const response = await call(`/v1/layout?${new URLSearchParams(query)}`, {
    method: "POST", body: png, headers: { "Content-Type": "image/png" },
  });
  const ids = new Uint8Array(await response.arrayBuffer());
  return { ids, encoding: response.headers.get("X-Encoding") };
}
