// Begins the page: what is served, then the view that the address names.
import { call, explain } from "./api.js";
import { h, icon, toast } from "./dom.js";
import { safeTags } from "./filters.js";
import { SearchView } from "./search.js";
import { begin, go, parse } from "./state.js";

const main = document.getElementById("main");
const views = {};

async function view(name, app) {
  if (!views[name]) {
    if (name === "search") views.search = new SearchView(app);
    if (name === "sql") views.sql = new (await import("./sql.js")).SqlView(app);
    if (name === "status") views.status = new (await import("./status.js")).StatusView(app);
  }
  return views[name];
}

let current = null;
async function show(app, state, kept) {
  const next = await view(state.view, app);
  if (current !== next) {
    current?.leave?.();
    main.replaceChildren(next.element);
    document.body.dataset.view = state.view;
    for (const link of document.querySelectorAll("[data-view]:not(body)")) {
      if (link.dataset.view === state.view) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    current = next;
  }
  const title = { sql: "SQL", status: "Status", search: state.text ?? (state.vector ? "a picture" : state.id !== null ? `like ${state.id}` : "") }[state.view];
  document.title = title ? `${title} · cliphouse` : "cliphouse";
  next.update(state, kept);
}

function themes() {
  const button = document.getElementById("theme");
  const all = ["auto", "light", "dark"];
  const root = document.documentElement;
  const draw = () => {
    const now = root.dataset.theme ?? "auto";
    button.replaceChildren(icon(now));
    button.title = `Theme: ${now}`;
    button.setAttribute("aria-label", `Theme: ${now}`);
  };
  button.addEventListener("click", () => {
    const next = all[(all.indexOf(root.dataset.theme ?? "auto") + 1) % all.length];
    if (next === "auto") delete root.dataset.theme;
    else root.dataset.theme = next;
    try { next === "auto" ? localStorage.removeItem("theme") : localStorage.setItem("theme", next); } catch { /* until the tab is closed */ }
    draw();
    toast(`Theme: ${next === "auto" ? "as the system's" : next}`);
  });
  draw();
}

const KEYS = [
  ["/", "search box"], ["← → ↑ ↓", "from picture to picture"], ["Enter", "open a picture"], ["x", "select it; Shift + x a range"],
  ["m", "more like this picture"], ["c", "more like its caption"], ["o", "open its source"], ["f", "filters"], ["Esc", "close"],
  ["Ctrl + Enter", "run the SQL statement"], ["?", "this list"],
];
function shortcuts() {
  if (document.querySelector("dialog[open]")) return;
  const dialog = h("dialog", { class: "small", "aria-labelledby": "keys-title", onclose: () => dialog.remove() },
    h("h2", { id: "keys-title" }, "Keyboard"),
    h("dl", { class: "keys" }, ...KEYS.map(([key, text]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)))),
    h("form", { method: "dialog", class: "row end", onsubmit: (event) => { event.preventDefault(); dialog.close(); } }, h("button", { class: "primary" }, "Close")));
  document.body.append(dialog);
  dialog.showModal();
}

function keys() {
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const typing = event.target.matches?.("input:not([type=checkbox], [type=radio]), textarea, select");
    if (event.key === "Escape" && current === views.search && views.search) {
      if (typing) event.target.blur();
      else if (!views.search.filters.element.hidden) views.search.panel(false);
    }
    if (typing) return;
    if (event.key === "/") {
      event.preventDefault();
      if (current !== views.search) go({ ...parse(), view: "search", item: null });
      const field = document.getElementById("q");
      field?.focus();
      field?.select();
    }
    if (event.key === "f" && current === views.search) views.search.panel(views.search.filters.element.hidden);
    if (event.key === "?") shortcuts();
  });
}

function links() {
  // A link within the page changes the state without loading it anew; with a key held it is the browser's.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-go], nav a[data-view]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    const to = link.dataset.view === "search" && current !== views.search && lastSearch ? lastSearch : new URL(link.href);
    go(parse(to));
  });
}

let lastSearch = null;
async function start() {
  themes();
  document.getElementById("keys").replaceChildren(icon("keyboard"));
  document.getElementById("keys").addEventListener("click", shortcuts);
  main.replaceChildren(h("p", { class: "quiet boot", role: "status" }, "Opening…"));
  try {
    const status = await call("status");
    const app = { status, safe: safeTags(status.collection) };
    keys();
    links();
    begin((state, kept) => {
      if (state.view === "search") lastSearch = new URL(location.href);
      return show(app, state, kept);
    });
  } catch (error) {
    main.replaceChildren(explain(error, start));
  }
}

start();
