// The executions of all deployments, newest first: a page of the list, read again and again.

import { getJson } from "./api.js";
import { fill, partsOf, showRows } from "./dom.js";
import { clock, joined, seconds } from "./formats.js";
import { once, poll } from "./live.js";

const PAGE = 50; // rows
const REREAD_MS = 2000; // between two reads

export function executionsView(_name, signal) {
  const parts = partsOf("executions");
  const { status, list, newer, older } = parts;
  const read = once(readOnce);
  const cursors = [""]; // of the pages up to the one that is shown
  let next = null; // that of the page after it
  let isPolled = false;

  async function readOnce() {
    const query = new URLSearchParams({ order: "desc", limit: PAGE, cursor: cursors.at(-1) });
    if (status.value) query.set("status", status.value);
    try {
      const { executions, next_cursor: cursor } = await getJson(`executions?${query}`, signal);
      next = cursor;
      fill(parts, { problem: executions.length ? "" : "There is no such execution." });
      showRows(list, executions, "execution_id", "execution-row", fillRow);
      newer.hidden = cursors.length === 1;
      older.hidden = !next;
    } catch ({ message }) {
      fill(parts, { problem: `The executions cannot be read: ${message}` });
    }
  }

  // Where there can be none nothing is asked: it would open their database.
  function update({ executions }) {
    if (!executions || isPolled) return;
    isPolled = true;
    poll(read, signal, REREAD_MS);
  }

  status.onchange = () => read(cursors.splice(1));
  newer.onclick = () => read(cursors.pop());
  older.onclick = () => read(cursors.push(next));
  return { root: parts.root, update };
}

function fillRow(row, { execution_id: id, deployment, kind, status, attempt, ...times }) {
  const { cancellation_pending: isCanceled, created_at: at, updated_at: changed } = times;
  const facts = [`since ${clock(seconds(changed))}`, isCanceled && "its end is wanted", kind, attempt && `attempt ${attempt}`];
  fill(row, { at: seconds(at), status, link: deployment, short: id.slice(0, 8), facts: joined(...facts) });
  row.status.className = `state ${status}`;
  row.link.href = `#executions/${encodeURIComponent(deployment)}/${encodeURIComponent(id)}`;
}
