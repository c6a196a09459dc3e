// Keeps the page up to date with the console's snapshots. Data from events and processes is set as text, never as
// HTML.

import { showActs, showSums } from "/acts.js";
import { showDeadLetters } from "/dead-letters.js";
import "/timeline.js";
import "/totals.js";
import { byId, each, look, make, number, rate, since, span, tenth, text } from "/dom.js";

const STATES = {
  "ready": ["ready", "good"],
  "not-ready": ["not ready", "warn"],
  "down": ["down", "bad"],
  "frozen": ["frozen (not responding)", "bad"],
};
let lastHeard = 0;

/** The steps of a flow, each with a title, a look, and lines of a name and a value. */
function steps(list, items) {
  each(list, items, (step) => step.key, () => {
    const item = make("li");
    item.append(make("strong"), make("dl"));
    return item;
  }, (item, step) => {
    look(item, `step ${step.look}`);
    text(item.firstChild, step.title);
    const pairs = step.lines.flatMap(([name, value]) => [["dt", name, name], ["dd", `${name}:`, value]]);
    each(item.lastChild, pairs, ([, key]) => key, ([tag]) => make(tag), (cell, [, , value]) => text(cell, value));
  });
}
const waits = (count, from, now) =>
  count === null || count === undefined ? "unknown" : count > 0 ? `${number(count)}, for ${since(from, now)}` : "0";
function worst(states) {
  if (states.some((state) => STATES[state][1] === "bad")) return "bad";
  return states.some((state) => STATES[state][1] === "warn") ? "warn" : "good";
}
function flowSteps(flow, parts, now) {
  const result = [];
  const source = flow.publisher;
  if (source) {
    const states = parts.filter((part) => part.service === source.service).map((part) => part.state);
    result.push({ key: "post", title: `POST to ${source.service}`, look: worst(states), lines: [["answered 201", rate(source.rate)]] });
    const late = source.waiting > 0 && source.oldestSeconds > 3;
    result.push({ key: "outbox", title: `outbox of ${source.service}`, look: source.waiting === null ? "bad" : late ? "warn" : "good",
      lines: [["waiting", waits(source.waiting, source.waitingSince, now)], ["oldest", source.oldestSeconds > 0 ? span(source.oldestSeconds) : "–"]] });
  }
  result.push({ key: "stream", title: `stream ${flow.stream}`, look: flow.current ? "good" : "bad",
    lines: [["published", rate(flow.rate)], ["holds", number(flow.messages)], ["newest", `#${number(flow.lastSequence)}`],
      ...(flow.current ? [] : [["NATS", "does not answer"]])] });
  for (const group of flow.groups) {
    const bad = group.members.length === 0 || worst(group.members.map((member) => member.state)) === "bad";
    const warn = group.stalled || group.paused || group.deadLetters > 0;
    result.push({ key: `group ${group.name}`, title: `queue group ${group.name}`, look: bad ? "bad" : warn ? "warn" : "good",
      lines: [["acknowledged", rate(group.rate)], ["waiting", waits(group.waiting, group.waitingSince, now)],
        ["in hand", waits(group.inHand, group.inHandSince, now)], ["dead letters", number(group.deadLetters)],
        ...group.members.map((member) => [member.clientId,
          member.state === "ready" ? `${number(member.applied)} rows, ${rate(member.rate)}` : STATES[member.state][0]])] });
  }
  return result;
}

