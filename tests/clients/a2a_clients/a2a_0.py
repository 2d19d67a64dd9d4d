"""What people do with the client of a2a-sdk 0.3; prints what it found as JSON."""

import asyncio
import json
import sys

import httpx
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory, create_text_message_object
from a2a.types import TaskIdParams, TaskQueryParams


async def main():
    found = {}
    async with httpx.AsyncClient(timeout=60) as http:
        card = await A2ACardResolver(http, sys.argv[1]).get_agent_card()
        found["card"] = [card.name, card.protocol_version, card.capabilities.streaming]
        for streaming in (False, True):
            client = ClientFactory(ClientConfig(httpx_client=http, streaming=streaming)).create(card)
            events = [event async for event in client.send_message(create_text_message_object(content="hello"))]
            task, update = events[-1]
            found["streamed" if streaming else "sent"] = [
                task.status.state,
                "".join(part.root.text for part in task.artifacts[0].parts),
                update.final if update else None,
            ]
        found["task"] = (await client.get_task(TaskQueryParams(id=task.id))).id == task.id
        async for task, _ in client.send_message(create_text_message_object(content="wait")):
            if task.artifacts:
                found["cancelled"] = (await client.cancel_task(TaskIdParams(id=task.id))).status.state
                break
        client = ClientFactory(ClientConfig(httpx_client=http, streaming=False)).create(card)
        ((task, _),) = [event async for event in client.send_message(create_text_message_object(content="refuse"))]
        found["failed"] = [task.status.state, task.status.message.parts[0].root.text]
    print(json.dumps(found))


asyncio.run(main())
