// Where pictures come from: the service, if it has the file, or the address that the row names.
import { blob, key } from "./api.js";

const LARGEST = 1024; // that the service draws

/** `url` if it is one that a picture or a link may have; data hold anything, `javascript:` too. */
export function web(url) {
  try {
    return ["http:", "https:"].includes(new URL(url).protocol) ? url : null;
  } catch { return null; }
}

/** The places to find a hit's picture at, best first; `size` is the longer side in pixels of the screen. */
export function sources(hit, size) {
  const wanted = Math.min(LARGEST, 2 ** Math.ceil(Math.log2(size * Math.min(2, devicePixelRatio || 1))));
  return [hit.picture ? `${hit.picture}${hit.picture.includes("?") ? "&" : "?"}size=${wanted}` : null, web(hit.url)].filter(Boolean);
}

/** Let `img` show the first of these places that has a picture; `broken` is called if none has. */
export function show(img, places, broken) {
  const left = [...places];
  const next = async () => {
    const place = left.shift();
    if (!place) return broken();
    if (place.startsWith("/") && key.get()) {
      // An <img> sends no key.
      try { img.src = URL.createObjectURL(await seen(img).then(() => blob(place))); } catch { next(); }
    } else {
      img.src = place;
    }
  };
  img.addEventListener("error", next);
  img.addEventListener("load", () => { if (img.src.startsWith("blob:")) URL.revokeObjectURL(img.src); });
  next();
}

const waiting = new WeakMap();
const watch = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) if (isIntersecting) { watch.unobserve(target); waiting.get(target)?.(); }
}, { rootMargin: "600px" });
const seen = (img) => (img.loading === "lazy" ? new Promise((resolve) => { waiting.set(img, resolve); watch.observe(img); }) : Promise.resolve());
