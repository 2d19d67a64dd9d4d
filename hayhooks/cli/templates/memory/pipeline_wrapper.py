"""A chat that remembers: the server keeps the conversation of each session, over restarts too."""

import json
import os
import sqlite3
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from haystack import Pipeline
from haystack.dataclasses import ChatMessage

from hayhooks import (
    BasePipelineWrapper,
    async_streaming_generator,
    chat_messages_from_openai,
    generation_kwargs_from,
)
from hayhooks.testing.components import StandInChatGenerator

# A file whose name begins with a dot: writing it does not reload this folder.
DATABASE = os.environ.get("MEMORY_DATABASE", str(Path(__file__).with_name(".memory.sqlite")))

SYSTEM = ChatMessage.from_system("You answer in one sentence, and know what has been said before.")
MAX_MESSAGES = 20  # that the model reads of a conversation: the latest


def reply(messages: list[ChatMessage]) -> str:
    """Play the model: show what it remembers."""
    asked = [message.text for message in messages if message.is_from("user")]
    if not asked:
        return "You have not said anything."
    before = f", and before that {asked[-2]!r}" if len(asked) > 1 else ""
    return f"You said {asked[-1]!r}{before}."


class PipelineWrapper(BasePipelineWrapper):
    """Remembers what was said in each session."""

    def setup(self) -> None:
        self.pipeline = Pipeline()
        # A real model: OpenAIChatGenerator(model="..."), or another of haystack.components.generators.chat.
        self.pipeline.add_component("llm", StandInChatGenerator(reply))
        with _database() as database:
            database.execute("create table if not exists messages (session text, message text)")
            database.execute("create index if not exists by_session on messages (session)")

    def run_api(self, session: str, message: str) -> dict:
        """Go on with the conversation of a session.

        Args:
            session: any name, such as that of the user; a new one begins a conversation.
            message: what the user says.
        """
        asked = ChatMessage.from_user(message)
        history = [*_recall(session), asked]
        answer = self.pipeline.run({"llm": {"messages": [SYSTEM, *history[-MAX_MESSAGES:]]}})["llm"]["replies"][0]
        _remember(session, asked, answer)
        return {"reply": answer.text, "messages": len(history) + 1, "usage": answer.meta.get("usage")}

    async def run_chat_completion_async(self, model: str, messages: list[dict], body: dict) -> AsyncGenerator:
        """Go on with a conversation that the client keeps: it sends all of it each time."""
        history = chat_messages_from_openai(messages)[-MAX_MESSAGES:]
        arguments = {"messages": [SYSTEM, *history], "generation_kwargs": generation_kwargs_from(body, streams=True)}
        return async_streaming_generator(self.pipeline, pipeline_run_args={"llm": arguments})


def _recall(session: str) -> list[ChatMessage]:
    with _database() as database:
        rows = database.execute("select message from messages where session = ? order by rowid", [session])
        return [ChatMessage.from_dict(json.loads(message)) for (message,) in rows]


def _remember(session: str, *messages: ChatMessage) -> None:
    with _database() as database:
        rows = [(session, json.dumps(message.to_dict())) for message in messages]
        database.executemany("insert into messages values (?, ?)", rows)


@contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(DATABASE)) as database, database:  # the second one commits
        yield database
