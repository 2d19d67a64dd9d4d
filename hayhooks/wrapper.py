"""The contract with user code: the class that a ``pipeline_wrapper.py`` derives from."""

from collections.abc import AsyncGenerator, Generator
from typing import Any


class BasePipelineWrapper:
    """Derive ``class PipelineWrapper(BasePipelineWrapper)`` from it in ``pipeline_wrapper.py``.

    ``setup`` is required, and at least one of the ``run_*`` methods; each implemented one becomes an
    endpoint of the deployment. Sync methods run in threads, ``async def`` methods on the event loop;
    any of them may return its result or be a generator, which streams.

    Attributes:
        pipeline: what ``setup`` builds: a Haystack ``Pipeline`` or ``Agent``. Pipelines and agents kept in
            other attributes are warmed up and closed too.
    """

    pipeline: Any = None

    def setup(self) -> None:
        """Build the pipeline; called once per revision, in a thread, before the revision serves.

        Whatever it raises makes the revision a failure; the revision before it goes on serving.
        """
        raise NotImplementedError("setup() is not implemented")

    def teardown(self) -> None:
        """Let go of what ``setup`` acquired; called once, in a thread, after the revision's last request."""

    def run_api(self, *args: Any, **kwargs: Any) -> Any:
        """Answer ``POST /{name}/run``; the parameters of your method are the fields of the JSON body."""
        raise NotImplementedError("run_api() is not implemented")

    async def run_api_async(self, *args: Any, **kwargs: Any) -> Any:
        """Answer ``POST /{name}/run`` on the event loop; preferred over ``run_api`` when both exist."""
        raise NotImplementedError("run_api_async() is not implemented")

    def run_chat_completion(
        self, model: str, messages: list[dict[str, Any]], body: dict[str, Any]
    ) -> str | Generator[Any, None, None] | Any:
        """Answer an OpenAI chat completion, streamed or whole.

        Args:
            model: the deployment's name.
            messages: the conversation as the client sent it, ``{"role": ..., "content": ...}`` each.
            body: the whole request, with every field the client sent.
        """
        raise NotImplementedError("run_chat_completion() is not implemented")

    async def run_chat_completion_async(
        self, model: str, messages: list[dict[str, Any]], body: dict[str, Any]
    ) -> str | AsyncGenerator[Any, None] | Any:
        """Answer an OpenAI chat completion on the event loop; preferred when both exist."""
        raise NotImplementedError("run_chat_completion_async() is not implemented")

    def run_response(
        self, model: str, input_items: list[dict[str, Any]], body: dict[str, Any]
    ) -> str | Generator[Any, None, None] | Any:
        """Answer a request of OpenAI's Responses API, streamed or whole.

        Args:
            model: the deployment's name.
            input_items: messages, ``function_call_output`` and so on, as the client sent them; a text is one message,
                ``{"type": "message", "role": "user", "content": text}``.
            body: the whole request, with every field the client sent.
        """
        raise NotImplementedError("run_response() is not implemented")

    async def run_response_async(
        self, model: str, input_items: list[dict[str, Any]], body: dict[str, Any]
    ) -> str | AsyncGenerator[Any, None] | Any:
        """Answer a request of OpenAI's Responses API on the event loop; preferred when both exist."""
        raise NotImplementedError("run_response_async() is not implemented")

    def run_file_upload(self, *args: Any, **kwargs: Any) -> Any:
        """Reserved for OpenAI Files, which this version does not serve yet."""
        raise NotImplementedError("run_file_upload() is not implemented")
