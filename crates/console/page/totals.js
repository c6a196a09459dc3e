// Whether the totals match: what the services committed, and the state of each event in every queue group.

import { byId, count, each, look, make, number, text } from "/dom.js";

const COLUMNS = ["applied", "retrying", "dead", "discarded", "waiting", "missing"];
const time = (value) => (value ? new Date(value).toISOString().replace("T", " ").slice(0, 19) + " UTC" : "–");

/** Whether the totals match, and if not, where. */
function verdict({ streams, unknown }) {
  const committed = streams.reduce((sum, stream) => sum + stream.committed, 0);
  const problems = [];
  let open = 0;
  let dead = 0;
  for (const stream of streams) {
    open += stream.unpublished + stream.lost;
    for (const group of stream.groups) {
      const sum = COLUMNS.reduce((all, name) => all + group[name], 0);
      open += group.waiting + group.retrying;
      dead += group.dead + group.discarded;
      if (group.service === null) unknown = unknown.concat(`${group.queueGroup}: no operations API that answers`);
      if (group.missing) problems.push(`${group.queueGroup} misses ${count(group.missing, "event")} of ${stream.stream}${group.named.length ? `: ${group.named.join(", ")}` : ", which are named once the others have arrived"}`);
      if (group.service !== null && sum !== group.taken) problems.push(`${group.queueGroup}: ${number(sum)} of ${count(group.taken, "event")} accounted for`);
    }
  }
  const gaps = unknown.length ? ` Not checked: ${unknown.join("; ")}.` : "";
  if (problems.length) return [`The totals do not match. ${problems.join("; ")}.${gaps}`, "bad"];
  const newest = committed === 1 ? "the newest event" : `each of the ${number(committed)} newest events`;
  const parts = [`Nothing is lost: ${newest} is accounted for`];
  if (open) parts.push(`${count(open, "delivery", "deliveries")} in progress`);
  if (dead) parts.push(`${count(dead, "dead letter")}, discarded ones included`);
  return [`${parts.join(", ")}.${gaps}`, gaps || dead ? "warn" : "good"];
}
function show(found) {
  const rows = found.streams.flatMap((stream) => {
    const first = { key: stream.stream, cells: [`${stream.stream}, by ${stream.service}`, stream.committed, stream.published, stream.unpublished, stream.lost] };
    const groups = stream.groups.length ? stream.groups : [null];
    return groups.map((group) => ({ key: `${first.key} ${group?.queueGroup}`, since: stream.since,
      cells: [...first.cells, group?.queueGroup ?? "no queue group", ...COLUMNS.map((name) => (group && group.service !== null ? group[name] : "–"))] }));
  });
  each(byId("totals"), rows, ({ key }) => key, () => make("tr"), (row, { cells, since }) => {
    row.replaceChildren(...cells.map((value, at) => {
      const cell = make("td", typeof value === "number" ? "number" : "", typeof value === "number" ? number(value) : value);
      if (at === 11 && value > 0) cell.className = "number bad";
      return cell;
    }), make("td", "", time(since)));
  });
  byId("totals-table").hidden = rows.length === 0;
  const [words, name] = verdict(found);
  text(byId("totals-said"), words);
  look(byId("totals-said"), name);
}
byId("totals-check").addEventListener("submit", async (event) => {
  event.preventDefault();
  text(byId("totals-said"), "Checking…");
  look(byId("totals-said"), "");
  try {
    const answer = await fetch(`/api/totals?${new URLSearchParams({ events: byId("totals-events").value })}`);
    const found = await answer.json().catch(() => null);
    if (!answer.ok) throw new Error(`${answer.status} ${found?.detail ?? answer.statusText}`);
    show(found);
  } catch (error) {
    text(byId("totals-said"), error.message);
    look(byId("totals-said"), "bad");
  }
});
