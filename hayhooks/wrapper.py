"""The wrapper contract: the base class of ``PipelineWrapper`` in a ``pipeline_wrapper.py``."""

from collections.abc import AsyncGenerator, Collection, Generator, Mapping
from types import MappingProxyType
from typing import Any


class BasePipelineWrapper:
    """Base class of the ``PipelineWrapper`` in your ``pipeline_wrapper.py``.

    Implement ``setup`` and at least one ``run_*`` method; each becomes an endpoint of the deployment.
    Sync methods run in threads, ``async def`` methods on the event loop. A generator is streamed.

    Attributes:
        pipeline: the ``Pipeline`` or ``Agent`` of ``setup``; warmed up and closed, as those in other attributes.
        request_timeout: seconds until a request is cancelled with 504. 0: no limit; None: ``HAYHOOKS_REQUEST_TIMEOUT``.
        concurrency: requests that run at a time; others wait. 0: no limit; None: ``HAYHOOKS_CONCURRENCY``.
        queue_size: requests that may wait; others get a 503. None: ``HAYHOOKS_QUEUE_SIZE``.
        trial_seconds: for so long the revision that it replaces stays loaded, and serves again if requests of this one
            fail. 0: it goes at once; None: ``HAYHOOKS_TRIAL_SECONDS``.
        canary: a share of the requests, as 0.1, that it gets at first, beside the revision that it replaces; all
            of them once it has done as well. 0: all at once; None: ``HAYHOOKS_CANARY``.
        warm_up: whether pipelines and agents are warmed up before the revision serves; where they are not, what needs
            an API key that is missing fails in its first request, and not when it is loaded.
        skip_mcp: whether it is left out of the tools of MCP.
        a2a: whether it is an agent of A2A, if it can chat; ``skip_a2a = True`` says the same as ``a2a = False``.
        a2a_card: fields of its agent card, instead of those that are made: name, description, skills, ...
        ray_options: of its deployment on Ray Serve, if pipelines have one each: ``{"num_gpus": 1, "num_replicas": 2}``.
        mcp_chat: whether its chat is a tool of MCP too, which takes a ``message``.
        durable_revision: an execution runs only where this is as it was when it was ordered; None: on any revision.
        durable_resume_model: a pydantic model of what an execution is resumed with; None: any JSON.
        durable_concurrency: executions that run at a time in one process. None: ``HAYHOOKS_DURABLE_CONCURRENCY``.
        durable_timeout: seconds of one attempt. 0: no limit; None: ``HAYHOOKS_DURABLE_TIMEOUT``.
        durable_memo: whether what components of pipelines return is kept, so that another attempt goes on there; or the
            names of those for which it is.
    """

    pipeline: Any = None
    request_timeout: float | None = None
    concurrency: int | None = None
    queue_size: int | None = None
    trial_seconds: float | None = None
    canary: float | None = None
    warm_up: Any = True  # a wrapper may have a method of this name
    skip_mcp: bool = False
    a2a: bool = True
    skip_a2a: bool = False
    a2a_card: Any = None
    ray_options: Mapping[str, Any] = MappingProxyType({})
    mcp_chat: bool = False
    durable_revision: str | None = None
    durable_resume_model: Any = None
    durable_concurrency: int | None = None
    durable_timeout: float | None = None
    durable_memo: bool | Collection[str] = True

    def setup(self) -> None:
        """Build the pipeline; called once per revision, in a thread, before it serves.

        If it raises, the revision is a failure, and the previous one keeps serving.
        """
        raise NotImplementedError("setup() is not implemented")

    def check(self) -> Any:
        """Test the new revision before it serves: run the pipeline, raise on a bad result.

        Called after ``setup`` and warm-up, in a thread, or on the event loop if it is ``async``. If it raises,
        returns False or takes longer than ``HAYHOOKS_CHECK_TIMEOUT``, the previous revision keeps serving.
        """

    def teardown(self) -> None:
        """Release resources of ``setup``; called once, in a thread, after all requests."""

    def run_api(self, *args: Any, **kwargs: Any) -> Any:
        """Answer ``POST /{name}/run``; the method's parameters are the JSON body's fields."""
        raise NotImplementedError("run_api() is not implemented")

    async def run_api_async(self, *args: Any, **kwargs: Any) -> Any:
        """Answer ``POST /{name}/run`` on the event loop; preferred to ``run_api``."""
        raise NotImplementedError("run_api_async() is not implemented")

    def run_chat_completion(
        self, model: str, messages: list[dict[str, Any]], body: dict[str, Any]
    ) -> str | Generator[Any, None, None] | Any:
        """Answer an OpenAI chat completion request, streamed or not.

        *model* is the deployment's name, *body* the whole request. *messages* are the client's, with role and content.
        """
        raise NotImplementedError("run_chat_completion() is not implemented")

    async def run_chat_completion_async(
        self, model: str, messages: list[dict[str, Any]], body: dict[str, Any]
    ) -> str | AsyncGenerator[Any, None] | Any:
        """Answer on the event loop; preferred to ``run_chat_completion``."""
        raise NotImplementedError("run_chat_completion_async() is not implemented")

    def run_response(
        self, model: str, input_items: list[dict[str, Any]], body: dict[str, Any]
    ) -> str | Generator[Any, None, None] | Any:
        """Answer a request of OpenAI's Responses API, streamed or not.

        *model* is the deployment's name, *body* the whole request. *input_items* are the client's; a plain text becomes
        ``{"type": "message", "role": "user", "content": text}``.
        """
        raise NotImplementedError("run_response() is not implemented")

    async def run_response_async(
        self, model: str, input_items: list[dict[str, Any]], body: dict[str, Any]
    ) -> str | AsyncGenerator[Any, None] | Any:
        """Answer on the event loop; preferred to ``run_response``."""
        raise NotImplementedError("run_response_async() is not implemented")

    def run_durable(self, context: Any, request: Any) -> Any:
        """Do work that outlives its request, in a thread; ``POST /{name}/run-durable`` orders it.

        *context* is a ``DurableContext``; *request* is annotated with a pydantic model, which the body must match.
        Another attempt calls the method from its top: what it has kept with the context is there again.
        """
        raise NotImplementedError("run_durable() is not implemented")

    async def run_durable_async(self, context: Any, request: Any) -> Any:
        """Do the same on the event loop; a wrapper has one of the two."""
        raise NotImplementedError("run_durable_async() is not implemented")

    def durable_owner_id(self, request: Any) -> str:
        """Return whose executions a request may see and order, 1 to 512 bytes; *request* is Starlette's.

        Without this method everybody sees all executions of the deployment.
        """
        raise NotImplementedError("durable_owner_id() is not implemented")

    def run_file_upload(self, *args: Any, **kwargs: Any) -> Any:
        """Store a file sent to ``POST /v1/files``; return its file object, its id or None.

        The method, sync or ``async``, names the parameters it needs: ``filename`` and ``content_type``, None if the
        client sends none; ``content``, the bytes, or ``file``, an ``UploadFile`` that is closed after the response;
        ``purpose``; ``model``, the deployment's name; ``body``, the other form fields. Missing fields of the file
        object are filled in.
        """
        raise NotImplementedError("run_file_upload() is not implemented")

    def run_file_list(self, *args: Any, **kwargs: Any) -> Any:
        """Answer ``GET /v1/files``; may name ``after``, ``limit``, ``order``, ``purpose``."""
        raise NotImplementedError("run_file_list() is not implemented")

    def run_file_retrieve(self, *args: Any, **kwargs: Any) -> Any:
        """Answer ``GET /v1/files/{file_id}`` with the file object; None: no such file."""
        raise NotImplementedError("run_file_retrieve() is not implemented")

    def run_file_content(self, *args: Any, **kwargs: Any) -> Any:
        """Return a file's bytes, text, ``Path`` or response; None: no such file."""
        raise NotImplementedError("run_file_content() is not implemented")

    def run_file_delete(self, *args: Any, **kwargs: Any) -> Any:
        """Answer ``DELETE /v1/files/{file_id}``; False: no such file."""
        raise NotImplementedError("run_file_delete() is not implemented")


SWITCHES = ("skip_mcp", "mcp_chat", "a2a", "skip_a2a")  # attributes that are True or False

# The methods that requests can reach, in this order.
OPERATIONS = tuple(name for name in vars(BasePipelineWrapper) if name.startswith("run_") and "durable" not in name)

DURABLE_METHODS = ("run_durable", "run_durable_async")
