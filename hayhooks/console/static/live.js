// What goes on by itself: events of the server, what is read again and again, and what is done once for many reasons.

import { call, serverSentEvents } from "./api.js";

const RETRY_MS = 1000;
const POLL_MS = 5000;

export const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Call *onChange* with true when the server is reached and after each event of *types*, with false when it is away, or
// with false and why that stays so. It is no EventSource, so that the API key can be sent.
export async function follow(types, onChange, signal) {
  for (let lastId = ""; !signal?.aborted; await wait(RETRY_MS)) {
    try {
      const headers = lastId ? { "Last-Event-ID": lastId } : {};
      const answer = await call(`events?types=${types}`, { headers, signal });
      onChange(answer.ok);
      if (answer.status === 403) return onChange(false, "no live changes: the API key may not read");
      for await (const { id } of serverSentEvents(answer)) {
        lastId = id;
        onChange(true);
      }
    } catch {
      // The server stops, or restarts: it is tried again.
    }
    if (!signal?.aborted) onChange(false);
  }
}

// Do *task* again and again, *pause* ms apart, while the page can be seen.
export async function poll(task, signal, pause = POLL_MS) {
  while (!signal.aborted) {
    if (!document.hidden) await task().catch(() => {});
    await wait(pause);
  }
}

// A function that does *task* once for all calls that come while it waits, and at most every *pause* ms.
export function once(task, pause = 0) {
  let [due, done] = [null, null]; // the next time, and the last
  return () => {
    due ??= Promise.allSettled([done]).then(() => {
      due = null;
      done = task().then(() => wait(pause));
      return done;
    });
    return due;
  };
}
