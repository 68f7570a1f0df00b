// Elements, icons and numbers. Text from data only ever becomes text nodes and attributes, never markup.

/** An element: `h("a", {href: "/", class: "x", onclick: f}, "text", child)`. Null children are left out. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !["list", "form", "role"].includes(name) && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  put(element, ...children);
  return element;
}

/** Append children, strings among them, leaving out what is null or false. */
export function put(element, ...children) {
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element. */
export function s(tag, props = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  return put(element, ...children);
}

const PATHS = {
  search: "M10.500 4a6.500 6.500 0 1 0 0 13 6.500 6.500 0 0 0 0-13zM15.500 15.500 20 20",
  picture: "M4 5h16v14H4zM4 16l4.500-4.500 4 4 2.500-2.500 5 5M15.500 9.500h.01",
  filter: "M4 6h16M7 12h10M10 18h4",
  close: "M6 6l12 12M18 6 6 18",
  like: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM16.500 13.500v6M13.500 16.500h6",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  download: "M12 4v11M7.500 11l4.500 4.500 4.500-4.500M4 20h16",
  left: "M15 5l-7 7 7 7",
  right: "M9 5l7 7-7 7",
  dice: "M4 8h3.500c4 0 5 8 9 8H20M4 16h3.500c1.500 0 2.600-1.100 3.500-2.600M14 10.400c.8-1.400 1.700-2.400 3-2.400h3M17.500 5 20.500 8l-3 3M17.500 13l3 3-3 3",
  keyboard: "M3 6h18v12H3zM7 10h.01M10.500 10h.01M14 10h.01M17.500 10h.01M8 14.500h8",
  auto: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  light: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2.500v2M12 19.500v2M2.500 12h2M19.500 12h2M5.300 5.300l1.400 1.400M17.300 17.300l1.400 1.400M5.300 18.700l1.400-1.400M17.300 6.700l1.400-1.400",
  dark: "M20 14.500A8.500 8.500 0 0 1 9.500 4a8.500 8.500 0 1 0 10.500 10.500z",
  code: "M8.500 7 4 12l4.500 5M15.500 7l4.500 5-4.500 5",
  out: "M9 5H5v14h14v-4M13 5h6v6M19 5l-8.500 8.500",
  text: "M5 6h14M5 10.500h14M5 15h9",
  play: "M7 5l12 7-12 7z",
};

/** A line icon, hidden from screen readers. */
export function icon(name) {
  return s("svg", { viewBox: "0 0 24 24", class: "i", "aria-hidden": "true" }, s("path", { d: PATHS[name] }));
}

const whole = new Intl.NumberFormat("en");
/** 12,345 */
export const count = (number) => whole.format(number);
/** "1 picture", "12 pictures" */
export const many = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
/** 12,345 as 12K: for places with no room. */
export const short = (number) => new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(number);
/** Milliseconds for people. */
export const ms = (time) => (time < 10 ? `${time.toFixed(1)} ms` : time < 1000 ? `${Math.round(time)} ms` : `${(time / 1000).toFixed(time < 10000 ? 1 : 0)} s`);
/** Bytes for people. */
export function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  for (; number >= 1000 && at < units.length - 1; at++) number /= 1000;
  return `${at && number < 100 ? number.toFixed(number < 10 ? 2 : 1) : Math.round(number)} ${units[at]}`;
}

let silence;
/** Say something for a few seconds, to the ears too. */
export function toast(text) {
  const place = document.getElementById("toast");
  place.textContent = text;
  place.classList.add("on");
  clearTimeout(silence);
  silence = setTimeout(() => { place.classList.remove("on"); place.textContent = ""; }, 4000);
}

/** Put text on the clipboard and say so. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { class: "away", readOnly: true, "aria-hidden": "true" });
    area.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast(`${what} copied`);
}

/** Save a blob under a name. */
export function save(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** A choice of one among few: radio buttons drawn as one strip. */
export function choice(label, options, chosen, onchange) {
  const name = `choice-${label.replace(/\W+/g, "-")}`;
  return h("fieldset", { class: "choice" }, h("legend", { class: "away" }, label),
    ...options.map(([value, text, title]) => h("label", { title },
      h("input", { type: "radio", name, value, checked: value === chosen, onchange: () => onchange(value) }), h("span", {}, text))));
}

/** A number of a table as text: vectors are cut, nothing else. */
export function shown(value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value) && value.length > 6 && value.every((one) => typeof one === "number")) {
    return `[${value.slice(0, 3).map((one) => +one.toFixed(4)).join(", ")}, … ${count(value.length)} numbers]`;
  }
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
