// The tab Chat: turns with a deployment, streamed.

import { postJson, serverSentEvents } from "./api.js";
import { fill, partsOf } from "./dom.js";
import { milliseconds, readObject } from "./formats.js";
import { assistantMessage } from "./message.js";
import { sender } from "./sending.js";

export function chatTab(name, signal) {
  const { root, log, form, input, system, parameters, problem, anew, ...controls } = partsOf("chat");
  const sending = sender(controls, askAgain, signal);
  const path = `${encodeURIComponent(name)}/chat`;
  const turns = []; // {role, content, root}
  const page = document.documentElement;
  let [isFollowed, lastY] = [true, 0];

  // Take back *turn* and all that followed.
  function cut(turn) {
    sending.abort();
    turns.splice(turns.indexOf(turn)).forEach((each) => each.root.remove());
  }

  function addQuestion(content) {
    const { root: turnRoot, edit } = fill(partsOf("question", log), { said: content });
    const turn = { role: "user", content, root: turnRoot };
    turns.push(turn);
    edit.onclick = () => {
      cut(turn);
      input.value = content;
      input.focus();
    };
  }

  // Ask once more what *turn* answers; the new answer takes its place.
  function askAgain(turn = turns.at(-1)) {
    if (turn?.role !== "assistant") return;
    cut(turn);
    ask();
  }

  const readParameters = () => readObject(parameters, problem, "The parameters are");

  async function ask() {
    const extra = readParameters();
    if (!extra) return;
    const head = system.value.trim() ? [{ role: "system", content: system.value }] : [];
    const messages = [...head, ...turns.map(({ role, content }) => ({ role, content }))];
    const body = { model: name, messages, stream: true, stream_options: { include_usage: true }, ...extra };
    const turn = assistantMessage(log);
    const { facts, progress, resend } = turn.parts;
    turns.push(turn);
    resend.onclick = () => askAgain(turn);
    isFollowed = true;

    const receive = async (answer, started) => {
      let first = "";
      for await (const item of itemsOf(answer)) {
        first ||= `first after ${milliseconds(performance.now() - started)}`;
        turn.add(item);
      }
      const { total_tokens: total, prompt_tokens: asked, completion_tokens: said } = turn.usage ?? {};
      return [turn.content, first, total > 0 && `${asked} + ${said} tokens`];
    };
    await sending.exchange((stopSignal) => postJson(path, body, stopSignal), receive, turn.parts);
    if (turn.hasFailed) facts.classList.replace("good", "bad");
    progress.classList.add("done");
    resend.hidden = false;
  }

  // Who reads the end of the page goes on reading its end, until they scroll up.
  addEventListener("scroll", () => {
    isFollowed = innerHeight + scrollY > page.scrollHeight - 120 || (isFollowed && scrollY >= lastY);
    lastY = scrollY;
  }, { signal });
  new ResizeObserver(() => isFollowed && log.offsetHeight && scrollTo(0, page.scrollHeight)).observe(log);
  form.onsubmit = () => {
    const text = input.value.trim();
    if (text === "" || sending.isBusy() || !readParameters()) return;
    input.value = "";
    addQuestion(text);
    ask();
  };
  input.onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  };
  anew.onclick = () => turns.length && cut(turns[0]);
  return { ...sending, root };
}

// The chunks of a stream; of a whole answer, such as an error, one.
async function* itemsOf(answer) {
  if (!/event-stream/.test(answer.headers.get("content-type"))) {
    yield await answer.json();
    return;
  }
  for await (const { data } of serverSentEvents(answer)) if (data !== "[DONE]") yield JSON.parse(data);
}
