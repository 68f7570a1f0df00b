// What is looked for: words, a row, or a picture, whose vector the service makes once and the address then holds.
import { call, Problem } from "./api.js";

const LARGEST = 2048, LARGE = 3 * 2 ** 20, THUMBNAIL = 96;

/** A picture file as what a state keeps: its vector for the address, and a small picture of it for this machine. */
export async function fromFile(file, options = {}) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap && !file.type.startsWith("image/")) throw new Problem(422, { detail: `${file.name || "This"} is not a picture that can be read; try JPEG, PNG or WebP` });
  const sent = bitmap && file.size > LARGE ? await drawn(bitmap, LARGEST) : file;
  const { vector } = await call("encode", { ...options, body: { image: await base64(sent) } });
  return { vector: pack(vector), thumbnail: bitmap ? await dataUrl(await drawn(bitmap, THUMBNAIL)) : null };
}

function drawn(bitmap, most) {
  const scale = Math.min(1, most / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/webp", 0.9));
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

const base64 = async (blob) => (await dataUrl(blob)).replace(/^[^,]*,/, "");

/** A vector as text for an address: 16 bits a number, the largest 32767. Directions are kept to some 1e-5. */
export function pack(vector) {
  const largest = Math.max(...vector.map(Math.abs)) || 1;
  const view = new DataView(new ArrayBuffer(2 * vector.length));
  vector.forEach((value, at) => view.setInt16(2 * at, Math.round((value / largest) * 32767), true));
  return btoa(String.fromCharCode(...new Uint8Array(view.buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

/** The unit vector that a text of `pack` holds, or null. */
export function unpack(text) {
  let raw;
  try { raw = atob(text.replace(/-/g, "+").replace(/_/g, "/")); } catch { return null; }
  const view = new DataView(Uint8Array.from(raw, (one) => one.charCodeAt(0)).buffer);
  const values = Array.from({ length: view.byteLength >> 1 }, (_, at) => view.getInt16(2 * at, true));
  const norm = Math.hypot(...values);
  return norm ? values.map((value) => value / norm) : null;
}

/** A direction by chance, the same for the same seed: the nearest rows to it are a mixed lot, by any index. */
export function direction(seed, dim) {
  let a = seed >>> 0;
  const random = () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return Array.from({ length: dim }, () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()));
}

/** So many rows are looked through in no time: there, only a draw of them is asked, which is a better mixture. */
const FEW = 5_000_000, DRAWN = 480;

/** The condition that draws rows for a list of some pictures, or null. */
export function draw(state, rows) {
  const parts = Math.floor(rows / DRAWN);
  return seeks(state) || rows > FEW || parts < 2 ? null : `cityHash64(id, ${state.seed ?? first}) % ${parts} = 0`;
}

export const newSeed = () => Math.floor(Math.random() * 2 ** 31);
const first = newSeed();

/** Whether a state looks for something; if not, it shows some pictures. */
export const seeks = (state) => [state.text, state.image_url, state.id, state.vector].some((one) => one !== null);

/** The contract's `Target` of a state. */
export function target(state, dim) {
  if (state.text !== null) return { text: state.text };
  if (state.image_url !== null) return { image_url: state.image_url };
  if (state.id !== null) return { id: state.id, by: state.by };
  if (state.vector !== null) {
    const vector = unpack(state.vector);
    if (!vector) throw new Problem(422, { detail: "the vector in this address is broken; search by the picture again" });
    return { vector };
  }
  return { vector: direction(state.seed ?? first, dim) };
}

/** What words in the search box mean: `id:12` is a row, an address of a picture is one if the service fetches them. */
export function read(text, status) {
  const id = /^id:\s*(\d{1,16})$/i.exec(text);
  if (id) return { id: Number(id[1]) };
  if (status.image_urls && /^https?:\/\/\S+$/i.test(text)) return { image_url: text };
  return { text };
}
