"""Answers that are no text: a response of its own, calls of a tool, nothing, an artifact that is none."""

from starlette.responses import JSONResponse, PlainTextResponse, Response

from hayhooks import BasePipelineWrapper, get_last_user_message

CALL = {"index": 0, "id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Berlin"}'}}

ANSWERS = {
    "json": JSONResponse({"a": [1]}),
    "text": PlainTextResponse("plain"),
    "no json": PlainTextResponse("{", media_type="application/json"),
    "image": Response(b"\x89PNG", media_type="image/png"),
    "refused": JSONResponse({"detail": "not today"}, 429),
    "calls": {"role": "assistant", "content": None, "tool_calls": [CALL]},
    "empty": "",
    "artifact": [{"type": "artifact", "data": {"parts": 7}}, "text"],
}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_chat_completion(self, model, messages, body):
        answer = ANSWERS[get_last_user_message(messages)]
        return iter(answer) if isinstance(answer, list) else answer
