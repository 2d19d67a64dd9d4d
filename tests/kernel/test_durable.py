"""Durable methods and their options, when a wrapper is loaded."""

import importlib.util
from typing import Any

import pytest
from haystack import Pipeline
from haystack.components.agents import Agent
from haystack.components.generators.chat import MockChatGenerator
from pydantic import BaseModel

from hayhooks import BasePipelineWrapper, DurableContext
from hayhooks.errors import LoadError
from hayhooks.kernel.durable import durable_method, owner_method
from hayhooks.testing.components import Hello


class Request(BaseModel):
    word: str


class Wrapper(BasePipelineWrapper):
    def setup(self) -> None:
        self.pipeline = Pipeline()
        self.pipeline.add_component("hello", Hello())

    def run_durable(self, context: DurableContext, request: Request) -> Request:
        return request


def loaded(cls: type[BasePipelineWrapper] = Wrapper, **attributes: Any) -> Any:
    wrapper = cls()
    wrapper.setup()
    for name, value in attributes.items():
        setattr(wrapper, name, value)
    return durable_method(wrapper)


def test_a_durable_method_is_described():
    method = loaded(durable_resume_model=Request, durable_concurrency=2, durable_timeout=0.5, durable_revision="v1")

    assert (method.name, method.kind, method.revision, method.on_loop) == ("run_durable", "pipeline", "v1", False)
    assert (method.request_model, method.resume_model, method.concurrency, method.timeout_s) == (
        Request,
        Request,
        2,
        0.5,
    )


def test_an_agent_is_another_kind():
    assert loaded(pipeline=Agent(chat_generator=MockChatGenerator("hi"))).kind == "agent"


def test_a_wrapper_without_a_durable_method_has_none():
    class Plain(BasePipelineWrapper):
        def setup(self) -> None:
            pass

    assert loaded(Plain) is None


ONE = "context: DurableContext"
TWO = f"{ONE}, request: Request"

METHODS = {
    "one parameter": (
        f"def run_durable(self, {ONE}): ...",
        "must have two parameters, a DurableContext and a pydantic",
    ),
    "three parameters": (f"def run_durable(self, {TWO}, user: str): ...", "must have two parameters"),
    "keywords only": (f"def run_durable(self, *, {TWO}): ...", "must have two parameters"),
    "no self": (f"def run_durable({TWO}): ...", "lacks self: write"),
    "no model": (f"def run_durable(self, {ONE}, request): ...", "'request' is annotated with nothing: it must be a py"),
    "a dict": (f"def run_durable(self, {ONE}, request: dict): ...", "annotated with <class 'dict'>: it must be a py"),
    "an unknown name": (f"def run_durable(self, {ONE}, request: 'Nobody'): ...", "'Nobody'"),
    "sync by name only": (f"async def run_durable(self, {TWO}): ...", "is `async def`: it must be `def`"),
    "async by name only": (f"def run_durable_async(self, {TWO}): ...", "is `def`: it must be `async def`"),
    "a generator": (f"def run_durable(self, {TWO}): yield 1", "context.stream_chunk"),
    "an async generator": (f"async def run_durable_async(self, {TWO}): yield 1", "context.stream_chunk"),
    "both": (
        f"def run_durable(self, {TWO}): ...\n    async def run_durable_async(self, {TWO}): ...",
        r"run_durable\(\) and run_durable_async\(\): an execution runs one of them",
    ),
}


@pytest.mark.parametrize("kind", METHODS)
def test_a_method_that_executions_cannot_call_is_a_failure(kind: str):
    body, message = METHODS[kind]
    names = {"Base": BasePipelineWrapper, "Pipeline": Pipeline, "DurableContext": DurableContext, "Request": Request}
    source = f"class W(Base):\n    def setup(self): self.pipeline = Pipeline()\n    {body}\n"
    exec(compile(source, "w.py", "exec", dont_inherit=True), names)

    with pytest.raises(LoadError, match=message):
        loaded(names["W"])


ATTRIBUTES: dict[str, tuple[dict[str, Any], str]] = {
    "an empty revision": ({"durable_revision": " "}, "durable_revision is ' ': it must be a text, not empty, or None"),
    "a number as revision": ({"durable_revision": 1}, "durable_revision is 1: "),
    "a resume model": ({"durable_resume_model": dict}, "durable_resume_model is <class 'dict'>: it must be a pydantic"),
    "a model's instance": ({"durable_resume_model": Request(word="")}, "it must be a pydantic model or None"),
    "no executions": ({"durable_concurrency": 0}, "durable_concurrency is 0: it must be a number of executions"),
    "a flag": ({"durable_concurrency": True}, "durable_concurrency is True"),
    "a text": (
        {"durable_timeout": "5"},
        "durable_timeout is '5': it must be seconds, or 0 for no limit, or None to use",
    ),
    "infinity": ({"durable_timeout": float("inf")}, "durable_timeout is inf"),
    "no time": ({"durable_timeout": -1}, "durable_timeout is -1"),
    "an unknown component": (
        {"durable_memo": ["bye"]},
        r"durable_memo is \['bye'\]: it must be .* components, of hello",
    ),
    "a name": ({"durable_memo": "hello"}, "durable_memo is 'hello'"),
    "no pipeline": ({"pipeline": None}, r"self.pipeline is None after setup\(\): a wrapper with run_durable\(\) needs"),
    "no Haystack": ({"pipeline": object()}, "needs a Pipeline or an Agent"),
}


@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_an_attribute_of_no_use_is_a_failure(kind: str):
    attributes, message = ATTRIBUTES[kind]
    with pytest.raises(LoadError, match=message):
        loaded(**attributes)


def test_names_of_components_are_accepted():
    assert loaded(durable_memo=["hello"]) is not None


def test_without_the_extra_a_durable_wrapper_is_a_failure_with_the_line_to_install_it(monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "dbos" else find(name, *rest))

    with pytest.raises(LoadError, match=r'pip install "hayhooks\[durable\]"'):
        loaded()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("self, request, user", r"durable_owner_id\(self, request\): missing a required argument: 'user'"),
        ("self", r"durable_owner_id\(\) must take Starlette's request, and nothing else"),
    ],
)
def test_an_owner_takes_a_request(parameters: str, message: str):
    namespace: dict[str, Any] = {"BasePipelineWrapper": BasePipelineWrapper}
    exec(f"class Owned(BasePipelineWrapper):\n    def durable_owner_id({parameters}): ...", namespace)

    with pytest.raises(LoadError, match=message):
        owner_method(namespace["Owned"]())


def test_a_wrapper_without_an_owner_has_none():
    assert owner_method(BasePipelineWrapper()) is None
