// Dead letters: grouped by reason, searched, shown byte by byte, redriven or discarded after a preview, and who did it.
// Data from events is set as text, never as HTML.

import { byId, each, look, make, number, text } from "/dom.js";

/** How many bytes of a payload are shown at once. */
const PIECE = 8192;
/** How soon to retry after a service did not answer, in milliseconds. */
const RETRY = 5000;
let known = "";
let service = "";
let filter = {};
let rows = [];
let next = null;
let looks = 0;
let mayAct = false;
let wanted = null;

async function ask(path, options) {
  const answer = await fetch(path, options);
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(`${answer.status} ${body?.detail ?? body?.title ?? answer.statusText}`);
  return body;
}
const at = (path, query) => {
  const given = Object.entries(query ?? {}).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const parameters = new URLSearchParams(given);
  return `/api/operations/${encodeURIComponent(service)}${path}${given.length ? `?${parameters}` : ""}`;
};
/** Shows the result of the last action. What the list shows is written elsewhere, so that a refresh keeps the result. */
const say = (words, name = "") => { text(byId("letters-said"), words); look(byId("letters-said"), name); };
/** Does something, and shows the error if it fails. */
async function trying(work) {
  try { say(""); await work(); } catch (error) { say(error.message, "bad"); }
}
function button(words, label, act) {
  const element = make("button", "", words);
  element.type = "button";
  element.setAttribute("aria-label", label);
  element.addEventListener("click", () => trying(act));
  return element;
}
function fill(row, values) {
  row.replaceChildren(...values.map((value) => {
    const cell = make("td", typeof value === "number" ? "number" : "");
    cell.append(typeof value === "number" ? number(value) : value ?? "–");
    return cell;
  }));
}
const time = (value) => (value ? new Date(value).toISOString().replace("T", " ").slice(0, 19) + " UTC" : "–");

/** The current filter, in words. */
function filterWords() {
  const parts = [filter.queueGroup && `group ${filter.queueGroup}`, filter.subject && `subject ${filter.subject}`,
    filter.reason && `reason “${filter.reason}”`, filter.text && `text “${filter.text}”`].filter(Boolean);
  return parts.length ? parts.join(", ") : "all dead letters";
}

async function showGroups() {
  const { groups, counted, more } = await ask(at("/dead-letters/groups"));
  text(byId("letters-counted"), counted === 0 ? `${service} has no dead letters.`
    : `${service} has ${more ? "more than " : ""}${number(counted)} dead letter${counted === 1 ? "" : "s"}${more ? "; the newest of them are grouped" : ""}.`);
  each(byId("letter-groups"), groups, (group) => `${group.queueGroup} ${group.subject} ${group.reason}`, () => make("tr"), (row, group) => {
    fill(row, [group.reason, group.subject, group.queueGroup, group.letters, group.redriven, time(group.newest),
      button("Show", `Show ${group.letters} dead letters: ${group.reason}`, () => {
        filter = { queueGroup: group.queueGroup, subject: group.subject, reason: group.reason };
        byId("letters-text").value = "";
        return search();
      })]);
  });
}
/** Rows keep their places and the focus during a refresh. */
function showRows() {
  each(byId("letters"), rows, (letter) => `${service} ${letter.id} ${mayAct}`, (letter) => {
    const row = make("tr");
    const acts = make("span", "buttons");
    acts.append(button("Bytes", `Show the bytes of dead letter ${letter.id}`, () => bytes(letter.id)));
    if (mayAct) {
      acts.append(button("Redrive", `Redrive dead letter ${letter.id}`, () => prepare("redrive", { ids: [letter.id] })),
        button("Discard", `Discard dead letter ${letter.id}`, () => prepare("discard", { ids: [letter.id] })));
    }
    fill(row, [String(letter.id), "", letter.subject, letter.queueGroup, letter.eventId, "", 0, 0, "", acts]);
    row.cells[5].className = "long";
    return row;
  }, (row, letter) => {
    text(row.cells[1], time(letter.deadAt));
    text(row.cells[5], letter.redriveAt ? `waiting to be retried; ${letter.reason}` : letter.reason);
    text(row.cells[6], number(letter.attempts));
    text(row.cells[7], number(letter.copies));
    text(row.cells[8], letter.clientId);
  });
  byId("letters-more").hidden = next === null;
  byId("letters-bulk").hidden = !mayAct || rows.length === 0;
  text(byId("letters-status"), `${number(rows.length)} shown: ${filterWords()}${next === null ? "" : ". There may be more."}`);
}
/** Searches from the newest on, or after the rows that are shown. Of several searches at a time, only the last counts. */
async function search(after = null) {
  const mine = ++looks;
  const found = await ask(at("/dead-letters", { ...filter, after }));
  if (mine !== looks) return;
  rows = after === null ? found.letters : rows.concat(found.letters);
  next = found.next;
  showRows();
}

