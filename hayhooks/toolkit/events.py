"""Events that a stream yields for a chat UI to show, and callbacks that make them of an Agent's tool calls.

UIs ignore unknown types. open-webui's are in https://docs.openwebui.com/features/plugin/development/events.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import PurePath
from typing import Any, Literal


class _EventData(dict[str, Any]):
    """The data of an event, whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no {name!r}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (), None, None, iter(self.items())


class StatusEventData(_EventData):
    """The data of ``create_status_event``."""

    def __init__(self, description: str = "", done: bool = False, hidden: bool = False) -> None:
        super().__init__(description=description, done=done, hidden=hidden)


class NotificationEventData(_EventData):
    """The data of ``create_notification_event``."""

    def __init__(self, content: str = "", type: Literal["info", "success", "warning", "error"] = "info") -> None:
        super().__init__(type=type, content=content)


class MessageEventData(_EventData):
    """The data of ``create_message_event`` and ``create_replace_event``."""

    def __init__(self, content: str = "") -> None:
        super().__init__(content=content)


@dataclass(frozen=True)
class PipelineEvent:
    """A message to the UI, sent beside the answer's text."""

    type: str
    data: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that is sent."""
        return {"type": self.type, "data": self.data}

    to_event_dict = to_dict  # the original's second name


def create_status_event(description: str, done: bool = False, hidden: bool = False) -> PipelineEvent:
    """Replace the progress line above the answer; *done* stops its animation, *hidden* removes it."""
    return PipelineEvent("status", StatusEventData(description, done, hidden))


def create_notification_event(
    content: str, notification_type: Literal["info", "success", "warning", "error"] = "info"
) -> PipelineEvent:
    """Show a pop-up message."""
    return PipelineEvent("notification", NotificationEventData(content, notification_type))


def create_message_event(content: str) -> PipelineEvent:
    """Append *content* to the answer."""
    return PipelineEvent("message", MessageEventData(content))


def create_replace_event(content: str) -> PipelineEvent:
    """Replace the whole answer so far with *content*."""
    return PipelineEvent("replace", MessageEventData(content))


def create_source_event(source_data: dict[str, Any]) -> PipelineEvent:
    """Add a citation; open-webui reads the keys ``source``, ``document`` and ``metadata``."""
    return PipelineEvent("source", source_data)


def source_events(documents: Iterable[Any] | None) -> list[PipelineEvent]:
    """Return a citation for each of Haystack's *documents*, in their order: ``[2]`` in an answer is the second one.

    Its name is the ``title``, ``name``, ``file_name``, ``file_path``, ``source`` or ``url`` in the document's meta. Its
    metadata is the meta, for clients to read, without keys that begin with ``_``. Dicts of the same keys and strings
    are accepted as documents.
    """
    return [_source_event(document, number) for number, document in enumerate(documents or (), 1)]


def create_chat_completion_event(data: dict[str, Any]) -> PipelineEvent:
    """Send the *data* of a chat completion as open-webui's own back end does."""
    return PipelineEvent("chat:completion", data)


def create_custom_element_event(name: str, props: dict[str, Any]) -> PipelineEvent:
    """Show Chainlit's JSX component *name* with *props*; open-webui ignores it."""
    return PipelineEvent("custom_element", {"name": name, "props": props})


def create_details_tag(tool_name: str, summary: str, content: str) -> str:
    """Return answer text that open-webui shows as *summary*, with the Markdown *content* folded."""
    head = f'<details type="{escape(tool_name)}" done="true">\n<summary>{escape(summary, quote=False)}</summary>'
    return f"{head}\n\n{content}\n</details>\n\n"


def default_on_tool_call_start(
    tool_name: str, arguments: dict[str, Any] | str | None, tool_call_id: str | None
) -> PipelineEvent | None:
    """Show the tool's name in the status line; skip a call without a name."""
    return create_status_event(f"Calling '{tool_name}' tool...") if tool_name else None


def default_on_tool_call_end(
    tool_name: str, arguments: dict[str, Any], result: Any, error: bool
) -> list[PipelineEvent]:
    """Finish the status line, and send an event with arguments and result; show an error as a notification.

    ``details_on_tool_call_end`` adds them to the text of the answer instead.
    """
    data = {"name": tool_name, "arguments": arguments, "result": result, "error": error}
    return [*_finished_call(tool_name, error), PipelineEvent("tool_call_end", _as_json(data))]


def details_on_tool_call_end(
    tool_name: str, arguments: dict[str, Any], result: Any, error: bool
) -> list[PipelineEvent | str]:
    """Finish the status line, and add arguments and result to the answer's text, in HTML that open-webui folds.

    An error is shown as a notification.
    """
    if error:
        return [*_finished_call(tool_name, error)]
    content = f"```\nArguments:\n{arguments}\n\nResponse:\n{result}\n```"
    details = create_details_tag(tool_name, f"Tool call result for '{tool_name}'", content)
    return [*_finished_call(tool_name, error), details]


def default_on_pipeline_end(result: Any) -> str:
    """Return the pipeline's *result* as JSON; a string is returned unchanged."""
    if isinstance(result, str):
        return result
    return json.dumps(result, default=_to_json, ensure_ascii=False)


def _finished_call(tool_name: str, error: bool) -> list[PipelineEvent]:
    status = create_status_event(f"Called '{tool_name}' tool", done=True, hidden=error)
    return [status, create_notification_event(f"Error calling '{tool_name}' tool", "error")] if error else [status]


def _source_event(document: Any, number: int) -> PipelineEvent:
    if isinstance(document, str):
        document = {"content": document}
    read: Callable[[str], Any]
    read = document.get if isinstance(document, Mapping) else lambda name: getattr(document, name, None)
    meta = {key: value for key, value in (read("meta") or {}).items() if not key.startswith("_")}
    id_, score = str(read("id") or number), read("score")
    labels = (meta.get(key) for key in ("title", "name", "file_name", "file_path", "source", "url"))
    label = str(next(filter(None, labels), f"Document {number}"))
    links = (meta.get(key) for key in ("url", "source", "link"))
    url = next((link for link in links if isinstance(link, str) and link.startswith(("http://", "https://"))), None)
    name = label if "://" in label else PurePath(label).name or label
    # open-webui tells citations apart, and numbers them, by the source in the metadata.
    source = {"id": id_, "name": name} | ({"url": url} if url else {})
    data = {"source": source, "document": [read("content") or ""], "metadata": [{**meta, "name": name, "source": id_}]}
    return create_source_event(_as_json(data | ({} if score is None else {"distances": [score]})))


def _as_json(data: dict[str, Any]) -> dict[str, Any]:
    """Return *data* as JSON has it: an event with a date, or an object of the user's, must not end the stream."""
    as_json: dict[str, Any] = json.loads(json.dumps(data, default=_to_json, skipkeys=True))
    return as_json


def _to_json(value: Any) -> Any:
    return value.to_dict() if callable(getattr(value, "to_dict", None)) else str(value)
