"""An agent that asks a person before it pays: the question may stay open for days, and holds nothing meanwhile."""

from haystack.components.agents import Agent
from haystack.dataclasses import ChatMessage
from haystack.tools import tool
from pydantic import BaseModel

from hayhooks import BasePipelineWrapper, DurableContext, current_durable_context

from .scripted_generator import ScriptedChatGenerator


class Complaint(BaseModel):
    """What a customer writes."""

    text: str


class Decision(BaseModel):
    """What a person answers."""

    approved: bool


class Reply(BaseModel):
    """What the customer is told."""

    text: str


@tool
def pay_back(amount: float) -> str:
    """Pay a customer back, if a person agrees."""
    context = current_durable_context()
    decision = context.resume_input
    if decision is None:
        context.suspend_sync({"kind": "approval", "message": f"Pay back {amount:.2f}?"})
    if not decision["approved"]:
        return "refused"
    # The step is done once, whatever happens between it and the end of the execution.
    return context.step_sync("pay", lambda: f"paid {amount:.2f}")


class PipelineWrapper(BasePipelineWrapper):
    """Answers complaints."""

    durable_resume_model = Decision

    def setup(self) -> None:
        self.pipeline = Agent(chat_generator=ScriptedChatGenerator(), tools=[pay_back])

    def run_durable(self, context: DurableContext, request: Complaint) -> Reply:
        result = context.run_agent(messages=[ChatMessage.from_user(request.text)])
        return Reply(text=result["last_message"].text)
