"""Hand the parameters of a client's request on to a chat generator."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

from hayhooks.errors import InvalidMessagesError, shortened

_WORDS = {
    Real: "a number",
    int: "an integer",
    bool: "true or false",
    str: "a string",
    list: "a list",
    dict: "an object",
}
# The parameters of chat completions that say how an answer is made, and their types.
_PARAMETERS: Mapping[str, tuple[type, ...]] = {
    "temperature": (Real,),
    "top_p": (Real,),
    "max_tokens": (int,),
    "max_completion_tokens": (int,),
    "stop": (str, list),
    "seed": (int,),
    "frequency_penalty": (Real,),
    "presence_penalty": (Real,),
    "logit_bias": (dict,),
    "logprobs": (bool,),
    "top_logprobs": (int,),
    "response_format": (dict,),
    "reasoning_effort": (str,),
    "verbosity": (str,),
    "stream_options": (dict,),
    "tools": (list,),
    "tool_choice": (str, dict),
    "parallel_tool_calls": (bool,),
}
_OF_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")


def generation_kwargs_from(body: Mapping[str, Any], *, tools: bool = True, streams: bool = False) -> dict[str, Any]:
    """Return what the *body* of a request says about how to answer, as a chat generator's ``generation_kwargs``.

    These are the parameters of chat completions, as the client sent them, without those that are null; the body of a
    response is translated. What comes of them is up to the generator: OpenAI's takes all. ``stream_options`` are left
    out where the client does not stream, and both old and new limits of tokens become the new one.

    Args:
        body: of ``run_chat_completion`` or ``run_response``.
        tools: False leaves out the client's tools, which would replace those that an Agent or a generator has.
        streams: the generator streams also where the client does not, as below the streaming generators. Then its
            usage is always asked for: without it, whole answers would report zeros.

    Raises:
        InvalidMessagesError: a parameter is of a wrong type; the client gets a 400 that names it.
    """
    if "messages" not in body and "input" in body:
        body = {**body, **chat_parameters(body)}
    found = {name: body[name] for name in _PARAMETERS if body.get(name) is not None}
    for name, value in found.items():
        types = _PARAMETERS[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            expected = " or ".join(_WORDS[type_] for type_ in types)
            raise InvalidMessagesError(f"'{name}' must be {expected}, not {shortened(repr(value))}", field=name)
    if "max_completion_tokens" in found:
        found.pop("max_tokens", None)
    if streams:
        found["stream_options"] = {**found.get("stream_options", {}), "include_usage": True}
    elif not body.get("stream"):
        found.pop("stream_options", None)
    if not (tools and found.get("tools")):  # a choice without tools is an error to OpenAI
        for name in _OF_TOOLS:
            found.pop(name, None)
    return found


def chat_parameters(body: Mapping[str, Any]) -> dict[str, Any]:
    """Translate those parameters in the *body* of a response that chat completions name otherwise, None for the others.

    Functions are the only tools: the others, such as a web search, are those that OpenAI's server runs itself.
    """
    text, reasoning = _mapping(body.get("text")), _mapping(body.get("reasoning"))
    tools = [nested for tool in _list(body.get("tools")) if (nested := _nested(tool))]
    response_format = dict(_mapping(text.get("format")))
    if response_format.get("type") == "json_schema":
        schema = {key: value for key, value in response_format.items() if key != "type"}
        response_format = {"type": "json_schema", "json_schema": schema}
    return {
        "tools": tools or None,
        "tool_choice": _nested_choice(body.get("tool_choice")) if tools else None,
        "response_format": response_format or None,
        "verbosity": text.get("verbosity"),
        "reasoning_effort": reasoning.get("effort"),
        "max_completion_tokens": body.get("max_output_tokens"),
        "logprobs": True if body.get("top_logprobs") else None,
        "stream_options": {"include_usage": True} if body.get("stream") else None,  # the response tells the usage
    }


def _nested(tool: Any) -> dict[str, Any] | None:
    match tool:
        case {"function": {}}:
            return dict(tool)
        case {"type": "function", "name": str()}:
            return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
    return None


def _nested_choice(choice: Any) -> Any:
    match choice:
        case {"type": "allowed_tools"}:
            tools = [nested for tool in _list(choice.get("tools")) if (nested := _nested(tool))]
            return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode", "auto"), "tools": tools}}
        case {}:
            return _nested(choice)
    return choice


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
