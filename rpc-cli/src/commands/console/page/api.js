// Talks to the console's server.

/** Where the token is in the storage of the tab. */
const KEY = "rpc-console-token";

/** A request that the server refuses. `details` is what it says about that. */
export class Refused extends Error {
  constructor(status, details) {
    super(details.message ?? `the console answered with status ${status}`);
    this.status = status;
    this.details = details;
  }
}

/**
 * Takes the token out of the address bar, and keeps it for this tab. Returns whether there was one.
 */
export function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return false;
  sessionStorage.setItem(KEY, token);
  history.replaceState(null, "", "/#/");
  return true;
}

export function hasToken() {
  return sessionStorage.getItem(KEY) !== null;
}

/** Sends a request: `GET` without a body. Throws `Refused` if the server refuses it. */
async function send(path, body, signal) {
  const headers = { authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}` };
  if (body !== undefined) headers["content-type"] = "application/json";
  const response = await fetch(path, {
    method: body === undefined ? "GET" : "POST",
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal,
    cache: "no-store",
    credentials: "omit",
  });
  if (response.ok) return response;
  const text = await response.text();
  let details;
  try {
    details = JSON.parse(text);
  } catch {
    details = { message: text };
  }
  throw new Refused(response.status, details);
}

/** Sends a request and returns its answer. */
export async function ask(path, body) {
  return (await send(path, body)).json();
}

/** Sends a request, and calls `each` with every line of its answer. */
export async function lines(path, body, signal, each) {
  const response = await send(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  // A line may arrive in many pieces, which are joined only once.
  let pieces = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = value.split("\n");
    for (const part of parts.slice(0, -1)) {
      pieces.push(part);
      each(JSON.parse(pieces.join("")));
      pieces = [];
    }
    pieces.push(parts.at(-1));
  }
}