/** A payload as bytes and as text, from this byte on. */
function dump(payload, from) {
  const lines = [];
  for (let line = from; line < Math.min(from + PIECE, payload.length); line += 16) {
    const part = [...payload.slice(line, line + 16)];
    const hex = part.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const shown = part.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${line.toString(16).padStart(8, "0")}  ${hex.padEnd(47)}  ${shown}`);
  }
  return lines.join("\n");
}
async function bytes(id) {
  const letter = await ask(at(`/dead-letters/${id}`));
  const payload = Uint8Array.from(atob(letter.payloadBase64), (character) => character.charCodeAt(0));
  let from = 0;
  const show = () => {
    text(byId("bytes-hex"), dump(payload, from));
    text(byId("bytes-where"), payload.length === 0 ? "The payload is empty."
      : `Bytes ${number(from)} to ${number(Math.min(from + PIECE, payload.length) - 1)} of ${number(payload.length)}`);
    byId("bytes-before").disabled = from === 0;
    byId("bytes-after").disabled = from + PIECE >= payload.length;
  };
  byId("bytes-before").onclick = () => { from -= PIECE; show(); };
  byId("bytes-after").onclick = () => { from += PIECE; show(); };
  text(byId("bytes-title"), `Dead letter ${id} of ${service}`);
  const { payloadBase64, headers, ...rest } = letter;
  text(byId("bytes-about"), Object.entries(rest).map(([name, value]) => `${name}: ${Array.isArray(value) ? value.join(", ") : value ?? "–"}`)
    .concat(Object.entries(headers).map(([name, values]) => `header ${name}: ${[values].flat().join(", ")}`)).join("\n"));
  text(byId("bytes-text"), new TextDecoder().decode(payload.slice(0, PIECE)));
  show();
  byId("bytes").showModal();
}

async function act(name, body) {
  const headers = { "content-type": "application/json" };
  const token = byId("token").value.trim();
  if (token) headers.authorization = `Bearer ${token}`;
  return ask(`/api/act/operations/${encodeURIComponent(service)}/${name}`, { method: "POST", headers, body: JSON.stringify(body) });
}
/** Each request handles a part: repeats until the selection ends or `going` returns false. Returns the totals. */
async function all(name, body, going = () => true) {
  let letters = 0;
  let answer = {};
  do {
    const rest = answer.next ? { after: answer.next, upTo: answer.upTo } : {};
    answer = await act(name, { ...body, ...rest });
    letters += answer.letters;
  } while (answer.next !== null && going(letters));
  return { letters, upTo: answer.upTo, more: answer.next !== null };
}
const operator = () => byId("operator").value.trim();
/** The preview: what would be done, to how many. */
async function prepare(name, selection) {
  if (!operator()) {
    byId("operator").focus();
    throw new Error("Enter your name first: it is recorded with what you do.");
  }
  const preview = await all(name, { by: operator(), ...selection, dryRun: true }, (letters) => letters < 20000);
  wanted = { name, selection: selection.ids ? selection : { ...selection, upTo: preview.upTo } };
  const what = selection.ids ? `dead letter ${selection.ids.join(", ")}` : `${preview.more ? "more than " : ""}${number(preview.letters)} dead letter${preview.letters === 1 ? "" : "s"} (${filterWords()})`;
  text(byId("confirm-title"), name === "redrive" ? "Redrive?" : "Discard?");
  text(byId("confirm-words"), preview.letters === 0 ? "Nothing to do: these dead letters no longer exist."
    : name === "redrive" ? `${service} retries ${what} in the group in which ${selection.ids ? "it" : "they"} failed.`
      : `This deletes ${what} of ${service} permanently. Their effects will never happen.`);
  text(byId("confirm-yes"), name === "redrive" ? "Redrive" : "Discard permanently");
  byId("confirm-yes").disabled = preview.letters === 0;
  byId("confirm").showModal();
}
async function confirmed() {
  const { name, selection } = wanted;
  const done = await all(name, { by: operator(), ...selection });
  await refresh();
  say(`${name === "redrive" ? "Redriven" : "Discarded"}: ${number(done.letters)}.`, "good");
}
async function showActs() {
  const { acts } = await ask(at("/dead-letters/acts", { limit: 20 }));
  each(byId("letter-acts"), acts, (one) => String(one.id), () => make("tr"), (row, one) => {
    const events = one.events.map((event) => `#${event.deadLetter} ${event.subject} ${event.eventId}`);
    if (one.letters > events.length) events.push(`and ${number(one.letters - events.length)} more`);
    fill(row, [time(one.at), one.operator, one.act, one.letters, events.join("; "), one.via]);
    row.cells[4].className = "long";
  });
}
async function refresh() {
  await Promise.all([showGroups(), search(), showActs()]);
}

