"""Multipart forms: parse the parts, and keep all files of a form together on disk.

Not Starlette's parser: it parses on the event loop, decodes text by any codec that the client names, and keeps each
file of up to 1 MiB in memory.
"""

import io
import os
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException

from hayhooks.errors import RefusedError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FIELDS = 1_000
MAX_FIELD_SIZE = 1024 * 1024  # bytes of the text of one field
MAX_FIELDS_SIZE = 16 * 1024 * 1024  # of all fields
MAX_IN_MEMORY = 1024 * 1024  # bytes of all files of a form

_MAX_HEAD_SIZE = 16_384  # bytes of the headers of a part


def too_many_fields() -> RefusedError:
    """Return the error for a form with too many fields."""
    return RefusedError(413, f"The form has more than {MAX_FIELDS:,} fields")


def check_field_size(field: int, fields: int) -> None:
    """Raise RefusedError if one field, or all fields together, have too many bytes."""
    if field > MAX_FIELD_SIZE:
        raise RefusedError(413, f"A field of the form is larger than {MAX_FIELD_SIZE:,} bytes")
    if fields > MAX_FIELDS_SIZE:
        raise RefusedError(413, f"The fields of the form are larger than {MAX_FIELDS_SIZE:,} bytes together")


class FormReader:
    """Reads one multipart form; its methods block, and are called one after the other."""

    def __init__(self, boundary: bytes, max_files: int) -> None:
        if not boundary:
            raise _invalid("the Content-Type names no boundary")
        self._max_files = max_files
        self._files_begun = 0
        self._fields = 0
        self._fields_size = 0
        self._items: list[tuple[str, str | _File]] = []
        self._files: list[UploadFile] = []
        # One file for all: a form of a thousand files must not take a thousand descriptors.
        self._spool = SpooledTemporaryFile(max_size=MAX_IN_MEMORY)  # noqa: SIM115 - `close` closes it
        self._spooled = 0  # bytes
        self._head: list[tuple[bytes, bytes]] = []
        self._head_size = 0
        self._header_name = self._header_value = b""
        self._name = ""
        self._text = bytearray()  # of the present part, if it is a field
        self._file: _File | None = None  # if it is a file
        self._ended = False
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise _invalid(str(error)) from error

    @property
    def is_on_disk(self) -> bool:
        """Whether the files are on disk."""
        return self._spooled > MAX_IN_MEMORY

    def feed(self, data: bytes) -> None:
        """Parse the next *data*; raise HTTPException 400, or RefusedError at a limit."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _invalid(str(error)) from error

    def finish(self, data: bytes) -> FormData:
        """Parse the last *data* and return the form."""
        self.feed(data)
        if not self._ended:
            raise _invalid("it ends before its last boundary")
        return FormData([(name, self._opened(item) if isinstance(item, _File) else item) for name, item in self._items])

    def close(self) -> None:
        """Close the files; a wrapper may still hold them."""
        for file in self._files:
            file.file.close()
        self._spool.close()
        self._parser.callbacks = {}  # they refer to this

    def _opened(self, file: "_File") -> UploadFile:
        if self.is_on_disk:
            self._spool.flush()
            content: Any = io.BufferedReader(_Slice(self._spool.fileno(), file.start, file.size))
        else:
            content = SpooledTemporaryFile(max_size=MAX_IN_MEMORY)  # noqa: SIM115 - `close` closes it
            self._spool.seek(file.start)
            content.write(self._spool.read(file.size))
            content.seek(0)
        upload = UploadFile(content, size=file.size, filename=file.filename, headers=Headers(raw=file.headers))
        self._files.append(upload)
        return upload

    # The parser's callbacks.

    def _on_part_begin(self) -> None:
        self._head, self._head_size = [], 0

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += self._part_of_head(data, start, end)

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += self._part_of_head(data, start, end)

    def _part_of_head(self, data: bytes, start: int, end: int) -> bytes:
        self._head_size += end - start
        if self._head_size > _MAX_HEAD_SIZE:
            raise RefusedError(413, f"The headers of a part of the form are larger than {_MAX_HEAD_SIZE:,} bytes")
        return data[start:end]

    def _on_header_end(self) -> None:
        self._head.append((self._header_name.lower(), self._header_value))
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(dict(self._head).get(b"content-disposition"))
        if b"name" not in options:
            raise _invalid("a part has no name in its Content-Disposition")
        self._name = _text_of(options[b"name"])
        self._text, self._file = bytearray(), None
        if b"filename" not in options:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise too_many_fields()
            return
        self._files_begun += 1
        if self._files_begun > self._max_files:
            raise RefusedError(413, f"The form has more files than {self._max_files} (HAYHOOKS_MAX_UPLOAD_FILES)")
        self._file = _File(_text_of(options[b"filename"]), self._head, self._spooled)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        size = end - start
        if self._file is not None:
            self._spool.write(memoryview(data)[start:end])
            self._spooled += size
            self._file.size += size
            return
        self._fields_size += size
        check_field_size(len(self._text) + size, self._fields_size)
        self._text += data[start:end]

    def _on_part_end(self) -> None:
        self._items.append((self._name, _text_of(self._text) if self._file is None else self._file))

    def _on_end(self) -> None:
        self._ended = True


class _File:
    """Where a file of the form is in the spool."""

    __slots__ = ("filename", "headers", "size", "start")

    def __init__(self, filename: str, headers: list[tuple[bytes, bytes]], start: int) -> None:
        self.filename = filename
        self.headers = headers
        self.start = start
        self.size = 0


class _Slice(io.RawIOBase):
    """A part of a file on disk, with a position of its own."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor = descriptor
        self._start = start
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self._read(self._size), b""))  # one system call reads at most 2 GiB

    def _read(self, size: int) -> bytes:
        size = min(size, self._size - self._position)
        data = os.pread(self._descriptor, size, self._start + self._position) if size > 0 else b""
        self._position += len(data)
        return data


def _invalid(reason: str) -> HTTPException:
    return HTTPException(400, f"The body is not a valid form: {reason}")


def _text_of(data: bytes | bytearray) -> str:
    """Decode UTF-8, or what old browsers send."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
