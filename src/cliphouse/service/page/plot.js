// Recall against latency, as `cliphouse evaluate --plot` draws it: a panel for each origin of queries.
import { count, h, ms, s } from "./dom.js";

const WIDTH = 460, HEIGHT = 300, LEFT = 50, RIGHT = 16, TOP = 14, BOTTOM = 42;
const ORIGINS = { text: "Captions as queries", image: "Pictures as queries", own: "Your queries" };
const EFFORTS = ["ef_search", "nprobe"];

const effort = (point) => EFFORTS.map((name) => point.effort[name]).find((one) => one !== undefined) ?? null;
const named = (point) => `${point.asked}${effort(point) === null ? "" : `, effort ${count(effort(point))}`}`;

/** Panels, and the same as tables; null where nothing was measured that could be drawn. */
export function plot(evaluation) {
  const points = (evaluation.points ?? []).filter((point) => point.filter === null && point.asked !== "search");
  if (!points.length) return null;
  const origins = [...new Set(points.map((point) => point.queries))];
  const times = points.map((point) => point.p50_ms);
  const low = Math.min(...times) / 1.3, high = Math.max(...times) * 1.3;
  const least = Math.min(...points.map((point) => point.recall));
  const floor = least > 0.98 ? 0.95 : Math.max(0, Math.floor((least - 0.02) * 20) / 20);
  const scale = {
    x: (time) => LEFT + (Math.log(time / low) / Math.log(high / low)) * (WIDTH - LEFT - RIGHT),
    y: (recall) => TOP + (1 - (recall - floor) / (1.005 - floor)) * (HEIGHT - TOP - BOTTOM), low, high, floor,
  };
  return h("div", {}, h("div", { class: "panels" }, ...origins.map((origin) => panel(origin, points.filter((point) => point.queries === origin), scale, evaluation.k))),
    h("details", {}, h("summary", {}, "The same as a table"), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Measured points" }, h("table", {},
      h("thead", {}, h("tr", {}, ...["queries", "search", `recall@${evaluation.k}`, "p50", "p99"].map((one) => h("th", { scope: "col" }, one)))),
      h("tbody", {}, ...points.map((point) => h("tr", {}, h("td", {}, point.queries), h("td", {}, named(point)), h("td", { class: "number" }, point.recall.toFixed(3)), h("td", { class: "number" }, ms(point.p50_ms)), h("td", { class: "number" }, ms(point.p99_ms)))))))));
}

function ticks(low, high) {
  const all = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) for (const one of [1, 2, 5]) all.push(one * 10 ** power);
  return all.filter((one) => one >= low && one <= high);
}

function panel(origin, points, { x, y, low, high, floor }, k) {
  const tip = h("p", { class: "tip", role: "status" }, "Point at a mark, or go to one with Tab.");
  const step = 1 - floor > 0.5 ? 0.2 : 1 - floor > 0.2 ? 0.1 : 1 - floor > 0.06 ? 0.05 : 0.01;
  const levels = Array.from({ length: Math.floor((1 - floor) / step + 1e-6) + 1 }, (_, at) => 1 - at * step);
  const curves = [...new Set(points.map((point) => point.asked))].map((asked) => points.filter((point) => point.asked === asked).sort((a, b) => (effort(a) ?? 0) - (effort(b) ?? 0)));
  const mark = (point) => {
    const text = `${named(point)}: recall@${k} ${point.recall.toFixed(3)}, p50 ${ms(point.p50_ms)}, p99 ${ms(point.p99_ms)}`;
    const say = () => { tip.textContent = text; };
    return s("circle", { cx: x(point.p50_ms), cy: y(point.recall), r: 5, class: `mark ${point.asked}`, tabindex: "0", role: "img", "aria-label": text, onmouseenter: say, onfocus: say }, s("title", {}, text));
  };
  return h("figure", {}, h("figcaption", {}, ORIGINS[origin] ?? origin),
    s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": `Recall against latency, ${ORIGINS[origin] ?? origin}` },
      ...levels.flatMap((level) => [s("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(level), y2: y(level), class: "rule" }), s("text", { x: LEFT - 8, y: y(level) + 4, "text-anchor": "end" }, level.toFixed(2))]),
      ...ticks(low, high).map((time) => s("text", { x: x(time), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, `${+time.toPrecision(2)}`)),
      s("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, "median milliseconds a query, logarithmic"),
      ...curves.map((curve) => s("polyline", { points: curve.map((point) => `${x(point.p50_ms)},${y(point.recall)}`).join(" "), class: `curve ${curve[0].asked}` })),
      ...curves.flat().map(mark)),
    h("p", { class: "legend", "aria-hidden": "true" }, ...curves.map(([point]) => h("span", { class: point.asked }, point.asked))), tip);
}
