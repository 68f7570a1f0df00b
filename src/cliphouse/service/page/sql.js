// The view of SQL: one statement that only reads, and its answer as a table.
import { call, explain } from "./api.js";
import { copy, count, h, icon, many, ms, put, save, shown } from "./dom.js";
import { go, parse } from "./state.js";

const LIMIT = 1000;

export class SqlView {
  constructor(app) {
    const table = `\`${app.status.collection.name}\``.replace(/^`([A-Za-z_]\w*)`$/, "$1");
    const has = new Set(app.status.collection.columns.map((one) => one.name));
    this.examples = [
      ["Newest rows", `SELECT id, caption, url\nFROM ${table}\nORDER BY id DESC\nLIMIT 50`],
      has.has("NSFW") ? ["By tag", `SELECT NSFW, count() AS rows, round(avg(similarity), 3) AS similarity\nFROM ${table}\nGROUP BY NSFW\nORDER BY rows DESC`] : null,
      ["Frequent words", `SELECT arrayJoin(splitByNonAlpha(lower(caption))) AS word, count() AS captions\nFROM ${table}\nWHERE length(word) > 3\nGROUP BY word\nORDER BY captions DESC\nLIMIT 30`],
      app.status.encoder_ready ? ["Near a text", `SELECT id, caption, cosineDistance(image_embedding, encode_text('the sea')) AS distance\nFROM ${table}\nORDER BY distance\nLIMIT 20`] : null,
    ].filter(Boolean);
    this.area = h("textarea", { id: "sql", "aria-label": "SQL statement", rows: 8, spellcheck: "false", autocapitalize: "off", maxLength: 100000,
      onkeydown: (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); this.submit(); } } });
    this.button = h("button", { type: "button", class: "primary", onclick: () => this.submit() }, icon("play"), "Run");
    this.stop = h("button", { type: "button", hidden: true, onclick: () => this.running?.abort() }, "Stop");
    this.summary = h("p", { role: "status", id: "sql-summary" });
    this.tools = h("div", { class: "row" });
    this.answer = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Answer" });
    this.answer.hidden = true;
    this.problem = h("div");
    this.element = h("div", { class: "sql" }, h("h1", {}, "SQL"),
      h("p", { class: "quiet" }, "Any statement that reads. The table is ", h("code", {}, table), ", with ", h("details", { class: "columns-list" },
        h("summary", {}, many(app.status.collection.columns.length, "column")),
        h("ul", {}, ...app.status.collection.columns.map((one) => h("li", {}, h("code", {}, one.name), " ", h("span", { class: "quiet" }, one.type)))))),
      h("div", { class: "chips", role: "group", "aria-label": "Examples" }, ...this.examples.map(([name, text]) => h("button", { type: "button", class: "chip", onclick: () => { this.area.value = text; this.submit(); } }, name))),
      this.area, h("div", { class: "row" }, this.button, this.stop, h("span", { class: "quiet small" }, "Ctrl + Enter"), h("span", { class: "grow" }), this.tools),
      this.problem, this.summary, this.answer);
    this.area.value = this.examples[0][1];
  }

  submit() {
    const sql = this.area.value.trim();
    if (sql) go({ ...parse(), view: "sql", sql, item: null }, { ran: true });
  }

  /** A statement that came with a link is shown, and runs when somebody says so. */
  update(state, kept) {
    if (state.sql === null) return;
    this.area.value = state.sql;
    if (kept.ran) this.run(state.sql);
    else { this.clear(); this.summary.textContent = "Not run yet."; }
  }

  clear() {
    this.running?.abort();
    this.problem.replaceChildren();
    this.tools.replaceChildren();
    this.answer.hidden = true;
    this.summary.textContent = "";
  }

  async run(statement) {
    this.clear();
    const running = (this.running = new AbortController());
    this.summary.textContent = "Running…";
    this.stop.hidden = false;
    try {
      const answer = await call("sql", { body: { statement, limit: LIMIT }, signal: running.signal, waiting: (seconds) => { this.summary.textContent = seconds ? `The service is busy; trying again in ${seconds} s` : "Running…"; } });
      if (running === this.running) this.show(answer);
    } catch (error) {
      if (running !== this.running) return;
      this.summary.textContent = error.name === "AbortError" ? "Stopped." : "";
      if (error.name !== "AbortError") this.problem.replaceChildren(explain(error));
    } finally {
      if (running === this.running) this.stop.hidden = true;
    }
  }

  show({ columns, rows, truncated, took_ms: took }) {
    this.summary.textContent = `${truncated ? "The first " : ""}${many(rows.length, "row")} in ${ms(took)}${truncated ? "; add a LIMIT, or export, for others" : ""}`;
    const numeric = columns.map((one) => /^(Nullable\()?(U?Int|Float|Decimal|BFloat)/.test(one.type));
    const id = columns.findIndex((one) => one.name === "id" && /Int/.test(one.type));
    this.answer.hidden = false;
    this.answer.replaceChildren(h("table", {},
      h("caption", { class: "away" }, "Answer of the statement"),
      h("thead", {}, h("tr", {}, ...columns.map((one, at) => h("th", { scope: "col", title: one.type, class: numeric[at] ? "number" : null }, one.name)))),
      put(h("tbody", {}), rows.map((row) => h("tr", {}, ...row.map((value, at) => h("td", { class: numeric[at] ? "number" : value === null ? "quiet" : null },
        at === id && Number.isSafeInteger(value) ? h("a", { href: `/?item=${value}`, "data-go": "" }, String(value)) : value === null ? "NULL" : cut(shown(value)))))))));
    const table = () => [columns.map((one) => one.name), ...rows];
    this.tools.replaceChildren(
      h("button", { type: "button", onclick: () => copy(table().map((row) => row.map((one) => cell(one).replace(/[\t\n]/g, " ")).join("\t")).join("\n"), `${count(rows.length)} rows`) }, icon("copy"), "Copy"),
      h("button", { type: "button", onclick: () => save(new Blob([table().map((row) => row.map((one) => `"${cell(one).replaceAll('"', '""')}"`).join(",")).join("\r\n")], { type: "text/csv" }), "cliphouse-sql.csv") }, icon("download"), "CSV"),
      h("button", { type: "button", onclick: () => save(new Blob([JSON.stringify(rows.map((row) => Object.fromEntries(columns.map((one, at) => [one.name, row[at]]))), null, 1)], { type: "application/json" }), "cliphouse-sql.json") }, icon("download"), "JSON"));
  }
}

const cell = (value) => (value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value));
const cut = (text) => (text.length > 300 ? `${text.slice(0, 300)}…` : text);
