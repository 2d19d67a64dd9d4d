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
        text = get_last_user_message(messages)
        if text == "history":
            yield " | ".join(f"{message['role']}: {message['content']}" for message in messages)
        elif text == "body":
            yield str({name: body[name] for name in body if name != "messages"})
        elif text == "fail":
            yield "this "
            raise ValueError("no luck today")
        elif text == "refuse":
            raise ValueError("no luck at all")
        elif text == "events":
            yield {"type": "status", "data": {"description": "thinking"}}
            yield {"type": "artifact", "data": {"name": "figures", "parts": [{"data": {"pi": 3.14}}]}}
            yield "done"
        elif text == "wait":
            try:
                yield "first "
                while not gate.exists():
                    time.sleep(0.005)
                    yield ""
                yield "second"
            finally:
                gate.with_name("closed").touch()
        else:
            for word in f"you said {messages[-1]['content']}".split(" "):
                yield f"{word} "