const COLUMNS = ["Client id", "Node", "Member for", "State", "Last sent", "In hand", "Acknowledged", "Redelivered", "Applied", "Rate"];
function makeGroup() {
  const part = make("div");
  const scroll = make("div", "scroll");
  const table = make("table");
  const head = table.createTHead().insertRow();
  COLUMNS.forEach((title, at) => {
    const cell = make("th", at > 3 ? "number" : "", title);
    cell.scope = "col";
    head.append(cell);
  });
  table.createTBody();
  scroll.append(table);
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  part.append(make("h3"), make("p", "hint"), scroll);
  return part;
}
function cells(row, values) {
  values.forEach(([value, name], at) => {
    const cell = row.cells[at] ?? row.insertCell();
    text(cell, value);
    look(cell, name ?? "");
  });
}
function updateGroup(part, { stream, group, now }) {
  const title = `${group.name} (stream ${stream})`;
  text(part.children[0], title);
  text(part.children[1], `Last sent #${number(group.lastSent)}, acknowledged up to #${number(group.acknowledged)}; ` +
    `${number(group.inHand)} in hand of at most ${group.maxInHand > 0 ? number(group.maxInHand) : "any number"}, ` +
    `${number(group.redelivered)} of them redelivered; ack wait ${tenth.format(group.ackWaitSeconds)} s; ` +
    `${group.stalled ? "STALLED: limit of unacked events reached" : "not stalled"}${group.paused ? "; PAUSED" : ""}.`);
  part.children[2].setAttribute("aria-label", title);
  each(part.querySelector("tbody"), group.members, (member) => member.clientId, () => make("tr"), (row, member) => {
    const [state, name] = STATES[member.state];
    cells(row, [[member.clientId], [member.node || "–"], [member.since ? since(member.since, now) : "no lease"],
      [`${state} for ${since(member.stateSince, now)}`, name],
      [member.lastSent === null ? "–" : `#${number(member.lastSent)}`, "number"],
      ...[member.inHand, member.acknowledged, member.redelivered, member.applied].map((value) => [number(value), "number"]),
      [rate(member.rate), "number"]]);
  });
}

function show(snapshot) {
  const now = Date.parse(snapshot.at);
  const { parts, flows } = snapshot;
  showActs(snapshot);
  showSums(snapshot.sums, now, span);
  each(byId("flows"), flows, (flow) => flow.stream, (flow) => {
    const part = make("div");
    part.append(make("h3", "", `${flow.stream}: ${flow.subjects.join(", ")}`), make("ol", "flow"));
    return part;
  }, (part, flow) => steps(part.lastChild, flowSteps(flow, parts, now)));
  const groups = flows.flatMap((flow) => flow.groups.map((group) => ({ stream: flow.stream, group, now })));
  each(byId("groups"), groups, ({ stream, group }) => `${stream} ${group.name}`, makeGroup, updateGroup);
  each(byId("parts"), parts, (part) => `${part.service} ${part.name}`, () => make("tr"), (row, part) => {
    const [state, name] = STATES[part.state];
    const why = part.why || (part.connected === false ? "disconnected from NATS" : "");
    cells(row, [[part.name], [part.service], [state, name], [since(part.since, now)], [why]]);
  });
  const troubled = parts.filter((part) => part.state !== "ready");
  const dead = groups.reduce((sum, { group }) => sum + (group.deadLetters ?? 0), 0);
  const words = troubled.map((part) => `${part.name} is ${STATES[part.state][0]}`);
  // When NATS itself is down, saying so once is enough.
  const cutOff = parts.filter((part) => part.state === "ready" && part.connected === false);
  if (parts.some((part) => part.name === "nats" && part.state === "ready")) {
    words.push(...cutOff.map((part) => `${part.name} is disconnected from NATS`));
  }
  if (dead > 0) words.push(dead === 1 ? "1 dead letter" : `${number(dead)} dead letters`);
  showDeadLetters(snapshot, dead);
  summary(words.length ? words.join("; ") : "Everything is ready.", worst([...parts.map((part) => part.state), ...(cutOff.length ? ["not-ready"] : [])]));
}
function summary(words, name) {
  text(byId("summary"), words);
  look(byId("summary"), name);
}

function listen() {
  const live = new EventSource("/api/live");
  live.onmessage = (message) => {
    if (!message.data) return;
    lastHeard = performance.now();
    show(JSON.parse(message.data));
  };
  // After an error status the browser does not reconnect on its own.
  live.onerror = () => {
    if (live.readyState === EventSource.CLOSED) setTimeout(listen, 1000);
  };
}
listen();
// Every event stream ends after 20 s and the browser reconnects, which is no outage.
setInterval(() => {
  if (performance.now() - lastHeard > 2500) summary("The console does not respond. The numbers below are out of date.", "bad");
}, 500);
