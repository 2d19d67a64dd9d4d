"""The wrapper contract: the base class of ``PipelineWrapper`` in a ``pipeline_wrapper.py``."""

from collections.abc import AsyncGenerator, Generator
from typing import Any


class BasePipelineWrapper:
    """Base class of the ``PipelineWrapper`` in your ``pipeline_wrapper.py``.

    Implement ``setup`` and at least one of the ``run_*`` methods; each becomes an endpoint of the deployment. Sync
    methods run in threads, ``async def`` methods on the event loop. A method may return its result, or be a generator,
    which streams.

    Attributes:
        pipeline: the Haystack ``Pipeline`` or ``Agent`` that ``setup`` builds. Pipelines and agents in other attributes
            are warmed up and closed too.
        request_timeout: seconds that a request may take, to its last byte. A request that takes longer is cancelled and
            answered with 504. 0: no limit; None: ``HAYHOOKS_REQUEST_TIMEOUT``.
        concurrency: number of requests that run at a time; others wait, first come first served. 0: no limit; None:
            ``HAYHOOKS_CONCURRENCY``.
        queue_size: number of requests that may wait; others are answered with 503. None: ``HAYHOOKS_QUEUE_SIZE``.
    """

    pipeline: Any = None
    request_timeout: float | None = None
    concurrency: int | None = None
    queue_size: int | None = None

    def setup(self) -> None:
        """Build the pipeline. Called once per revision, in a thread, before the revision serves.

        If it raises, the revision is a failure, and the previous one keeps serving.
        """
        raise NotImplementedError("setup() is not implemented")

    def check(self) -> Any:
        """Test the new revision before it serves: run the pipeline, and raise if the result is wrong.

        Called after ``setup`` and warm-up, in a thread, or on the event loop if it is ``async``. It may take
        ``HAYHOOKS_CHECK_TIMEOUT`` seconds. If it raises, returns False or times out, the revision is a failure, and
        the previous one keeps serving.
        """

    def teardown(self) -> None:
        """Release what ``setup`` acquired. Called once, in a thread, after the revision's last request."""

    def run_api(self, *args: Any, **kwargs: Any) -> Any:
        """Answer ``POST /{name}/run``. The parameters of your method are the fields of the JSON body."""
        raise NotImplementedError("run_api() is not implemented")

    async def run_api_async(self, *args: Any, **kwargs: Any) -> Any:
        """Answer ``POST /{name}/run`` on the event loop. It is used if both this and ``run_api`` exist."""
        raise NotImplementedError("run_api_async() is not implemented")

    def run_chat_completion(
        self, model: str, messages: list[dict[str, Any]], body: dict[str, Any]
    ) -> str | Generator[Any, None, None] | Any:
        """Answer an OpenAI chat completion request, streamed or not.

        Args:
            model: the deployment's name.
            messages: the conversation as the client sent it; each message is ``{"role": ..., "content": ...}``.
            body: the whole request, with every field that the client sent.
        """
        raise NotImplementedError("run_chat_completion() is not implemented")

    async def run_chat_completion_async(
        self, model: str, messages: list[dict[str, Any]], body: dict[str, Any]
    ) -> str | AsyncGenerator[Any, None] | Any:
        """Answer an OpenAI chat completion request on the event loop. It is used if both methods exist."""
        raise NotImplementedError("run_chat_completion_async() is not implemented")

    def run_response(
        self, model: str, input_items: list[dict[str, Any]], body: dict[str, Any]
    ) -> str | Generator[Any, None, None] | Any:
        """Answer a request of OpenAI's Responses API, streamed or not.

        Args:
            model: the deployment's name.
            input_items: messages, ``function_call_output`` and so on, as the client sent them. A plain text becomes one
                message, ``{"type": "message", "role": "user", "content": text}``.
            body: the whole request, with every field that the client sent.
        """
        raise NotImplementedError("run_response() is not implemented")

    async def run_response_async(
        self, model: str, input_items: list[dict[str, Any]], body: dict[str, Any]
    ) -> str | AsyncGenerator[Any, None] | Any:
        """Answer a request of OpenAI's Responses API on the event loop. It is used if both methods exist."""
        raise NotImplementedError("run_response_async() is not implemented")

    def run_file_upload(self, *args: Any, **kwargs: Any) -> Any:
        """Store a file sent to ``POST /v1/files``. Your method may be ``async``, and names the parameters it needs.

        ``filename`` and ``content_type``: as the client says, or ``None``. ``content``: the bytes, all in memory.
        ``file``: Starlette's ``UploadFile`` instead, spooled to disk and closed after the answer. ``purpose``: the
        client's purpose. ``model``: the deployment's name. ``body``: the other fields of the form.

        Returns:
            OpenAI's file object as a dict, whose missing fields are filled in; or its id; or ``None``.
        """
        raise NotImplementedError("run_file_upload() is not implemented")

    def run_file_list(self, *args: Any, **kwargs: Any) -> Any:
        """Answer ``GET /v1/files`` with a list of file objects.

        Parameters that it may name: ``after``, ``limit``, ``order``, ``purpose``; the client may omit each.
        """
        raise NotImplementedError("run_file_list() is not implemented")

    def run_file_retrieve(self, *args: Any, **kwargs: Any) -> Any:
        """Answer ``GET /v1/files/{file_id}`` with the file object; return ``None`` if there is no such file."""
        raise NotImplementedError("run_file_retrieve() is not implemented")

    def run_file_content(self, *args: Any, **kwargs: Any) -> Any:
        """Answer ``GET /v1/files/{file_id}/content`` with bytes, text, a ``Path`` or a response.

        Return ``None`` if there is no such file.
        """
        raise NotImplementedError("run_file_content() is not implemented")

    def run_file_delete(self, *args: Any, **kwargs: Any) -> Any:
        """Answer ``DELETE /v1/files/{file_id}``; return ``False`` if there is no such file."""
        raise NotImplementedError("run_file_delete() is not implemented")


# The methods that requests can reach, in this order.
OPERATIONS = tuple(name for name in vars(BasePipelineWrapper) if name.startswith("run_"))
