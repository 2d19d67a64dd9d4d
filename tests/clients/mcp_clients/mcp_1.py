"""Everything that people do with the last client of 1.x, over HTTP and over stdio; prints what it found as JSON."""

import asyncio
import json
import sys
from datetime import timedelta
from pathlib import Path

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client
from mcp.shared.exceptions import McpError
from mcp.types import CancelledNotification, CancelledNotificationParams, ClientNotification

URL, ROOT, *COMMAND = sys.argv[1:]


async def check(streams):
    found, changed, heard, listed = {}, asyncio.Event(), [], []

    async def handle(message):
        if "resources/list_changed" in str(message):  # it comes after that of the tools
            changed.set()
        listed.append("tools/list_changed" in str(message))

    async def listen(progress, total, message):
        heard.append(message)

    async with ClientSession(*streams[:2], message_handler=handle) as session:
        answer = await session.initialize()
        found["version"] = answer.protocolVersion
        found["tools"] = [tool.name for tool in (await session.list_tools()).tools]
        result = await session.call_tool("tool", {"numbers": [1, 2]})
        found["structured"] = result.structuredContent
        result = await session.call_tool("tool", {"numbers": [1], "luck": False})
        found["error"] = [result.isError, result.content[0].text]
        result = await session.call_tool("stream", {}, progress_callback=listen)
        found["stream"] = [result.content[0].text, heard]
        request_id = session._request_id
        try:
            await session.call_tool("waits", {"number": 1}, read_timeout_seconds=timedelta(seconds=0.3))
        except McpError as error:
            found["timeout"] = str(error)
        cancelled = CancelledNotificationParams(requestId=request_id, reason="enough")
        await session.send_notification(
            ClientNotification(CancelledNotification(method="notifications/cancelled", params=cancelled))
        )
        found["resources"] = sorted(str(each.uri) for each in (await session.list_resources()).resources)[:2]
        found["readme"] = (await session.read_resource("hayhooks://tool/README.md")).contents[0].text
        changed.clear()
        listed.clear()
        for number in range(50):  # the stream of the session opens by itself
            (Path(ROOT) / "tool/data.txt").write_text(f"{found['version']}{number}{len(COMMAND)}")
            try:
                await asyncio.wait_for(changed.wait(), 0.3)
                found["changed"] = any(listed)
                break
            except TimeoutError:
                pass
        await session.send_ping()
    return found


async def main():
    async with streamablehttp_client(f"{URL}/mcp") as streams:
        http = await check(streams)
    async with stdio_client(StdioServerParameters(command=COMMAND[0], args=COMMAND[1:])) as streams:
        stdio = await check(streams)
    print(json.dumps([http, stdio]))


asyncio.run(main())
