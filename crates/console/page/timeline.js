// The timeline of a ticket or an order: every step of every event about it, in chronological order. Data from events
// is set as text, never as HTML.

import { byId, count, look, make, number, text } from "/dom.js";

/** The states of an event in a queue group that have no time. */
const STATES = {
  unpublished: ["waiting to be published", "warn"],
  waiting: ["waiting for a member of the group", "warn"],
  delivered: ["with a member, not acknowledged yet", "warn"],
  acknowledged: ["acknowledged", ""],
  missing: ["MISSING: acknowledged, and neither applied nor a dead letter", "bad"],
  unknown: ["unknown", "warn"],
};
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const time = (value) => new Date(value).toISOString().replace("T", " ").replace("Z", "");
let shown = 0;

/** Where an event was published: a step with its time, or why there is none. */
function publication(event) {
  const where = `stream ${event.stream}`;
  const found = event.publication;
  switch (found.state) {
    case "stored": return { at: found.at, what: "published", where, details: `sequence #${number(found.sequence)}` };
    case "within": return { at: found.to, what: "published", where,
      details: `one of #${number(found.firstSequence)} to #${number(found.lastSequence)}, confirmed between ${time(found.from)} and ${time(found.to)}` };
    case "waiting": return { what: "waiting to be published", where: `outbox of ${event.service}`, details: "", look: "warn" };
    case "lost": return { what: "lost by the stream, waiting to be republished", where: `outbox of ${event.service}`, details: "", look: "bad" };
    default: return { what: "published", where, details: "when and where is no longer known" };
  }
}
/** The steps of an event in a queue group. */
function received(group) {
  const { state, known } = group;
  const where = group.listener ? `listener ${group.listener}` : `${group.queueGroup}${group.service ? ` (${group.service})` : ""}`;
  const steps = (known?.acts ?? []).map((act) => ({ at: act.at, where,
    what: act.act === "discard" ? `dead letter discarded by ${act.operator}` : `dead letter redriven by ${act.operator}`, details: "",
    look: act.act === "discard" ? "bad" : "" }));
  const tries = (attempts) => (attempts ? `${count(attempts, "attempt")} on its own` : "took effect at once, with its batch");
  if (state === "applied") {
    if (known.deliveredAt) steps.push({ at: known.deliveredAt, what: `delivered to ${known.appliedBy}`, where, details: "" });
    steps.push({ at: known.appliedAt, what: `applied by ${known.appliedBy}`, where, details: tries(known.attempts), look: "good" });
  } else if (state === "dead" || state === "redriven") {
    steps.push({ at: known.deadAt, what: `dead letter ${known.deadLetter}, given up by ${known.deadBy}`, where, details: `${known.attempts ? tries(known.attempts) : "not tried"}: ${known.reason}`, look: "bad" });
    if (state === "redriven") steps.push({ what: "waiting to be retried", where, details: "", look: "warn" });
  } else if (state === "retrying") {
    steps.push({ at: known.lastAttemptAt, what: "failed, will be retried", where, details: `${tries(known.attempts)}: ${known.lastError}`, look: "warn" });
  } else if (STATES[state]) {
    const [what, name] = STATES[state];
    steps.push({ what, where, details: state === "acknowledged" && !group.listener ? "this group has no operations API to ask" : "", look: name });
  }
  return steps;
}
function steps(event) {
  const all = [
    { at: event.writtenAt, what: "committed", where: `${event.service}${event.data?.version ? `, version ${event.data.version}` : ""}`,
      details: event.traceId ? `trace ${event.traceId}` : "no trace" },
    publication(event),
    ...event.groups.flatMap(received),
  ];
  return all.map((step) => ({ ...step, event }));
}
/** Chronological; what has not happened yet comes last. */
const inOrder = (one, other) => (one.at ? Date.parse(one.at) : Infinity) - (other.at ? Date.parse(other.at) : Infinity) || 0;

function row(step) {
  const line = make("tr");
  const event = make("span", "", `${step.event.subject} ${step.event.id}`);
  event.title = JSON.stringify(step.event.data);
  for (const [value, name] of [[step.at ? time(step.at) : "not yet"], [step.what, step.look], [step.where], [event, "long"], [step.details, "long"]]) {
    const cell = make("td", name ?? "");
    cell.append(value);
    line.append(cell);
  }
  return line;
}
/** Ids of related entities in the events: an order of a ticket, the ticket of an order. */
function related(entity, events) {
  const ids = new Map();
  for (const { data } of events) {
    for (const [name, id] of [["order", data?.hold?.orderId], ["order", data?.orderId], ["ticket", data?.ticketId], ["ticket", data?.ticket?.id]]) {
      if (typeof id === "string" && UUID.test(id) && id !== entity) ids.set(id, name);
    }
  }
  return [...ids].slice(0, 20).map(([id, name]) => {
    const element = make("button", "", `Timeline of ${name} ${id}`);
    element.type = "button";
    element.addEventListener("click", () => { byId("timeline-id").value = id; show(); });
    return element;
  });
}
function verdict({ entity, events, services, nats }) {
  const groups = events.flatMap((event) => event.groups.filter((group) => !group.listener).map((group) => group.state));
  const are = (...states) => groups.filter((state) => states.includes(state)).length;
  const parts = [`${count(events.length, "event")} of ${entity}`];
  if (are("applied")) parts.push(`${number(are("applied"))} applied`);
  if (are("dead", "redriven")) parts.push(count(are("dead", "redriven"), "dead letter"));
  if (are("discarded")) parts.push(`${number(are("discarded"))} discarded`);
  const open = are("unpublished", "waiting", "delivered", "retrying");
  if (open) parts.push(`${number(open)} in progress`);
  if (are("missing")) parts.push(`${number(are("missing"))} MISSING`);
  if (are("unknown", "acknowledged")) parts.push(`${number(are("unknown", "acknowledged"))} unknown`);
  const gaps = services.filter((one) => one.why || !one.complete)
    .map((one) => (one.why ? `${one.service}: ${one.why}` : `${one.service}: some events cannot be found`));
  if (nats) gaps.push(`NATS: ${nats}`);
  const words = events.length ? parts.join(", ") : `No event of ${entity} is in the services' logs, which keep 14 days`;
  const bad = are("dead", "discarded", "missing") > 0;
  return [gaps.length ? `${words}. Not complete: ${gaps.join("; ")}.` : `${words}.`,
    bad ? "bad" : open || gaps.length || !events.length ? "warn" : "good"];
}
async function show() {
  const mine = ++shown;
  const said = byId("timeline-said");
  text(said, "Looking…");
  look(said, "");
  const entity = byId("timeline-id").value.trim();
  try {
    const answer = await fetch(`/api/timeline?${new URLSearchParams({ entity })}`);
    const found = await answer.json().catch(() => null);
    if (mine !== shown) return;
    if (!answer.ok) throw new Error(`${answer.status} ${found?.detail ?? answer.statusText}`);
    const lines = found.events.flatMap(steps).sort(inOrder);
    byId("timeline").replaceChildren(...lines.map(row));
    byId("timeline-table").hidden = lines.length === 0;
    byId("timeline-related").replaceChildren(...related(found.entity, found.events));
    const [words, name] = verdict(found);
    text(said, words);
    look(said, name);
  } catch (error) {
    text(said, error.message);
    look(said, "bad");
  }
}
byId("timeline-search").addEventListener("submit", (event) => { event.preventDefault(); show(); });
