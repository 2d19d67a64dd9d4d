"""What people do with the client of fastmcp; prints what it found as JSON."""

import asyncio
import json
import sys

from fastmcp import Client
from fastmcp.exceptions import ToolError


async def main():
    found, heard = {}, []

    async def listen(progress, total, message):
        heard.append(message)

    async with Client(f"{sys.argv[1]}/mcp") as client:
        found["tools"] = [tool.name for tool in await client.list_tools()]
        result = await client.call_tool("tool", {"numbers": [1, 2]})
        found["structured"] = result.structured_content
        try:
            await client.call_tool("tool", {"numbers": "x"})
        except ToolError as error:
            found["error"] = str(error)
        result = await client.call_tool("stream", {}, progress_handler=listen)
        found["stream"] = [result.content[0].text, heard]
        found["readme"] = (await client.read_resource("hayhooks://tool/README.md"))[0].text
    print(json.dumps(found))


asyncio.run(main())
