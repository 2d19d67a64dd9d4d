"""A durable wrapper as the original has them, scoped by the header X-Owner; the request says what it does."""

import asyncio

from haystack import Pipeline
from pydantic import BaseModel
from starlette.requests import Request

from hayhooks import BasePipelineWrapper, DurableContext


class Work(BaseModel):
    do: str
    count: int = 0


class Decision(BaseModel):
    approved: bool
    note: str = ""


class Done(BaseModel):
    did: str
    decision: Decision | None = None
    count: int = 0


class PipelineWrapper(BasePipelineWrapper):
    durable_revision = "v1"
    durable_resume_model = Decision

    def setup(self) -> None:
        self.pipeline = Pipeline()

    def durable_owner_id(self, request: Request) -> str:
        return request.headers.get("x-owner", "ada")

    async def run_durable_async(self, context: DurableContext, request: Work) -> Done:
        match request.do:
            case "answer":
                await context.report_progress("Half of it", metadata={"share": 0.5})
                await context.checkpoint()
                await context.report_progress("All of it", kind="milestone")
            case "fail":
                raise ValueError("a secret of the database")
            case "retry":
                context.state["tries"] = context.state.get("tries", 0) + 1
                await context.checkpoint()
                await context.retry("not yet", delay=0.0)
            case "ask":
                if (decision := context.resume_input) is None:
                    schema = Decision.model_json_schema()
                    wait = {"kind": "approval", "message": "May I?", "expected_input_schema": schema, "private": 1}
                    await context.suspend(wait, update={"asked": True})
                return Done(did=request.do, decision=decision, count=int(context.state["asked"]))
            case "speak":
                for number in range(request.count):
                    await context.stream_chunk({"n": number, "text": "é"})
                    await asyncio.sleep(0.15)  # two of them are not kept together
            case "sleep":
                while True:
                    await context.check_cancelled()
                    await asyncio.sleep(0.05)
        return Done(did=request.do, count=request.count)
