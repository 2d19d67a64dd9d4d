// Live events of the server: fetched, not an EventSource, so that the API key can be sent.

import { call, serverSentEvents } from "./api.js";

const RETRY_MS = 1000;

// Call *onEvent* after each event of *types*, *onState* with whether the server is reached, until *signal* aborts.
export async function follow(types, onEvent, onState, signal = null) {
  for (let lastId = ""; !signal?.aborted; ) {
    try {
      const answer = await call(`events?types=${types}`, { headers: lastId ? { "Last-Event-ID": lastId } : {}, signal });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      onState(true);
      for await (const event of serverSentEvents(answer)) {
        lastId = event.id;
        onEvent(event.type, JSON.parse(event.data));
      }
    } catch {
      // The server stops, or restarts: it is tried again.
    }
    if (!signal?.aborted) onState(false);
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}
