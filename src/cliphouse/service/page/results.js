// The list of results of one state: page after page, and as it was when one comes back to it.
import { call, explain } from "./api.js";
import { selection } from "./filters.js";
import { listKey } from "./state.js";
import { draw, seeks, target } from "./target.js";

const PAGE = 60, REMEMBERED = 12;
/** Pages that come by themselves while nobody scrolls: where nearly all pictures are gone, it must end. */
const BY_ITSELF = 6;

/** Loads hits into a grid. `say` has began(), arrived(results), failed(error, again), waiting(seconds). */
export class Results {
  key = null;
  lists = new Map();
  running = null;

  constructor(app, grid, say) {
    Object.assign(this, { app, grid, say });
    this.sentinel = document.createElement("div");
    this.sentinel.className = "sentinel";
    this.watch = new IntersectionObserver((seen) => { if (seen.at(-1).isIntersecting) this.onward(); }, { rootMargin: "900px" });
    this.watch.observe(this.sentinel);
    addEventListener("scroll", () => { if (this.list) { this.list.alone = 0; if (this.shown) this.list.scroll = scrollY; } }, { passive: true });
  }

  /** Show the list of a state; the one that is shown already stays as it is. */
  show(state) {
    const key = listKey(state);
    const back = !this.shown;
    this.shown = true;
    if (key === this.key && !this.list.failed) {
      // From another view: where it was left. The element is new in the page, whose height is known a frame later.
      if (back) requestAnimationFrame(() => scrollTo(0, this.list.scroll));
      return;
    }
    this.key = key;
    this.running?.abort();
    this.running = null;
    this.state = state;
    this.grid.clear();
    const known = this.lists.get(key);
    this.lists.delete(key);
    this.list = known && !known.failed ? known : { hits: [], asked: 0, plan: null, took: 0, done: false, scroll: 0, alone: 0, failed: false };
    this.lists.set(key, this.list);
    if (this.lists.size > REMEMBERED) this.lists.delete(this.lists.keys().next().value);
    if (this.list.hits.length || this.list.done) {
      const { scroll } = this.list;
      this.say.began();
      this.grid.add(this.list.hits, seeks(state));
      this.say.arrived(this.list);
      requestAnimationFrame(() => scrollTo(0, scroll));
    } else {
      if (scrollY > 200) scrollTo(0, 0);
      this.say.began();
      this.more();
    }
  }

  /** The contract's SearchRequest of this list, without k and offset. */
  request() {
    const { state, app } = this;
    const { dim, rows } = app.status.collection;
    const some = draw(state, rows), chosen = selection(state, app.safe);
    if (some) chosen.where = chosen.where ? `(${chosen.where}) AND ${some}` : some;
    return { query: target(state, dim), column: state.column, exact: state.exact, ...chosen };
  }

  onward() {
    if (this.shown && this.list && !this.list.done && !this.list.failed && this.list.alone < BY_ITSELF) { this.list.alone++; this.more(); }
  }

  /** The next page. */
  async more() {
    if (this.running || this.list.done) return;
    const { list, app } = this;
    const running = (this.running = new AbortController());
    const offset = list.asked;
    const k = Math.min(PAGE, app.status.max_k);
    list.failed = false;
    try {
      const known = new Set(app.status.collection.columns.map((one) => one.name));
      const columns = ["width", "height"].filter((one) => known.has(one));
      const answer = await call("search", { body: { ...this.request(), k, offset, columns, stats: offset === 0 && seeks(this.state) }, signal: running.signal, waiting: this.say.waiting });
      if (running !== this.running) return;
      this.running = null;
      // A graph asked for more may order anew what it gave before: no row comes twice.
      const here = new Set(list.hits.map((hit) => hit.id));
      list.hits.push(...answer.hits.filter((hit) => !here.has(hit.id)));
      list.asked += answer.hits.length;
      list.done = answer.hits.length < k;
      if (!offset) Object.assign(list, { plan: answer.plan, took: answer.took_ms });
      this.grid.add(answer.hits, seeks(this.state));
      this.say.arrived(list);
      // Still in sight? An observer only speaks when that changes.
      this.watch.unobserve(this.sentinel);
      this.watch.observe(this.sentinel);
    } catch (error) {
      if (error.name === "AbortError" || running !== this.running) return;
      this.running = null;
      list.failed = true;
      this.say.failed(error, () => { list.failed = false; this.say.began(); this.more(); }, explain);
    }
  }
}
