"""Events for chat UIs: yield one, or put one into a stream's queue, and the UI shows it beside the answer.

open-webui's are described at https://docs.openwebui.com/features/plugin/development/events. A UI that does not know an
event's type leaves it out.
"""

from dataclasses import dataclass
from html import escape
from typing import Any, Literal


@dataclass(frozen=True)
class PipelineEvent:
    """Something for the UI that is no part of the answer's text."""

    type: str
    data: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The event as it is sent."""
        return {"type": self.type, "data": self.data}


def create_status_event(description: str, done: bool = False, hidden: bool = False) -> PipelineEvent:
    """A line of progress above the answer; the next one takes its place.

    Args:
        description: what is being done.
        done: no more is to come: the UI stops showing that it works.
        hidden: take the line away.
    """
    return PipelineEvent("status", {"description": description, "done": done, "hidden": hidden})


def create_notification_event(
    content: str, notification_type: Literal["info", "success", "warning", "error"] = "info"
) -> PipelineEvent:
    """A message that pops up and goes away."""
    return PipelineEvent("notification", {"type": notification_type, "content": content})


def create_message_event(content: str) -> PipelineEvent:
    """Text that the UI puts at the end of the answer."""
    return PipelineEvent("message", {"content": content})


def create_replace_event(content: str) -> PipelineEvent:
    """Text that takes the place of all the answer so far."""
    return PipelineEvent("replace", {"content": content})


def create_source_event(source_data: dict[str, Any]) -> PipelineEvent:
    """A citation: open-webui reads ``source``, ``document`` and ``metadata`` of *source_data*."""
    return PipelineEvent("source", source_data)


def create_chat_completion_event(data: dict[str, Any]) -> PipelineEvent:
    """The data of a chat completion, as open-webui's own back end sends it."""
    return PipelineEvent("chat:completion", data)


def create_custom_element_event(name: str, props: dict[str, Any]) -> PipelineEvent:
    """An element of Chainlit's: the JSX component *name* with *props*. open-webui leaves it out."""
    return PipelineEvent("custom_element", {"name": name, "props": props})


def create_details_tag(tool_name: str, summary: str, content: str) -> str:
    """A block for the answer's text that open-webui shows folded: *summary*, and *content* below it when opened.

    Args:
        tool_name: what kind of block it is.
        summary: one line.
        content: Markdown.
    """
    head = f'<details type="{escape(tool_name)}" done="true">\n<summary>{escape(summary, quote=False)}</summary>'
    return f"{head}\n\n{content}\n</details>\n\n"
