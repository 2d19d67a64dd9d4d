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
        request_timeout: seconds that a request may take, to its last byte; 0: no limit; None: as
            ``HAYHOOKS_REQUEST_TIMEOUT`` says. What takes longer is cancelled, and answered with a 504.
        concurrency: requests that this deployment works on at the same time; 0: no limit; None: as
            ``HAYHOOKS_CONCURRENCY`` says. The others wait, in the order in which they came.
        queue_size: how many may wait, more get a 503; None: as ``HAYHOOKS_QUEUE_SIZE`` says.
    """

    pipeline: Any = None
    request_timeout: float | None = None
    concurrency: int | None = None
    queue_size: int | None = None

    def setup(self) -> None:
        """Build the pipeline; called once per revision, in a thread, before the revision serves.

        Whatever it raises makes the revision a failure; the revision before it goes on serving.
        """
        raise NotImplementedError("setup() is not implemented")

    def check(self) -> Any:
        """Try the new revision before it serves: ask the pipeline something, and raise if the answer is wrong.

        Called after ``setup`` and warm-up, in a thread, or on the event loop if it is ``async``; it may take
        ``HAYHOOKS_CHECK_TIMEOUT`` seconds. When it raises, or returns False, the revision is a failure and the one
        before it goes on serving.
        """

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
        """Keep a file that came to ``POST /v1/files``; plain or ``async``. Take what you need of these, by name.

        ``filename`` and ``content_type``: what the client says, or ``None``. ``content``: the bytes, all in memory; or
        ``file``: Starlette's ``UploadFile``, spooled to disk and closed after the answer. ``purpose``: what the client
        says it is for. ``model``: the deployment's name. ``body``: the other fields of the form.

        Returns:
            OpenAI's file object as a dict, where what you leave out is filled in; or only its id; or nothing.
        """
        raise NotImplementedError("run_file_upload() is not implemented")

    def run_file_list(self, *args: Any, **kwargs: Any) -> Any:
        """Answer ``GET /v1/files`` with a list of file objects.

        It may take ``after``, ``limit``, ``order`` and ``purpose``, each of which the client may leave out.
        """
        raise NotImplementedError("run_file_list() is not implemented")

    def run_file_retrieve(self, *args: Any, **kwargs: Any) -> Any:
        """Answer ``GET /v1/files/{file_id}`` with the file object; ``None`` if there is no such file."""
        raise NotImplementedError("run_file_retrieve() is not implemented")

    def run_file_content(self, *args: Any, **kwargs: Any) -> Any:
        """Answer ``GET /v1/files/{file_id}/content`` with bytes, text, a ``Path`` or a response.

        ``None`` if there is no such file.
        """
        raise NotImplementedError("run_file_content() is not implemented")

    def run_file_delete(self, *args: Any, **kwargs: Any) -> Any:
        """Answer ``DELETE /v1/files/{file_id}``; return ``False`` if there is no such file."""
        raise NotImplementedError("run_file_delete() is not implemented")


# The methods that requests can reach, in this order.
OPERATIONS = tuple(name for name in vars(BasePipelineWrapper) if name.startswith("run_"))
