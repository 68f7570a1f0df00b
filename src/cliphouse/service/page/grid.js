// Hits as a justified grid: rows of one height, without a script that measures. Arrow keys go by what stands where.
import { h, icon, many } from "./dom.js";
import { show, sources, web } from "./pictures.js";

const SIZE = 256, NARROWEST = 0.5, WIDEST = 2.4;

/** The grid of results. `act` has open(hit), like(hit, by), more() and select(ids, on). */
export class Grid {
  list = h("ul", { class: "grid", role: "list", "aria-label": "Results" });
  gone = h("p", { class: "gone quiet", role: "status" });
  cells = new Map();
  hits = [];
  broken = new Set();
  lost = new Set(); // what could not be loaded in any list: it is not tried again, so that a list comes back as tall as it was
  column = null; // where a way up or down began
  last = null; // where a range of chosen ones begins

  constructor(act, chosen) {
    Object.assign(this, { act, chosen });
    this.list.addEventListener("keydown", (event) => this.key(event));
    this.list.addEventListener("pointerdown", () => { this.column = null; });
    this.list.addEventListener("focusin", (event) => this.reach(event.target.closest("li")));
  }

  clear() {
    this.list.replaceChildren();
    this.cells.clear();
    Object.assign(this, { hits: [], broken: new Set(), last: null });
    this.list.classList.remove("all");
    this.count();
  }

  add(hits, distances) {
    const fresh = hits.filter((hit) => !this.cells.has(hit.id));
    for (const hit of fresh) {
      const cell = this.cell(hit, distances);
      this.cells.set(hit.id, cell);
      this.hits.push(hit);
    }
    this.list.append(...fresh.map((hit) => this.cells.get(hit.id)));
    for (const hit of fresh) if (this.lost.has(hit.id)) this.fail(hit.id);
    if (!this.list.querySelector("li > button[tabindex='0']")) this.reach(this.list.firstElementChild);
  }

  cell(hit, distances) {
    const name = hit.caption || `Picture ${hit.id}`;
    const places = sources(hit, SIZE);
    const img = h("img", { alt: name, loading: "lazy", decoding: "async", referrerpolicy: "no-referrer" });
    const cell = h("li", { class: "cell" },
      h("button", { type: "button", class: "open", tabindex: "-1", onclick: () => this.act.open(hit) }, img, h("span", { class: "words", "aria-hidden": "true" }, name)),
      h("label", { class: "pick" },
        h("input", { type: "checkbox", tabindex: "-1", "aria-label": `Select: ${name}`, checked: this.chosen.has(hit.id), onclick: (event) => this.pick(hit.id, event.target.checked, event.shiftKey) })),
      h("button", { type: "button", class: "more", tabindex: "-1", title: "More like this", "aria-label": `More like this: ${name}`, onclick: () => this.act.like(hit, "image") }, icon("like")),
      h("div", { class: "line", "aria-hidden": "true" },
        h("span", { class: "caption", title: name }, hit.caption || "no caption"),
        distances && hit.distance !== null ? h("span", { class: "distance", title: "Cosine distance: 0 is the same" }, hit.distance.toFixed(3)) : null));
    cell.dataset.id = hit.id;
    cell.classList.toggle("chosen", this.chosen.has(hit.id));
    const ratio = hit.width > 0 && hit.height > 0 ? hit.width / hit.height : 0;
    shape(cell, ratio || 1);
    if (!places.length) {
      // Nothing to show was promised, so nothing is broken: a row of words.
      cell.classList.add("wordy");
    } else if (!this.lost.has(hit.id)) {
      img.addEventListener("load", () => {
        cell.classList.add("loaded");
        if (!ratio) shape(cell, img.naturalWidth / img.naturalHeight || 1);
      }, { once: true });
      show(img, places, () => this.fail(hit.id));
    }
    return cell;
  }

  fail(id) {
    const cell = this.cells.get(id);
    if (!cell || this.broken.has(id)) return;
    this.broken.add(id);
    this.lost.add(id);
    cell.classList.add("broken");
    if (cell.contains(document.activeElement)) this.move(cell, 1);
    this.count();
  }

