// Live events of the server: fetched, not an EventSource, so that the API key can be sent.

import { call, serverSentEvents } from "./api.js";

const TYPES = "loading,deployed,failed,restored,undeployed";
const RETRY_MS = 1000;

// Call *onChange* after each change of what is served, *onState* with whether the server is reached.
export async function follow(onChange, onState) {
  for (let lastId = ""; ; ) {
    try {
      const answer = await call(`events?types=${TYPES}`, { headers: lastId ? { "Last-Event-ID": lastId } : {} });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      onState(true);
      for await (const event of serverSentEvents(answer)) {
        lastId = event.id;
        onChange(event.type, JSON.parse(event.data));
      }
    } catch {
      // The server stops, or restarts: it is tried again.
    }
    onState(false);
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}
