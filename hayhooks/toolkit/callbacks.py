"""Callbacks for the streaming generators that show in open-webui what an Agent does."""

import json
from typing import Any

from hayhooks.toolkit.events import (
    PipelineEvent,
    create_details_tag,
    create_notification_event,
    create_status_event,
)


def default_on_tool_call_start(
    tool_name: str, arguments: dict[str, Any] | str | None, tool_call_id: str | None
) -> PipelineEvent | None:
    """Say in the status line which tool is called; nothing for a call without a name."""
    return create_status_event(f"Calling '{tool_name}' tool...") if tool_name else None


def default_on_tool_call_end(
    tool_name: str, arguments: dict[str, Any], result: Any, error: bool
) -> list[PipelineEvent | str]:
    """End the status line, and put arguments and result into a folded block; of an error only notify."""
    if error:
        return [
            create_status_event(f"Called '{tool_name}' tool", done=True, hidden=True),
            create_notification_event(f"Error calling '{tool_name}' tool", "error"),
        ]
    content = f"```\nArguments:\n{arguments}\n\nResponse:\n{result}\n```"
    return [
        create_status_event(f"Called '{tool_name}' tool", done=True),
        create_details_tag(tool_name, f"Tool call result for '{tool_name}'", content),
    ]


def default_on_pipeline_end(result: Any) -> str:
    """The pipeline's result as text: JSON, but of a string the string itself."""
    if isinstance(result, str):
        return result
    return json.dumps(result, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    return value.to_dict() if callable(getattr(value, "to_dict", None)) else str(value)
