"""An agent whose answers depend on what it is asked; it waits for the file GATE."""

import time
from pathlib import Path

from hayhooks import BasePipelineWrapper, get_last_user_message

gate = Path(GATE)


class PipelineWrapper(BasePipelineWrapper):
    """Answers."""

    def setup(self):
        pass

    def run_chat_completion(self, model, messages, body):
        answer = ANSWERS.get(get_last_user_message(messages), echo)
        return answer(messages, body)


def echo(messages, body):
    for word in f"you said {messages[-1]['content']}".split(" "):
        yield f"{word} "


def history(messages, body):
    yield " | ".join(f"{message['role']}: {message['content']}" for message in messages)


def told(messages, body):
    yield str({name: body[name] for name in body if name != "messages"})


def fail(messages, body):
    yield "this "
    raise ValueError("no luck today")


def refuse(messages, body):
    raise ValueError("no luck at all")


def events(messages, body):
    yield {"type": "status", "data": {"description": "thinking"}}
    yield {"type": "artifact", "data": {"name": "figures", "parts": [{"data": {"pi": 3.14}}]}}
    yield "done"


def pause(messages, body):
    yield "one "
    yield "two "
    while not gate.exists():
        time.sleep(0.005)


def wait(messages, body):
    try:
        yield "first "
        while not gate.exists():
            time.sleep(0.005)
            yield ""
        yield "second"
    finally:
        gate.with_name("closed").touch()


ANSWERS = {
    "history": history,
    "body": told,
    "fail": fail,
    "refuse": refuse,
    "events": events,
    "pause": pause,
    "wait": wait,
}
