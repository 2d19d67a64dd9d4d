"""A guide to a small museum, for open-webui: status lines and sources beside the text, nothing for its own tasks."""

import asyncio
from collections.abc import AsyncGenerator

from haystack import Document, Pipeline
from haystack.components.retrievers import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from hayhooks import BasePipelineWrapper, PipelineEvent, get_last_user_message
from hayhooks.open_webui import create_source_event, create_status_event

ROOMS = {
    "Room 1, clocks": "The oldest clock was made in 1512. It has one hand and strikes the hours.",
    "Room 2, maps": "The globe of 1620 shows California as an island.",
    "Room 3, instruments": "The glass harmonica is played every Sunday at three.",
}

UI_TASK = "### Task:"  # how open-webui's requests for title, tags and follow-ups begin


class PipelineWrapper(BasePipelineWrapper):
    """Knows what stands in which room."""

    def setup(self) -> None:
        store = InMemoryDocumentStore(shared=False)
        store.write_documents([Document(content=text, meta={"room": room}) for room, text in ROOMS.items()])
        self.pipeline = Pipeline()
        self.pipeline.add_component("search", InMemoryBM25Retriever(store, top_k=1))

    async def run_chat_completion_async(
        self, model: str, messages: list[dict], body: dict
    ) -> str | AsyncGenerator[str | PipelineEvent, None]:
        """Answer from the room that fits best."""
        question = get_last_user_message(messages) or ""
        return "{}" if question.startswith(UI_TASK) else self.answer(question)

    async def answer(self, question: str) -> AsyncGenerator[str | PipelineEvent, None]:
        """What is to be read, and what the UI shows beside it."""
        yield create_status_event("Walking through the rooms ...")
        found = (await self.pipeline.run_async({"search": {"query": question}}))["search"]["documents"]
        yield create_status_event(f"Looked into {len(ROOMS)} rooms", done=True)
        for document in found:
            room = {"name": document.meta["room"]}
            yield create_source_event({"source": room, "document": [document.content], "metadata": [room]})
        for word in (found[0].content if found else "That is in no room.").split():
            yield word + " "
            await asyncio.sleep(0.03)  # as a model would
