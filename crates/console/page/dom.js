// Shared by the scripts of the page: elements, and numbers for people. Data from events and processes is set as text,
// never as HTML.

export const byId = (id) => document.getElementById(id);

/** Sets text only if it changed, so as not to disturb a selection or a screen reader. */
export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}
export function look(element, name) {
  if (element.className !== name) element.className = name;
}
export function make(tag, name, content) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (content !== undefined) element.textContent = content;
  return element;
}
/** Keeps one child per item, in order, identified by its key. */
export function each(parent, items, key, create, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, at) => {
    const name = key(item);
    let child = known.get(name);
    known.delete(name);
    if (!child) {
      child = create(item);
      child.dataset.key = name;
    }
    if (parent.children[at] !== child) parent.insertBefore(child, parent.children[at] ?? null);
    update(child, item);
  });
  known.forEach((child) => child.remove());
}

const whole = new Intl.NumberFormat("en");
export const tenth = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
export const number = (value) => (value === null || value === undefined ? "unknown" : whole.format(value));
/** A number of things: `1 dead letter`, `2 dead letters`. */
export const count = (value, one, many = `${one}s`) => `${number(value)} ${value === 1 ? one : many}`;
export const rate = (value) => (value === null || value === undefined ? "unknown" : `${tenth.format(value)}/s`);
export function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}
export const since = (time, now) => (time ? span((now - Date.parse(time)) / 1000) : "");
