// Requests to /api/v1. An answer that is not what was asked for becomes a Problem that says so kindly.
import { h, put } from "./dom.js";

const BASE = "/api/v1/";
const MOST_TRIES = 5;

/** What the service said is wrong (RFC 9457), or that it could not be reached. */
export class Problem extends Error {
  constructor(status, { type = "", title = "", detail = "", request_id = null, errors = [] } = {}) {
    super(detail || title || `the service answered ${status}`);
    Object.assign(this, { status, type, title, request: request_id, errors });
  }
}

export const key = {
  get: () => { try { return sessionStorage.getItem("key"); } catch { return key.kept ?? null; } },
  set: (value) => { key.kept = value; try { sessionStorage.setItem("key", value); } catch { /* kept for this page alone */ } },
};

const headers = (more = {}) => (key.get() ? { ...more, Authorization: `Bearer ${key.get()}` } : more);

/** The answer to one request, as a Response; waits and tries again where the service is busy, and asks for a key. */
async function request(path, { body, signal, waiting } = {}) {
  for (let tries = 1; ; tries++) {
    let response;
    try {
      response = await fetch(path.startsWith("/") ? path : BASE + path, body === undefined
        ? { headers: headers(), signal }
        : { method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body), signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, { detail: "The service does not answer. Is it still running?" });
    }
    if (response.ok) return response;
    const said = await response.json().catch(() => ({}));
    if (response.status === 401) {
      await askForKey(said.detail);
      continue;
    }
    if ((response.status === 503 || response.status === 429) && tries < MOST_TRIES && response.headers.has("Retry-After")) {
      const seconds = Math.min(30, Math.max(1, Number(response.headers.get("Retry-After")) || 1));
      for (let left = seconds; left > 0; left--) {
        waiting?.(left);
        await pause(1000, signal);
      }
      waiting?.(0);
      continue;
    }
    throw new Problem(response.status, said);
  }
}

/** The JSON that a request is answered with; `body` makes it a POST. */
export const call = async (path, options) => (await request(path, options)).json();
/** The bytes that a request is answered with. */
export const blob = async (path, options) => (await request(path, options)).blob();

function pause(time, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, time);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(new DOMException("", "AbortError")); }, { once: true });
  });
}

let asking = null;
/** Ask for a key once, however many requests want one. */
function askForKey(detail) {
  asking ??= new Promise((resolve, reject) => {
    const field = h("input", { type: "password", id: "api-key", autocomplete: "off", required: true });
    const dialog = h("dialog", { class: "small", "aria-labelledby": "key-title" },
      h("form", { method: "dialog", onsubmit: (event) => {
        event.preventDefault();
        key.set(field.value.trim());
        done(resolve);
      } },
      h("h2", { id: "key-title" }, "This service wants a key"),
      h("p", { class: "quiet" }, detail || "Ask whoever runs it for one."),
      h("label", { for: "api-key" }, "API key"), field,
      h("p", { class: "quiet" }, "It is kept until this tab is closed."),
      h("div", { class: "row end" },
        h("button", { type: "button", class: "plain", onclick: () => dialog.close() }, "Cancel"),
        h("button", { class: "primary" }, "Continue"))));
    const done = (how) => { asking = null; dialog.remove(); how(new Problem(401, { detail: "The service wants a key." })); };
    dialog.addEventListener("close", () => done(reject));
    document.body.append(dialog);
    dialog.showModal();
    field.focus();
  });
  return asking;
}

const TITLES = {
  0: "No answer", 401: "A key is wanted", 403: "Not allowed", 404: "Not there", 413: "Too large", 422: "That cannot be asked",
  429: "Too many requests", 501: "Something is not installed", 503: "The service is busy", 504: "That took too long",
};

/** A problem as a box that says it, with a way on. */
export function explain(error, again, ...more) {
  if (!(error instanceof Problem)) console.error(error);
  const title = TITLES[error.status] ?? "Something went wrong";
  return h("div", { class: "problem", role: "alert" },
    h("h2", {}, title), h("p", {}, error.message),
    error.request ? h("p", { class: "quiet small" }, `Request ${error.request}`) : null,
    put(h("div", { class: "row" }), again ? h("button", { type: "button", onclick: again }, "Try again") : null, ...more));
}
