// Conditions on columns, with how many rows have each value.
import { call } from "./api.js";
import { count, h, icon, put, short } from "./dom.js";
import { ANY, FILTERS } from "./state.js";

const VALUES = 12;
const SIZES = [["", "Any size"], ["256", "256 px or more"], ["512", "512 px or more"], ["1024", "1024 px or more"], ["2048", "2048 px or more"]];
const NAMES = {
  nsfw: "Safety", licence: "Licence", domain: "Domain", min_width: "Width from", max_width: "Width to", min_height: "Height from",
  max_height: "Height to", min_similarity: "Similarity from", max_similarity: "Similarity to", caption_contains: "Caption has", where: "SQL",
};
const TAGS = { UNLIKELY: "Safe", UNSURE: "Unsure", NSFW: "Not safe for work", UNTAGGED: "Without a tag", "": "Without a tag" };
/** What is shown unless other tags are asked for: one's own pictures have none. */
const SAFE = ["UNLIKELY", "UNTAGGED", ""];

/** How a value of a field is called. */
function label(field, value) {
  if (field === "nsfw") return TAGS[value] ?? value;
  return value === "" || value === null ? "none" : value === "?" ? "unknown" : String(value);
}

/** The tags that are shown unless others are asked for; null where the collection has none. */
export const safeTags = (collection) => (collection.filters.includes("nsfw") ? SAFE : null);

/** What a request takes for the filters of a state: `filters` and `where`. */
export function selection(state, safe, without = []) {
  const { where, ...filters } = state.filters;
  if (filters.nsfw?.includes(ANY) || (filters.nsfw === undefined && !safe?.length)) delete filters.nsfw;
  else filters.nsfw ??= safe;
  for (const name of without) delete filters[name];
  return where ? { filters, where } : { filters };
}

/** The conditions of a state as chips that take them away again; the safe tags are none. */
export function chips(state, change) {
  const all = FILTERS.flatMap((name) => [state.filters[name] ?? []].flat().map((value) => [name, value]));
  return all.map(([name, value]) => {
    const text = name === "nsfw" && value === ANY ? "Unsafe pictures too" : `${NAMES[name]}: ${["nsfw", "licence", "domain"].includes(name) ? label(name, value) : value}`;
    return h("button", { type: "button", class: "chip", "aria-label": `Remove the filter ${text}`, onclick: () => {
      const rest = [state.filters[name]].flat().filter((one) => one !== value);
      change({ [name]: rest.length ? rest : undefined });
    } }, h("span", {}, text), icon("close"));
  });
}

/** The panel. `change(some filters)` goes to a state with them; undefined takes one away. */
export class Filters {
  element = h("aside", { id: "filters", class: "filters", "aria-label": "Filters", hidden: true });
  counts = {};
  asked = "";

  constructor(status, safe, change, close) {
    const has = new Set(status.collection.filters);
    Object.assign(this, { has, safe, change, close });
  }

  /** Draw what a state has, and count anew if the panel is open. */
  update(state) {
    this.state = state;
    if (this.element.hidden) return;
    this.draw();
    this.ask();
  }

  toggle(open) {
    this.element.hidden = !open;
    if (open && this.state) this.update(this.state);
  }

  /** Counts of each field under all conditions but its own, so that others of its values can be added. */
  async ask() {
    const key = JSON.stringify(this.state.filters);
    if (key === this.asked) return;
    this.asked = key;
    this.asking?.abort();
    const { signal } = (this.asking = new AbortController());
    const own = { nsfw: ["nsfw"], licence: ["licence"], width: ["min_width", "max_width"], height: ["min_height", "max_height"], similarity: ["min_similarity", "max_similarity"], domain: ["domain"] };
    const wanted = new Map();
    for (const [field, names] of Object.entries(own)) {
      if (!names.some((name) => this.has.has(name))) continue;
      const body = selection(this.state, this.safe, names);
      // Domains take the longest: they do not hold up the others.
      const group = JSON.stringify([body, field === "domain"]);
      wanted.set(group, { ...body, fields: [...(wanted.get(group)?.fields ?? []), field] });
    }
    for (const body of wanted.values()) {
      try {
        const found = await call("facets", { body: { ...body, limit: 40 }, signal });
        Object.assign(this.counts, found.facets);
      } catch (error) {
        if (error.name === "AbortError") return;
        for (const field of body.fields) this.counts[field] = { problem: error.message };
      }
      this.draw();
    }
  }

  draw() {
    const { state, has } = this;
    const focused = this.element.contains(document.activeElement) ? document.activeElement.id : null;
    const scrolled = this.element.scrollTop;
    const on = Object.keys(state.filters).length;
    this.element.replaceChildren();
    put(this.element,
      h("div", { class: "row head" }, h("h2", {}, "Filters"), h("span", { class: "grow" }),
        on ? h("button", { type: "button", class: "link", id: "filters-reset", onclick: () => this.change(Object.fromEntries(FILTERS.map((name) => [name, undefined]))) }, "Reset") : null,
        h("button", { type: "button", class: "icon", id: "filters-close", "aria-label": "Close the filters", onclick: () => this.close() }, icon("close"))),
      has.has("nsfw") ? this.values("nsfw") : null,
      has.has("min_width") || has.has("min_height") ? this.size() : null,
      has.has("min_similarity") ? this.range("similarity", "Similarity of picture and caption", "0.01") : null,
      has.has("caption_contains") ? this.words("caption_contains", "Caption contains", "any case") : null,
      has.has("licence") ? this.values("licence") : null,
      has.has("domain") ? this.values("domain") : null,
      this.words("where", "SQL condition", "width > height AND caption ILIKE '%sea%'"));
    this.element.scrollTop = scrolled;
    if (focused) document.getElementById(focused)?.focus();
  }

