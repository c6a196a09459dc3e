// What a person can do on the page. Each form shows its result below it.

import { byId, each, make, text, tenth } from "/dom.js";

/** The detail of a problem, or a summary of the answer. */
function words(answer, body) {
  if (!answer.ok) return `${answer.status} ${body?.detail ?? body?.title ?? answer.statusText}`;
  const inner = body?.body;
  const errors = (inner?.errors ?? []).map((error) => `${error.field ?? error.pointer ?? ""} ${error.detail ?? error.message ?? ""}`.trim());
  const said = inner?.said ?? inner?.detail ?? (inner?.id ? `id ${inner.id}` : inner?.sequence ? `sequence #${inner.sequence}` : "");
  return [body?.status, said, ...errors].filter(Boolean).join(" – ");
}

async function act(path, body, output) {
  output.textContent = "…";
  const headers = { "content-type": "application/json" };
  const token = byId("token").value.trim();
  if (token) headers.authorization = `Bearer ${token}`;
  try {
    const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
    const json = await answer.json().catch(() => null);
    output.textContent = words(answer, json);
    return json?.body;
  } catch (error) {
    output.textContent = `The console does not answer: ${error.message}`;
  }
}

function form(id, path, body, then) {
  const element = byId(id);
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    const result = await act(path, body(new FormData(element), event.submitter), element.querySelector("output"));
    if (result && then) then(result);
  });
}

form("ticket", "/api/act/ticket", (data) => ({ title: data.get("title"), price: Number(data.get("price")) }),
  (ticket) => { if (ticket.id) byId("ticket-id").value = ticket.id; });
form("order", "/api/act/order", (data) => ({ ticketId: data.get("ticketId").trim() }));
form("publish", "/api/act/publish", (data) => ({ subject: data.get("subject"), payload: data.get("payload"), as: data.get("as") }));
form("load", "/api/act/load", (data) => ({ rate: Number(data.get("rate")), seconds: Number(data.get("seconds")) }));
form("break", "/api/act/break", (data, button) => {
  const how = button?.value ?? "kill";
  const what = data.get(how === "poison" || how === "wipe" ? "stream" : "part");
  return how === "cut" ? { how, what, from: data.get("from"), seconds: Number(data.get("seconds")) } : { how, what };
});

/** Updates the options of a select and keeps the selection. */
function options(select, names) {
  if ([...select.options].map((option) => option.value).join("\n") === names.join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  if (names.includes(chosen)) select.value = chosen;
}

/** What may be done, and to what. */
export function showActs({ rights, breakable, cuttable, parts, flows, experiments }) {
  byId("acts").hidden = rights === "read-only";
  byId("read-only").hidden = rights !== "read-only";
  byId("token-field").hidden = rights !== "token";
  byId("break").hidden = !breakable;
  byId("not-cuttable").hidden = cuttable;
  document.querySelector("#break [value=cut]").disabled = !cuttable;
  showExperiments(experiments);
  const subject = byId("subject");
  const isFirst = subject.options.length === 0;
  options(subject, flows.flatMap((flow) => flow.subjects));
  // The payload that the form starts with is a ticket.
  if (isFirst && [...subject.options].some((option) => option.value === "ticket:created")) subject.value = "ticket:created";
  options(byId("break-stream"), flows.map((flow) => flow.stream));
  const processes = parts.filter((part) => part.service !== "postgres");
  options(byId("break-part"), [...processes.map((part) => part.name), "postgres"]);
}

/** What was broken, the changes seen since, and the outcome. */
function showExperiments(experiments) {
  byId("outcomes").hidden = experiments.length === 0;
  each(byId("experiments"), experiments, ({ at }) => at, () => {
    const item = make("li");
    item.append(make("strong"), make("ol", "observations"), make("p", "outcome"));
    item.lastChild.setAttribute("role", "status");
    return item;
  }, (item, { at, what, seen, outcome }) => {
    text(item.children[0], `${at.slice(11, 19)} UTC: ${what}`);
    const observations = seen.map((observation, index) => ({ ...observation, index }));
    each(item.children[1], observations, ({ index }) => String(index), () => make("li"), (line, observation) =>
      text(line, `after ${tenth.format(observation.after)} s: ${observation.text}`));
    text(item.children[2], outcome || "In progress…");
  });
}

/** Counts of the tickets that loads posted, and whether any is missing. */
export function showSums(sums, now, span) {
  const whole = new Intl.NumberFormat("en");
  for (const name of ["sent", "accepted", "refused", "unanswered", "applied", "waiting"]) {
    const cell = byId(`sum-${name}`);
    const value = whole.format(sums[name]);
    if (cell.textContent !== value) cell.textContent = value;
  }
  const verdict = byId("verdict");
  const waited = sums.waitingSince ? (now - Date.parse(sums.waitingSince)) / 1000 : 0;
  let text = "No load has been generated yet.";
  let look = "";
  if (sums.accepted > 0 && sums.waiting === 0) {
    text = `Nothing is lost: all ${whole.format(sums.accepted)} tickets answered 201 are in orders.`;
    look = "good";
  } else if (sums.waiting > 0) {
    text = `${whole.format(sums.waiting)} of ${whole.format(sums.accepted)} tickets answered 201 are not in orders yet, the oldest (${sums.oldest}) for ${span(waited)}.`;
    look = waited > 10 ? "bad" : "warn";
  }
  if (sums.running) text = `Posting… ${text}`;
  if (verdict.textContent !== text) verdict.textContent = text;
  verdict.className = look;
}