  count() {
    this.gone.replaceChildren();
    if (!this.broken.size) return;
    const all = this.list.classList.contains("all");
    this.gone.append(`${many(this.broken.size, "picture")} could not be loaded. `,
      h("button", { type: "button", class: "link", "aria-pressed": String(all), onclick: () => {
        this.list.classList.toggle("all");
        this.count();
        this.gone.querySelector("button")?.focus();
      } }, all ? "Hide them" : "Show them"));
  }

  pick(id, on, range) {
    let ids = [id];
    if (range && this.last !== null) {
      const [from, to] = [this.at(this.last), this.at(id)].sort((a, b) => a - b);
      ids = this.hits.slice(from, to + 1).map((hit) => hit.id).filter((one) => this.visible(this.cells.get(one)));
    }
    this.last = id;
    this.act.select(ids, on);
  }

  /** Draw again which cells are chosen. */
  mark() {
    for (const [id, cell] of this.cells) {
      const on = this.chosen.has(id);
      cell.classList.toggle("chosen", on);
      cell.querySelector("input").checked = on;
    }
  }

  at(id) { return this.hits.findIndex((hit) => hit.id === id); }
  visible(cell) { return !cell.classList.contains("broken") || this.list.classList.contains("all"); }

  /** The one cell that Tab comes to. */
  reach(cell) {
    if (!cell) return;
    for (const one of this.list.querySelectorAll("[tabindex='0']")) one.tabIndex = -1;
    for (const one of cell.querySelectorAll("button, input")) one.tabIndex = 0;
  }

  focus(id = null) {
    const cell = this.cells.get(id) ?? [...this.cells.values()].find((one) => this.visible(one));
    cell?.querySelector(".open").focus();
  }

  move(cell, by) {
    for (let next = cell; (next = by > 0 ? next.nextElementSibling : next.previousElementSibling);) {
      if (this.visible(next)) return next.querySelector(".open").focus();
    }
    if (by > 0) this.act.more();
  }

  /** The nearest cell of the next row, up or down. */
  row(cell, down) {
    const here = cell.getBoundingClientRect();
    // Several steps keep to one column, however wide the pictures on the way are.
    const middle = this.column ?? here.left + here.width / 2;
    let best = null;
    for (let next = cell; (next = down ? next.nextElementSibling : next.previousElementSibling);) {
      if (!this.visible(next)) continue;
      const box = next.getBoundingClientRect();
      if (Math.abs(box.top - here.top) < 4) continue;
      if (best && Math.abs(box.top - best.top) > 4) break;
      const far = Math.abs(box.left + box.width / 2 - middle);
      if (!best || far < best.far) best = { cell: next, far, top: box.top };
    }
    if (best) best.cell.querySelector(".open").focus();
    this.column = middle;
    if (best) return;
    if (down) this.act.more();
  }

  key(event) {
    const cell = event.target.closest("li");
    if (!cell || event.ctrlKey || event.metaKey || event.altKey) return;
    const hit = this.hits[this.at(Number(cell.dataset.id))];
    const deeds = {
      ArrowRight: () => this.move(cell, 1), ArrowLeft: () => this.move(cell, -1),
      ArrowDown: () => this.row(cell, true), ArrowUp: () => this.row(cell, false),
      Home: () => this.focus(), End: () => this.move({ previousElementSibling: this.list.lastElementChild }, -1),
      x: () => this.pick(hit.id, !this.chosen.has(hit.id), false), X: () => this.pick(hit.id, true, true),
      m: () => this.act.like(hit, "image"), c: () => this.act.like(hit, "text"),
      o: () => { if (web(hit.url)) open(hit.url, "_blank", "noopener,noreferrer"); },
    };
    if (!deeds[event.key]) return;
    event.preventDefault();
    if (!["ArrowUp", "ArrowDown"].includes(event.key)) this.column = null;
    deeds[event.key]();
  }
}

function shape(cell, ratio) {
  cell.style.setProperty("--ratio", Math.min(WIDEST, Math.max(NARROWEST, ratio)).toFixed(4));
}
