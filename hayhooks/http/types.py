"""Starlette's and our classes that wrappers may name in annotations."""

from starlette.datastructures import Headers, UploadFile
from starlette.responses import Response

from hayhooks.http.responses import SSEStream
from hayhooks.kernel.operations import TransportTypes

HTTP_TYPES = TransportTypes(headers=Headers, upload=UploadFile, results={Response: "response", SSEStream: "events"})
