"""Await hints: what to do where an ``await`` is missing, or is one too many."""

import inspect
import linecache
import re
from types import FrameType

from hayhooks.errors import safe_str
from hayhooks.kernel.places import OpenFiles, frames_of

_COROUTINE = re.compile(r"\bcoroutine\b")
_AWAITED = re.compile(r"object (?P<kind>\w+) can't be used in 'await' expression")
_FUNCTION = re.compile(r"a coroutine was expected, got <(function|bound method) (?P<name>[\w.]+)")
_GENERATORS = ("async_generator", "PipelineStream")  # of our two functions
_METHODS = ("run_api", "run_chat_completion", "run_response", "run_file_upload")  # that have an async form
_UPLOAD_CALL = re.compile(r"\b(?P<name>\w+)\.(?P<method>read|write|seek|close)\(")


def await_hint(error: BaseException) -> str:
    """Say where *error* asks for an ``await``, or for none; "" if it is about something else."""
    text, files = safe_str(error), OpenFiles()
    if "got coroutine instead" in text:  # of Haystack
        return "run() of a component is a plain def; an async one is run_async(), beside it"
    frames = [(frame, line) for frame, line in frames_of(error) if files.place(frame.f_code.co_filename, line)]
    frames = [each for each in frames if not each[0].f_code.co_name.startswith("<")]  # as of a comprehension
    if not isinstance(error, TypeError | AttributeError) or not frames:
        return ""
    if (function := _FUNCTION.search(text)) is not None:
        return f"call it: {function['name']}(...)"
    if (awaited := _AWAITED.search(text)) is not None:
        if awaited["kind"] in _GENERATORS:
            return "return the generator, or read it with `async for`: without await"
        return "it is a result already: remove await"
    if "'async_generator' object is not iterable" in text:
        return "`async for`, in an async def, reads it; streaming_generator works in a def"
    if "'async for' requires" in text and "PipelineStream" in text:
        return "`for` reads it; async_streaming_generator works with `async for`"
    if _COROUTINE.search(text) is None or "forgot await?" in text:
        return ""
    return _in_def(*frames[0]) or "a coroutine is no result yet: forgot await?"


def _in_def(frame: FrameType, line: int) -> str:
    """Say what to do about a coroutine at *line* of *frame*, if that cannot await it; else return ""."""
    if frame.f_code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
        return ""
    call = _UPLOAD_CALL.search(linecache.getline(frame.f_code.co_filename, line))
    if call and type(frame.f_locals.get(call["name"])).__name__ == "UploadFile":
        name, method = call["name"], call["method"]
        return f"in a def it is {name}.file.{method}(); {name}.{method}() has to be awaited, in an async def"
    name = frame.f_code.co_name
    asynchronous = f"{name}_async" if name in _METHODS else name
    return f"a coroutine is no result yet: await it, in `async def {asynchronous}`"
