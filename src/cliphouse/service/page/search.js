// The view of searching: box, switches, filters, results.
import { call, explain } from "./api.js";
import { choice, copy, count, h, icon, many, ms, put, short, toast } from "./dom.js";
import { chips, Filters } from "./filters.js";
import { Detail } from "./detail.js";
import { Grid } from "./grid.js";
import { show, sources } from "./pictures.js";
import { Results } from "./results.js";
import { downloads, Selection } from "./selection.js";
import { address, go, parse, sought } from "./state.js";
import { fromFile, newSeed, read, seeks } from "./target.js";

const EXAMPLES = 5;
const PATHS = { exact: "every row compared", hnsw: "by a graph", ivf: "by lists" };

export class SearchView {
  constructor(app) {
    this.app = app;
    this.selection = new Selection(() => this.grid.hits.map((hit) => hit.id), () => this.grid.mark());
    this.grid = new Grid({
      open: (hit) => this.to({ item: hit.id }, { ...kept(), opened: true }), like: (hit, by) => this.like(hit, by),
      more: () => this.results.more(), select: (ids, on) => this.selection.set(ids, on),
    }, this.selection.ids);
    this.filters = new Filters(app.status, app.safe, (some) => this.filter(some), () => this.panel(false));
    this.results = new Results(app, this.grid, {
      began: () => this.began(), arrived: (list) => this.arrived(list), failed: (error, again) => this.failed(error, again),
      waiting: (seconds) => { this.summary.textContent = seconds ? `The service is busy; trying again in ${seconds} s` : "Searching…"; },
    });
    this.detail = new Detail({
      close: () => this.closeItem(), like: (hit, by) => this.like(hit, by), known: (id) => this.grid.hits[this.grid.at(id)],
      can: (by) => this.grid.at(this.detail.id) >= 0 && Boolean(this.grid.hits[this.grid.at(this.detail.id) + by]),
      step: (by) => this.step(by),
    });
    this.build();
    addEventListener("dragover", (event) => { if (takes(event.dataTransfer)) { event.preventDefault(); document.getElementById("drop").classList.add("on"); } });
    addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.getElementById("drop").classList.remove("on"); });
    addEventListener("drop", (event) => this.dropped(event));
    addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
      if (file) { event.preventDefault(); this.picture(file); }
    });
  }

  build() {
    this.field = h("input", { type: "search", id: "q", name: "text", "aria-label": "Search for", autocomplete: "off", enterkeyhint: "search", maxLength: 2000, spellcheck: "true" });
    this.file = h("input", { type: "file", accept: "image/*", class: "away", id: "file", tabindex: "-1", "aria-label": "Picture to search by", onchange: () => { if (this.file.files[0]) this.picture(this.file.files[0]); this.file.value = ""; } });
    this.chip = h("span", { class: "target", hidden: true });
    this.form = h("form", { role: "search", class: "box", onsubmit: (event) => { event.preventDefault(); this.submit(); } },
      icon("search"), this.chip, this.field, this.file,
      h("button", { type: "button", class: "icon", "aria-label": "Search by a picture", title: "Search by a picture: choose one, paste it, or drop it anywhere", onclick: () => this.file.click() }, icon("picture")),
      h("button", { class: "primary", id: "go" }, "Search"));
    this.switches = h("div", { class: "switches" });
    this.chosen = h("div", { class: "chips", role: "group", "aria-label": "Filters that are on" });
    this.notice = h("div", { class: "notice", hidden: true });
    this.summary = h("p", { id: "summary", role: "status" });
    this.tools = h("div", { class: "row" });
    this.sql = h("div", { class: "statement", id: "statement", hidden: true });
    this.empty = h("div", { class: "empty", hidden: true });
    this.moreButton = h("button", { type: "button", class: "plain onward", hidden: true, onclick: () => this.results.more() }, "More");
    this.start = h("div", { class: "start", hidden: true });
    this.element = h("div", { class: "search" },
      h("h1", { class: "away" }, "Search pictures"),
      h("div", { class: "ask" }, this.form, this.switches, this.chosen), this.notice,
      h("div", { class: "columns" }, this.filters.element,
        h("section", { class: "found", "aria-label": "What was found" },
          this.start, h("div", { class: "above" }, this.summary, this.tools), this.sql, this.empty, this.grid.list, this.grid.gone, this.results.sentinel, this.moreButton)),
      this.selection.bar);
    const { status } = this.app;
    this.field.placeholder = status.encoder_ready ? "Describe a picture, or drop one here" : "id:123 for pictures like that row";
    if (!status.encoder_ready) {
      this.notice.hidden = false;
      put(this.notice, h("strong", {}, "Words and pictures cannot be looked for yet. "), status.encoder_problem ?? "No encoder is there.",
        " Searching by a picture of the collection, filters and SQL work.");
    }
    this.panel(innerWidth >= 1000 && remembered("filters") === "open", false);
  }

  /** Go to the state that is there, with something changed. */
  to(some, with_ = kept()) { go({ ...parse(), ...some }, with_); }

  filter(some) {
    const filters = { ...parse().filters, ...some };
    for (const name of Object.keys(filters)) if (filters[name] === undefined) delete filters[name];
    this.to({ filters, item: null });
  }

  like(hit, by) {
    this.detail.hide();
    go(sought(parse(), { id: hit.id, by }), {});
    this.field.focus({ preventScroll: true });
    scrollTo(0, 0);
  }

  submit() {
    const text = this.field.value.trim();
    const state = parse();
    if (!text && (state.vector || state.id !== null)) return;
    go(sought(state, text ? read(text, this.app.status) : {}));
    if (matchMedia("(pointer: coarse)").matches) this.field.blur();
  }

  async picture(file) {
    if (!this.app.status.encoder_ready) return toast(this.app.status.encoder_problem ?? "No encoder is there");
    const before = parse();
    this.summary.textContent = "Looking at the picture…";
    this.element.setAttribute("aria-busy", "true");
    try {
      const { vector, thumbnail } = await fromFile(file);
      go(sought(before, { vector }), { thumbnail, name: file.name });
    } catch (error) {
      // A list that is still on its way does not hide what was said.
      this.told = true;
      this.failed(error, () => this.picture(file));
    } finally {
      this.element.removeAttribute("aria-busy");
    }
  }

  dropped(event) {
    document.getElementById("drop").classList.remove("on");
    if (!takes(event.dataTransfer)) return;
    event.preventDefault();
    const file = [...event.dataTransfer.files][0];
    if (file) return this.picture(file);
    const url = event.dataTransfer.getData("text/uri-list").split("\n")[0];
    if (this.app.status.image_urls) go(sought(parse(), { image_url: url }));
    else toast("This service fetches no pictures from the web: save the picture and drop its file, or paste it");
  }

  panel(open, focus = true) {
    this.filters.toggle(open);
    this.element.classList.toggle("filtering", open);
    if (focus) { try { localStorage.setItem("filters", open ? "open" : "closed"); } catch { /* not remembered */ } }
    this.button?.setAttribute("aria-expanded", String(open));
    if (focus) (open ? document.getElementById("filters-close") : this.button)?.focus();
  }

  update(state, kept) {
    const list = { ...state, item: null };
    this.state = state;
    if (document.activeElement !== this.field || state.text !== null || state.image_url !== null) this.field.value = state.text ?? state.image_url ?? "";
    this.drawTarget(state, kept);
    this.drawSwitches(state);
    this.chosen.replaceChildren(...chips(state, (some) => this.filter(some)));
    this.filters.update(state);
    if (!this.app.status.collection.rows) return this.nothingYet();
    this.results.show(list);
    if (state.item !== null) this.detail.show(state.item);
    else this.closed();
  }

  closed() {
    const { id } = this.detail;
    this.detail.hide();
    if (id !== null) this.grid.focus(id);
  }

  closeItem() {
    if (history.state?.opened) history.back();
    else go({ ...parse(), item: null }, kept(), { replace: true });
  }

  step(by) {
    const hit = this.grid.hits[this.grid.at(this.detail.id) + by];
    if (hit) go({ ...parse(), item: hit.id }, history.state ?? {}, { replace: true });
    if (this.grid.at(hit?.id) > this.grid.hits.length - 5) this.results.more();
  }

  drawTarget(state, kept) {
    this.chip.replaceChildren();
    this.chip.hidden = state.vector === null && state.id === null;
    if (this.chip.hidden) return;
    const img = h("img", { alt: "", width: 28, height: 28 });
    let text = "your picture";
    if (state.vector !== null) {
      if (kept.thumbnail) img.src = kept.thumbnail;
      else img.hidden = true;
      text = kept.name || text;
    } else {
      text = `like ${state.by === "text" ? "the caption of " : ""}id ${state.id}`;
      const known = this.grid.hits[this.grid.at(state.id)];
      const draw = (hit) => {
        show(img, sources(hit, 64), () => { img.hidden = true; });
        if (hit.caption) name.textContent = state.by === "text" ? `caption “${hit.caption}”` : `like “${hit.caption}”`;
      };
      img.hidden = false;
      if (known) queueMicrotask(() => draw(known));
      else call(`items/${state.id}`).then(({ item, picture }) => draw({ ...item, picture })).catch(() => { img.hidden = true; });
    }
    const name = h("span", {}, text);
    put(this.chip, img, name, h("button", { type: "button", class: "icon", "aria-label": `Stop searching by ${text}`, onclick: () => { go(sought(parse())); this.field.focus(); } }, icon("close")));
  }

  drawSwitches(state) {
    const on = Object.keys(state.filters).length;
    const open = !this.filters.element.hidden;
    const focused = this.switches.contains(document.activeElement) ? document.activeElement : null;
    const which = focused && [...this.switches.querySelectorAll("button, input")].indexOf(focused);
    this.button = h("button", { type: "button", "aria-expanded": String(open), "aria-controls": "filters", onclick: () => this.panel(this.filters.element.hidden) }, icon("filter"), on ? `Filters (${on})` : "Filters");
    this.switches.replaceChildren(this.button,
      choice("Compare with", [["image", "Pictures", "Compare with the pictures of the collection"], ["text", "Captions", "Compare with the captions of the collection"]], state.column, (column) => this.to({ column, item: null })),
      choice("Search", [["", "Fast", "Use an index where there is one: may miss a few"], ["yes", "Exact", "Compare every row"]], state.exact ? "yes" : "", (exact) => this.to({ exact: Boolean(exact), item: null })));
    if (which !== null && which >= 0) this.switches.querySelectorAll("button, input")[which]?.focus();
  }

  began() {
    this.told = false;
    this.summary.textContent = "Searching…";
    this.element.classList.add("loading");
    this.empty.hidden = true;
    this.start.hidden = true;
    this.moreButton.hidden = true;
  }

  arrived(list) {
    const { state } = this;
    this.element.classList.remove("loading");
    this.empty.hidden = !this.told;
    this.moreButton.hidden = list.done;
    const seeking = seeks(state);
    const { plan } = list;
    this.summary.replaceChildren();
    const found = `${list.done ? "" : "first "}${many(list.hits.length, "picture")}`;
    if (!list.hits.length) this.noHits();
    else if (!seeking) put(this.summary, "Some pictures of ", h("strong", {}, many(this.app.status.collection.rows, "row")));
    else {
      put(this.summary, h("strong", {}, capital(found)), ` in ${ms(list.took)}`,
        h("span", { class: "quiet", title: plan.reason }, ` · ${PATHS[plan.path] ?? plan.path}${plan.effort ? `, effort ${count(plan.effort)}` : ""}${plan.rows_read === null ? "" : ` · ${count(plan.rows_read)} rows read`}`));
    }
    this.drawStart(list, seeking);
    this.tools.replaceChildren();
    if (list.hits.length) {
      put(this.tools,
        seeking ? null : h("button", { type: "button", class: "plain", onclick: () => this.to({ seed: newSeed(), item: null }) }, icon("dice"), "Others"),
        h("button", { type: "button", class: "plain", "aria-expanded": String(!this.sql.hidden), "aria-controls": "statement", onclick: (event) => this.showSql(event.currentTarget) }, icon("code"), "Show SQL"),
        this.saving());
    }
    this.drawSql(plan);
  }

  saving() {
    const most = this.app.status.max_k;
    const rows = h("input", { type: "number", min: 1, max: most, value: String(Math.min(most, 1000)), "aria-label": "Rows to download" });
    return h("details", { class: "menu" }, h("summary", {}, icon("download"), "Download"),
      h("div", {}, h("label", { class: "row" }, "The nearest ", rows, " rows"),
        downloads(() => ({ ...this.results.request(), k: Math.min(most, Math.max(1, Number(rows.value) || 1)) }), "results")));
  }

  showSql(button) {
    this.sql.hidden = !this.sql.hidden;
    button.setAttribute("aria-expanded", String(!this.sql.hidden));
  }

  drawSql(plan) {
    this.sql.replaceChildren();
    if (!plan) { this.sql.hidden = true; return; }
    put(this.sql,
      h("div", { class: "row" }, h("span", { class: "quiet" }, plan.reason), h("span", { class: "grow" }),
        h("button", { type: "button", onclick: () => copy(plan.sql, "Statement") }, icon("copy"), "Copy"),
        h("button", { type: "button", onclick: () => go({ ...sought(parse()), view: "sql", sql: plan.sql }) }, icon("out"), "Open in SQL")),
      h("pre", { tabindex: "0", "aria-label": "The statement" }, h("code", {}, abbreviated(plan.sql))));
  }

  drawStart(list, seeking) {
    this.start.hidden = seeking || !list.hits.length;
    if (this.start.hidden || !this.app.status.encoder_ready) { this.start.hidden = true; return; }
    const captions = [...new Set(list.hits.map((hit) => hit.caption).filter((one) => one && one.length <= 40))].slice(0, EXAMPLES);
    this.start.replaceChildren(h("span", { class: "quiet" }, "Try "), ...captions.map((text) => h("a", { class: "chip", href: address(sought(parse(), { text })), "data-go": "" }, text)));
  }

  noHits() {
    const on = Object.keys(this.state.filters).length;
    this.summary.textContent = "No pictures";
    this.empty.hidden = false;
    this.empty.replaceChildren(h("h2", {}, "Nothing passes these filters"),
      h("p", { class: "quiet" }, on ? "Take some away:" : "The rows that are tagged safe are none of these."),
      h("div", { class: "row" }, ...chips(this.state, (some) => this.filter(some)),
        on ? h("button", { type: "button", onclick: () => this.to({ filters: {}, item: null }) }, "Remove all filters") : null,
        this.state.filters.nsfw === undefined && this.app.safe ? h("button", { type: "button", onclick: () => this.filter({ nsfw: ["*"] }) }, "Unsafe pictures too") : null));
  }

  nothingYet() {
    const { name } = this.app.status.collection;
    this.summary.textContent = "";
    this.empty.hidden = false;
    this.empty.replaceChildren(h("h2", {}, "No pictures yet"),
      h("p", {}, `The collection ${name} has no rows. Stop the service, then:`),
      h("pre", {}, h("code", {}, "cliphouse add ~/Pictures        # your own\ncliphouse load ./shards         # embeddings as LAION has them")));
  }

  failed(error, again) {
    this.element.classList.remove("loading");
    this.summary.textContent = this.grid.hits.length ? this.summary.textContent : "";
    this.empty.hidden = false;
    const loosen = error.type === "invalid-filter" || Object.keys(this.state.filters).length
      ? h("button", { type: "button", onclick: () => this.to({ filters: {}, item: null }) }, "Remove all filters") : null;
    const noEncoder = error.status === 501 || !this.app.status.encoder_ready;
    this.empty.replaceChildren(explain(error, noEncoder ? null : again, error.status === 422 ? loosen : null,
      seeks(this.state) ? h("button", { type: "button", onclick: () => go(sought(parse())) }, "Back to some pictures") : null));
  }

  leave() {
    this.results.shown = false;
    this.detail.hide();
  }
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);
const takes = (data) => data && (data.types.includes("Files") || data.types.includes("text/uri-list"));
/** A statement with its long vectors cut. */
export const abbreviated = (sql) => sql.replace(/\[\s*(-?[\d.]+(?:e-?\d+)?(?:,\s*-?[\d.]+(?:e-?\d+)?){7,})\s*\]/gi, (whole, inside) => {
  const values = inside.split(",");
  return `[${values.slice(0, 3).map((one) => one.trim()).join(", ")}, … ${values.length} numbers]`;
});
/** What is remembered of a picture that was given, whatever else changes. */
function kept() {
  const { thumbnail, name } = history.state ?? {};
  return thumbnail || name ? { thumbnail, name } : {};
}
function remembered(name) { try { return localStorage.getItem(name); } catch { return null; } }
