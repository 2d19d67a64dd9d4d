"""The two forms of a conversation in OpenAI's APIs: the messages of chat completions, the input items of Responses.

Both functions translate dicts to dicts and keep all that the other form can express. They accept whatever a client may
send: what has an unexpected type is left out.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Dict = dict[str, Any]

TEXT_PARTS = ("text", "input_text", "output_text")  # types of content parts


def messages_of_items(input_items: str | Iterable[Any], instructions: Any = None) -> list[Dict]:
    """Return the messages of a chat completion for the input of a response.

    *instructions* become a system message, the first one. The reasoning, text and calls of one turn become one message
    of the assistant. Items that chat completions do not have are left out.
    """
    messages: list[Dict] = []
    if instructions and isinstance(instructions, str):
        messages.append({"role": "system", "content": instructions})
    if isinstance(input_items, str):
        return [*messages, {"role": "user", "content": input_items}]
    reasoning = ""  # of the turn that begins
    turn: Dict | None = None  # the assistant's message to which calls are added
    for item in input_items:
        kind = get(item, "type") or "message"
        if kind == "reasoning":
            reasoning, turn = _reasoning(item), None
        elif kind == "function_call":
            if turn is None:
                turn = _assistant_message(None, reasoning)
                messages.append(turn)
            turn.setdefault("tool_calls", []).append(
                {
                    "id": call_id(item),
                    "type": "function",
                    "function": {"name": get(item, "name"), "arguments": arguments_text(item)},
                }
            )
            reasoning = ""
        else:
            turn = None
            if kind == "message" and get(item, "role") == "assistant":
                turn = _assistant_message(_content(item, _chat_part), reasoning)
                messages.append(turn)
            elif kind == "message":
                messages.append({"role": get(item, "role"), "content": _content(item, _chat_part)})
            elif kind == "function_call_output":
                output = tool_output(get(item, "output"))
                messages.append({"role": "tool", "tool_call_id": call_id(item), "content": output})
            reasoning = ""
    return messages


def items_of_messages(messages: Iterable[Any]) -> list[Dict]:
    """Return the input items of a response for the messages of a chat completion."""
    items: list[Dict] = []
    for message in messages:
        role = get(message, "role")
        if role in ("tool", "function"):
            output = tool_output(get(message, "content"))
            items.append({"type": "function_call_output", "call_id": call_id(message), "output": output})
            continue
        if role == "assistant" and isinstance(text := get(message, "reasoning_content"), str) and text:
            summary = [{"type": "summary_text", "text": text}]
            items.append({"type": "reasoning", "id": f"rs_{len(items)}", "summary": summary})
        calls = list(tool_calls(message)) if role == "assistant" else []
        part = _output_part if role == "assistant" else _input_part
        content = _content(message, part) or get(message, "refusal")
        if content or not calls:
            items.append({"type": "message", "role": role, "content": content or ""})
        for call in calls:
            name, arguments = get(call["function"], "name"), arguments_text(call["function"])
            items.append({"type": "function_call", "call_id": call["id"], "name": name, "arguments": arguments})
    return items


def stored_reference(body: Mapping[str, Any]) -> str | None:
    """Return the field in the *body* of a response that refers to something stored, None without such a field.

    References to reasoning do not count: an answer can be given without it.
    """
    fields = (field for field in ("previous_response_id", "conversation") if body.get(field))
    items = body["input"] if isinstance(body["input"], list) else []
    references = (
        f"input[{index}]"
        for index, item in enumerate(items)
        if get(item, "type") == "item_reference" and not str(get(item, "id")).startswith("rs_")
    )
    return next(fields, None) or next(references, None)


def tool_calls(message: Any) -> Iterator[Dict]:
    """Yield id and function of the calls of an assistant's *message*, also in the form that preceded ``tool_calls``."""
    calls = get(message, "tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if function := get(call, "function"):
            yield {"id": call_id(call), "function": function}
    if function := get(message, "function_call"):
        yield {"id": call_id(function), "function": function}


def call_id(value: Any) -> str | None:
    """Return the id of a call, of an item or of a tool's message; a function's message has the name instead."""
    ids = (get(value, key) for key in ("call_id", "tool_call_id", "id", "name"))
    return next((id_ for id_ in ids if isinstance(id_, str) and id_), None)


def arguments_text(function: Any) -> str:
    """Return the arguments of a call as JSON text."""
    arguments = get(function, "arguments")
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {})


def parsed_arguments(text: str | None) -> dict[str, Any]:
    """Parse the arguments of a call; ``{}`` for text that a model has not finished, or that is no JSON object."""
    try:
        arguments = json.loads(text or "{}")
    except ValueError:
        return {}
    return arguments if isinstance(arguments, dict) else {}


def tool_output(output: Any) -> str:
    """Return a tool's output as text: text parts are joined, other values are written as JSON."""
    if isinstance(output, str):
        return output
    texts = [part_text(part) for part in output] if isinstance(output, list) else []
    if texts and all(texts):
        return "\n".join(texts)
    return "" if output is None else json.dumps(output)


def part_text(part: Any) -> str:
    """Return the text of a content part of either form, "" if it is another part."""
    if isinstance(part, str):
        return part
    text = get(part, "text") if get(part, "type") in TEXT_PARTS else None
    return text if isinstance(text, str) else ""


def get(value: Any, name: str) -> Any:
    """Return an item of a mapping, or an attribute of another object; None without it."""
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _assistant_message(content: Any, reasoning: str) -> Dict:
    message = {"role": "assistant", "content": content}
    return {**message, "reasoning_content": reasoning} if reasoning else message


def _reasoning(item: Any) -> str:
    parts: Sequence[Any] = get(item, "summary") or get(item, "content") or ()
    texts = (get(part, "text") for part in parts) if isinstance(parts, list) else ()
    return "\n\n".join(text for text in texts if isinstance(text, str))


def _content(message: Any, convert: Any) -> Any:
    """Convert the content of *message*; a text alone is a string, which is what most wrappers expect."""
    content = get(message, "content")
    if not isinstance(content, list):
        return content
    if len(content) == 1 and (text := part_text(content[0])):
        return text
    return [convert(part) for part in content]


def _chat_part(part: Any) -> Any:
    if text := part_text(part):
        return {"type": "text", "text": text}
    match get(part, "type"):
        case "input_image" if url := get(part, "image_url"):
            detail = get(part, "detail")
            return {"type": "image_url", "image_url": {"url": url, **({"detail": detail} if detail else {})}}
        case "input_file":
            keys = ("file_id", "file_data", "file_url", "filename")
            return {"type": "file", "file": {key: value for key in keys if (value := get(part, key))}}
    return part


def _input_part(part: Any) -> Any:
    if text := part_text(part):
        return {"type": "input_text", "text": text}
    match get(part, "type"):
        case "image_url":
            image = get(part, "image_url")
            detail = get(image, "detail") or "auto"
            return {"type": "input_image", "image_url": get(image, "url"), "detail": detail}
        case "file":
            return {"type": "input_file", **(get(part, "file") or {})}
    return part


def _output_part(part: Any) -> Any:
    text = part_text(part)
    return {"type": "output_text", "text": text, "annotations": []} if text else part
