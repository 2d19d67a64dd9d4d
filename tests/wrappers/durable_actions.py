"""A wrapper for the original: what its method does is said in the request."""

import asyncio
from pathlib import Path

from haystack import Pipeline
from pydantic import BaseModel, Field

from hayhooks import BasePipelineWrapper, current_durable_context
from hayhooks.durable import DurableContext, durable_streaming_callback

GATE: str


class Request(BaseModel):
    action: str = "answer"
    value: int = Field(default=1, ge=0)
    more: object = None


class Approval(BaseModel):
    approved: bool
    comment: str = ""


class Answer(BaseModel):
    value: int
    note: str = ""


class PipelineWrapper(BasePipelineWrapper):
    durable_revision = "v1"
    durable_resume_model = Approval

    def setup(self):
        self.pipeline = Pipeline()

    def durable_owner_id(self, request) -> str:
        return request.headers.get("x-user", "nobody")

    def run_durable(self, context: DurableContext, request: Request) -> Answer:  # noqa: C901 - one case an action
        assert current_durable_context() is context
        match request.action:
            case "fail":
                raise ValueError("a secret")
            case "large":
                context.state["text"] = "x" * 2_000_000
                context.checkpoint_sync()
            case "held":
                while not Path(GATE).exists():
                    context.check_cancelled_sync()
                    asyncio.run(asyncio.sleep(0.01))
            case "retry":
                context.state["tries"] = context.state.get("tries", 0) + 1
                context.checkpoint_sync()
                if context.state["tries"] < 3:
                    context.retry_sync("not yet", delay=0.01)
            case "stream":
                for number in range(request.value):
                    durable_streaming_callback({"n": number})
                    asyncio.run(asyncio.sleep(0.02))
            case "ask":
                approval = context.resume_input
                if approval is None:
                    context.report_progress_sync("asked", metadata={"who": "you"})
                    context.suspend_sync({"kind": "approval", "message": "May I?", "secret": 1}, update={"asked": True})
                return Answer(value=request.value, note=f"{approval['approved']} {context.state['asked']}")
        return Answer(value=request.value)