  group(title, ...parts) { return h("fieldset", {}, h("legend", {}, title), ...parts); }

  problem(field) {
    return this.counts[field]?.problem ? h("p", { class: "quiet small" }, `No counts: ${this.counts[field].problem}`) : null;
  }

  values(field) {
    const given = this.state.filters[field];
    const all = field === "nsfw" && given?.includes(ANY);
    const chosen = new Set(field === "nsfw" ? given ?? this.safe ?? [] : given ?? []);
    const counted = Array.isArray(this.counts[field]) ? this.counts[field] : [];
    const known = new Map(counted.map((one) => [one.value ?? "", one.rows]));
    const shown = [...new Set([...(given ?? []).filter((one) => one !== ANY), ...known.keys()])];
    if (field !== "nsfw" && !given && counted.length < 2 && !this.counts[field]?.problem) return null;
    const rows = shown.slice(0, Math.max(VALUES, given?.length ?? 0)).sort((a, b) => (known.get(b) ?? 0) - (known.get(a) ?? 0));
    const most = Math.max(1, ...known.values());
    const set = (value, on) => {
      const next = new Set(all ? shown : [...chosen].filter((one) => shown.includes(one)));
      next[on ? "add" : "delete"](value);
      next.delete(ANY);
      this.change({ [field]: next.size ? [...next] : undefined });
    };
    return this.group(NAMES[field],
      field === "nsfw" ? h("label", { class: "value" }, h("input", { type: "checkbox", id: "f-nsfw-any", checked: all, onchange: (event) => this.change({ nsfw: event.target.checked ? [ANY] : undefined }) }), h("span", {}, "All, unsafe ones too")) : null,
      ...rows.map((value, at) => {
        const bar = h("span", { class: "share" });
        bar.style.setProperty("--share", (known.get(value) ?? 0) / most);
        return h("label", { class: "value" },
          h("input", { type: "checkbox", id: `f-${field}-${at}`, checked: all || chosen.has(value), onchange: (event) => set(value, event.target.checked) }),
          h("span", { title: label(field, value) }, label(field, value)), bar, h("span", { class: "number" }, known.has(value) ? count(known.get(value)) : ""));
      }),
      field === "domain" ? h("form", { class: "row", onsubmit: (event) => {
        event.preventDefault();
        const host = event.target.elements[0].value.trim().toLowerCase();
        if (host) set(host, true);
      } }, h("input", { type: "text", id: "f-domain-more", "aria-label": "Another domain", placeholder: "another domain", spellcheck: "false" })) : null,
      this.problem(field));
  }

  number(name, text, step, most) {
    return h("label", {}, h("span", {}, text), h("input", { type: "number", id: `f-${name}`, step, min: most === 1 ? -1 : 0, max: most, value: String(this.state.filters[name] ?? ""), onchange: (event) => {
      const value = event.target.value === "" ? undefined : Number(event.target.value);
      this.change({ [name]: value });
    } }));
  }

  bars(field, step = 1) {
    const counted = Array.isArray(this.counts[field]) ? this.counts[field].filter((one) => one.value !== null).sort((a, b) => a.value - b.value) : [];
    if (counted.length < 2) return null;
    const most = Math.max(...counted.map((one) => one.rows));
    return h("div", { class: "bars", "aria-hidden": "true" }, ...counted.map((one) => {
      const bar = h("i", { title: `${+one.value.toFixed(3)} and up: ${count(one.rows)}` });
      bar.style.setProperty("--share", one.rows / most);
      return bar;
    }));
  }

  range(field, title, step) {
    const counted = Array.isArray(this.counts[field]) ? this.counts[field] : [];
    const total = counted.reduce((sum, one) => sum + one.rows, 0);
    return this.group(title, this.bars(field), h("div", { class: "pair" }, this.number(`min_${field}`, "from", step, 1), this.number(`max_${field}`, "to", step, 1)),
      total ? h("p", { class: "quiet small" }, `${short(total)} rows have one`) : null, this.problem(field));
  }

  size() {
    const { min_width: width, min_height: height } = this.state.filters;
    const preset = width === height ? String(width ?? "") : null;
    return this.group("Size in pixels",
      h("select", { id: "f-size", "aria-label": "Least size", onchange: (event) => {
        const least = event.target.value === "" ? undefined : Number(event.target.value);
        this.change({ min_width: least, min_height: least });
      } }, preset === null || !SIZES.some(([value]) => value === preset) ? h("option", { value: "-", selected: true, disabled: true }, "as below") : null,
      ...SIZES.map(([value, text]) => h("option", { value, selected: value === preset }, text))),
      ...["width", "height"].filter((side) => this.has.has(`min_${side}`)).map((side) => h("div", { class: "side" }, this.bars(side),
        h("div", { class: "pair" }, this.number(`min_${side}`, `${side} from`, "1"), this.number(`max_${side}`, "to", "1")))),
      this.problem("width"));
  }

  words(name, title, placeholder) {
    return h("form", { onsubmit: (event) => { event.preventDefault(); event.target.elements[0].dispatchEvent(new Event("change")); } },
      this.group(title, h("input", { type: "text", id: `f-${name}`, "aria-label": title, placeholder, spellcheck: "false", class: name === "where" ? "mono" : null, value: this.state.filters[name] ?? "", onchange: (event) => this.change({ [name]: event.target.value.trim() || undefined }) })));
  }
}
