// The address is the state: every view is a link, and going back is going back. What is looked for and the filters are
// called as in the REST contract. What may be long, the vector of a picture and a statement of SQL, stands behind the #,
// which no request for the page carries.

const LISTS = ["nsfw", "licence", "domain"];
const NUMBERS = ["min_width", "max_width", "min_height", "max_height", "min_similarity", "max_similarity"];
const TEXTS = ["caption_contains", "where"];
export const FILTERS = [...LISTS, ...NUMBERS, ...TEXTS];
/** In the address, `nsfw=*` is all of them; nothing is the safe ones. */
export const ANY = "*";

/** The state that an address holds. */
export function parse(address = location) {
  const query = new URLSearchParams(address.search);
  const unsent = new URLSearchParams((address.hash ?? "").slice(1));
  const one = (name) => query.get(name) || null;
  const state = {
    view: ["sql", "status"].includes(one("view")) ? one("view") : "search",
    text: one("text"), image_url: one("image_url"), id: wholeNumber(one("id")), by: one("by") === "text" ? "text" : "image",
    vector: unsent.get("vector"),
    column: one("column") === "text" ? "text" : "image", exact: query.has("exact"), seed: wholeNumber(one("seed")),
    item: wholeNumber(one("item")), sql: unsent.get("sql"), filters: {},
  };
  for (const name of LISTS) if (query.has(name)) state.filters[name] = query.getAll(name);
  for (const name of NUMBERS) if (one(name) !== null && Number.isFinite(Number(one(name)))) state.filters[name] = Number(one(name));
  for (const name of TEXTS) if (one(name)) state.filters[name] = one(name);
  return state;
}

function wholeNumber(text) {
  return text !== null && /^\d{1,16}$/.test(text) && Number.isSafeInteger(Number(text)) ? Number(text) : null;
}

/** The address of a state: the shortest that `parse` reads as the same. */
export function address(state) {
  const query = new URLSearchParams();
  if (state.view !== "search") {
    query.set("view", state.view);
  } else {
    for (const name of ["text", "image_url", "id", "seed"]) if (state[name] !== null) query.set(name, state[name]);
    if (state.id !== null && state.by === "text") query.set("by", "text");
    if (state.column === "text") query.set("column", "text");
    if (state.exact) query.set("exact", "");
    for (const name of FILTERS) for (const value of [state.filters[name] ?? []].flat()) query.append(name, value);
  }
  if (state.item !== null) query.set("item", state.item);
  const text = query.toString().replace(/=(?=&|$)/g, (match, at, all) => (/exact$/.test(all.slice(0, at)) ? "" : match));
  const unsent = { search: state.vector && { vector: state.vector }, sql: state.sql && { sql: state.sql } }[state.view];
  return `/${text && "?"}${text}${unsent ? `#${new URLSearchParams(unsent)}` : ""}`;
}

/** The same state with something else looked for, or nothing. */
export function sought(state, target = {}) {
  return { ...state, view: "search", text: null, image_url: null, id: null, by: "image", vector: null, seed: null, item: null, ...target };
}

/** What makes two states the same list of results. */
export const listKey = (state) => address({ ...state, item: null, view: "search" });

let render = () => {};
/** Call `show(state)` whenever the address changes. */
export function begin(show) {
  render = show;
  history.scrollRestoration = "manual";
  addEventListener("popstate", () => render(parse(), history.state ?? {}));
  render(parse(), history.state ?? {});
}

/** Go to a state. `kept` is remembered with the address on this machine alone: what would make a link too long. */
export function go(state, kept = {}, { replace = false } = {}) {
  const to = address(state);
  if (to === address(parse()) && !replace) {
    history.replaceState(kept, "", to);
  } else {
    history[replace ? "replaceState" : "pushState"](kept, "", to);
  }
  render(parse(), kept);
}