async function services() {
  const found = await ask("/api/operations");
  const usable = found.filter((one) => one.about);
  const names = usable.map((one) => one.service);
  const select = byId("letters-service");
  if ([...select.options].map((option) => option.value).join() !== names.join()) {
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    select.value = names.includes("orders") ? "orders" : names[0] ?? "";
  }
  service = select.value;
  mayAct = byId("read-only").hidden && usable.some((one) => one.service === service && one.about.mayAct);
  byId("operator-field").hidden = !mayAct;
  byId("letters-body").hidden = names.length === 0;
  const others = found.filter((one) => !one.about).map((one) => `${one.service}: ${one.why}`);
  text(byId("letters-services"), others.length ? `Not available: ${others.join("; ")}.` : "");
}

byId("letters-search").addEventListener("submit", (event) => {
  event.preventDefault();
  filter = byId("letters-text").value.trim() ? { text: byId("letters-text").value.trim() } : {};
  trying(() => search());
});
byId("letters-service").addEventListener("change", () => trying(async () => { filter = {}; await services(); await refresh(); }));
byId("letters-more").addEventListener("click", () => trying(() => search(next)));
byId("bulk-redrive").addEventListener("click", () => trying(() => prepare("redrive", { filter })));
byId("bulk-discard").addEventListener("click", () => trying(() => prepare("discard", { filter })));
byId("confirm").addEventListener("close", () => { if (byId("confirm").returnValue === "yes") trying(confirmed); });

/** Refreshes when the number of dead letters, the rights, or the ready parts have changed. */
export function showDeadLetters({ parts, rights }, dead) {
  const state = `${dead} ${rights} ${parts.filter((part) => part.state === "ready").map((part) => part.name).join()}`;
  if (state === known) return;
  known = state;
  const refreshAll = async () => {
    await services();
    if (service) await refresh();
  };
  refreshAll().catch((error) => {
    say(error.message, "bad");
    setTimeout(() => { known = ""; }, RETRY);
  });
}
