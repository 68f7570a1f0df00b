// One row in full, in a dialog.
import { call, explain } from "./api.js";
import { copy, h, icon, put, shown } from "./dom.js";
import { show, sources, web } from "./pictures.js";

const SIZE = 1024;
const FIRST = ["id", "distance", "url", "NSFW", "similarity", "license", "width", "height", "original_width", "original_height"];

/** The dialog. `act` has close(), like(hit, by), step(by), can(by) and known(id), the hit if it is on the page. */
export class Detail {
  id = null;

  constructor(act) {
    this.act = act;
    this.dialog = h("dialog", { class: "detail", "aria-labelledby": "detail-title" });
    // Esc and the close button go by the address, so that back and forward stay true.
    this.dialog.addEventListener("cancel", (event) => { event.preventDefault(); act.close(); });
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) act.close(); });
    this.dialog.addEventListener("keydown", (event) => {
      if (event.target.matches("input, textarea") || event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === "ArrowRight" && act.can(1)) act.step(1);
      if (event.key === "ArrowLeft" && act.can(-1)) act.step(-1);
    });
    document.body.append(this.dialog);
  }

  hide() {
    this.id = null;
    if (this.dialog.open) this.dialog.close();
  }

  async show(id) {
    if (this.id === id) return;
    this.id = id;
    const known = this.act.known(id);
    this.render(known ?? { id, caption: "", url: "" }, {});
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.querySelector("[data-close]").focus();
    try {
      const { item, picture } = await call(`items/${id}`);
      if (this.id === id) this.render({ ...item, distance: known?.distance, picture: picture ?? null }, item, Boolean(known));
    } catch (error) {
      if (this.id === id) this.dialog.querySelector(".facts").replaceChildren(explain(error));
    }
  }

  render(hit, item, keepPicture = false) {
    const { act } = this;
    const name = hit.caption || `Picture ${hit.id}`;
    const frame = (keepPicture && this.dialog.querySelector(".frame")) || this.frame(hit, name);
    const focused = this.dialog.contains(document.activeElement) ? document.activeElement.dataset.close : undefined;
    const go = (by, label, which) => h("button", { type: "button", class: "icon", "aria-label": label, title: label, disabled: !act.can(by), onclick: () => act.step(by) }, icon(which));
    const values = { ...item, ...(hit.distance === undefined || hit.distance === null ? {} : { distance: hit.distance }) };
    const names = [...FIRST.filter((one) => one in values), ...Object.keys(values).filter((one) => !FIRST.includes(one) && one !== "caption")];
    this.dialog.replaceChildren(
      h("div", { class: "head" }, go(-1, "Previous", "left"), go(1, "Next", "right"), h("span", { class: "grow" }),
        h("button", { type: "button", class: "icon", "data-close": "yes", "aria-label": "Close", title: "Close (Esc)", onclick: () => act.close() }, icon("close"))),
      h("div", { class: "both" }, frame,
        h("div", { class: "about" },
          h("h2", { id: "detail-title" }, name),
          h("div", { class: "row" },
            h("button", { type: "button", class: "primary", onclick: () => act.like(hit, "image") }, icon("like"), "Like this picture"),
            h("button", { type: "button", onclick: () => act.like(hit, "text") }, icon("text"), "Like this caption")),
          h("div", { class: "row" },
            web(hit.url) ? h("a", { class: "button", href: hit.url, target: "_blank", rel: "noopener noreferrer" }, icon("out"), "Open at its source") : null,
            hit.url ? h("button", { type: "button", onclick: () => copy(hit.url, "Address") }, icon("copy"), "Copy address") : null,
            hit.caption ? h("button", { type: "button", onclick: () => copy(hit.caption, "Caption") }, icon("copy"), "Copy caption") : null),
          put(h("dl", { class: "facts" }), names.filter((one) => shown(values[one]) !== "").map((one) => h("div", {}, h("dt", {}, one), h("dd", {}, one === "distance" ? values[one].toFixed(4) : shown(values[one]))))))));
    if (focused) this.dialog.querySelector("[data-close]").focus();
  }

  frame(hit, name) {
    const frame = h("div", { class: "frame" });
    const places = sources(hit, SIZE);
    const none = () => frame.replaceChildren(h("p", { class: "quiet" }, places.length ? "The picture could not be loaded." : "No picture is known for this row."));
    if (!places.length) none();
    else {
      const img = h("img", { alt: name, referrerpolicy: "no-referrer", decoding: "async" });
      frame.append(img);
      show(img, places, none);
    }
    return frame;
  }
}
