"""A client of the Agent2Agent protocol, by its SDK."""

import httpx
from a2a.client import ClientConfig, create_client
from a2a.helpers import get_artifact_text, get_message_text, new_text_message
from a2a.types import Role, SendMessageRequest, TaskState


async def ask(url: str, question: str) -> str:
    """Send *question* to the agent at *url*; return its answer."""
    request = SendMessageRequest(message=new_text_message(question, role=Role.ROLE_USER))
    async with httpx.AsyncClient(timeout=60) as http:
        client = await create_client(url, ClientConfig(streaming=False, httpx_client=http))
        task = [response.task async for response in client.send_message(request)][-1]
    if task.status.state != TaskState.TASK_STATE_COMPLETED:
        raise RuntimeError(get_message_text(task.status.message))
    return "\n".join(get_artifact_text(artifact) for artifact in task.artifacts)
