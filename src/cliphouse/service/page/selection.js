// Rows that were chosen, and files of them.
import { blob } from "./api.js";
import { count, h, icon, many, put, save, toast } from "./dom.js";

const FORMATS = [["csv", "CSV"], ["jsonl", "JSON lines"], ["parquet", "Parquet"]];

/** Chosen ids, kept while one goes from search to search; `onchange` hears of each change. */
export class Selection {
  ids = new Set();
  bar = h("div", { class: "bar", role: "region", "aria-label": "Selected pictures", hidden: true });

  constructor(shownIds, onchange) {
    Object.assign(this, { shownIds, onchange });
  }

  set(ids, on) {
    for (const id of ids) this.ids[on ? "add" : "delete"](id);
    this.render();
    this.onchange();
  }

  render() {
    this.bar.hidden = !this.ids.size;
    this.bar.replaceChildren();
    if (!this.ids.size) return;
    put(this.bar,
      h("strong", { role: "status" }, `${count(this.ids.size)} selected`),
      h("button", { type: "button", class: "plain", onclick: () => this.set(this.shownIds(), true) }, "Select all shown"),
      h("button", { type: "button", class: "plain", onclick: () => this.set([...this.ids], false) }, "Clear"),
      h("span", { class: "grow" }),
      downloads(() => ({ ids: [...this.ids] }), "selection"));
  }
}

/** Buttons that save what `body` asks /export for. */
export function downloads(body, name) {
  return h("span", { class: "row", role: "group", "aria-label": `Download the ${name}` }, icon("download"),
    ...FORMATS.map(([format, label]) => h("button", { type: "button", onclick: async (event) => {
      const { currentTarget: button } = event;
      button.disabled = true;
      try {
        const asked = body();
        save(await blob("export", { body: { ...asked, format } }), `cliphouse-${name}.${format}`);
        toast(asked.ids ? `${many(asked.ids.length, "row")} saved` : "Saved");
      } catch (error) {
        toast(error.message);
      } finally {
        button.disabled = false;
      }
    } }, label)));
}
