// The view of what is served.
import { call, explain } from "./api.js";
import { bytes, count, h, put, short } from "./dom.js";
import { plot } from "./plot.js";

export class StatusView {
  constructor(app) {
    this.app = app;
    this.body = h("div", {});
    this.element = h("div", { class: "status" }, h("h1", {}, "Status"), this.body);
  }

  async update() {
    this.render(this.app.status);
    try {
      this.app.status = await call("status");
      this.render(this.app.status);
    } catch (error) {
      this.body.prepend(explain(error, () => this.update()));
    }
  }

  render(status) {
    const { collection } = status;
    const card = (title, value, note) => h("div", { class: "card" }, h("h2", {}, title), h("p", { class: "big" }, value), note ? h("p", { class: "quiet small" }, note) : null);
    this.body.replaceChildren();
    put(this.body,
      h("div", { class: "cards" },
        card("Rows", count(collection.rows), `in ${collection.name}`),
        card("On disk", bytes(status.disk_bytes), status.total_bytes ? `${bytes(status.total_bytes)} with all that is beside the table` : null),
        card("Encoder", collection.encoder || "none named", `${count(collection.dim)} numbers a vector, stored as ${collection.storage}`),
        card("Search by words and pictures", status.encoder_ready ? "ready" : "not ready", status.encoder_problem)),
      h("section", {}, h("h2", {}, "Indexes"), status.indexes.length ? this.indexes(status.indexes) : h("p", { class: "quiet" }, "None: each search compares every row. ", h("code", {}, "cliphouse index build"), " makes one.")),
      h("section", {}, h("h2", {}, "Recall and latency"), this.evaluation(status.evaluation)),
      h("section", {}, h("h2", {}, "Columns"), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Columns" }, h("table", {},
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "column"), h("th", { scope: "col" }, "type"))),
        h("tbody", {}, ...collection.columns.map((one) => h("tr", {}, h("td", {}, h("code", {}, one.name)), h("td", { class: "quiet" }, one.type))))))),
      h("p", { class: "quiet small" }, `cliphouse ${status.version} on ClickHouse ${status.engine_version} · `, h("a", { href: "/api/v1/openapi.json" }, "OpenAPI"), " · ", h("a", { href: "/metrics" }, "metrics")));
  }

  indexes(all) {
    const head = ["name", "of", "kind", "state", "rows", "effort", "tuned for", "disk", "memory"];
    return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Indexes" }, h("table", {},
      h("thead", {}, h("tr", {}, ...head.map((one) => h("th", { scope: "col" }, one)))),
      h("tbody", {}, ...all.map((one) => h("tr", {},
        h("td", {}, h("code", {}, one.name)), h("td", {}, one.column), h("td", {}, one.kind), h("td", {}, h("span", { class: `badge ${one.state}` }, one.state)),
        h("td", { class: "number", title: `${count(one.rows_indexed)} of ${count(one.rows_total)}` }, one.rows_indexed === one.rows_total ? count(one.rows_total) : `${short(one.rows_indexed)} of ${short(one.rows_total)}`),
        h("td", { class: "number" }, one.effort === null ? "" : count(one.effort)), h("td", { class: "number" }, one.tuned === null ? "" : `recall ${one.tuned}`),
        h("td", { class: "number" }, bytes(one.disk_bytes)), h("td", { class: "number" }, one.memory_bytes ? bytes(one.memory_bytes) : ""))))));
  }

  evaluation(evaluation) {
    const drawn = evaluation && plot(evaluation);
    if (!drawn) return h("p", { class: "quiet" }, "Nothing was measured yet: ", h("code", {}, "cliphouse evaluate"), " does.");
    return h("div", {}, h("p", { class: "quiet" }, `Recall@${evaluation.k} of ${count(evaluation.rows)} rows on ${evaluation.column} embeddings, ${count(evaluation.truth.queries)} queries, ${evaluation.cores} cores, ClickHouse ${evaluation.engine_version}. Upper left is better.`), drawn);
  }
}
