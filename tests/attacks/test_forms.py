"""Forms whose parsing, decoding or keeping would cost the server more than their sending costs the client."""

import random
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.attacks.measuring import Attacked
from tests.live_server import eventually

BOUNDARY = "b0undary"
MEBIBYTE = 1024 * 1024


def part(name: str, content: bytes, filename: str = "", more: str = "") -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n{more}\r\n'
    return head.encode() + content + b"\r\n"


def form(parts: Iterable[bytes]) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def post(attacked: Attacked, content: Any, *, charset: str = "", path: str = "/upload/run") -> httpx.Response:
    kind = f"multipart/form-data; boundary={BOUNDARY}" + (f"; charset={charset}" if charset else "")
    return attacked.client.post(path, content=content, headers={"content-type": kind})


@pytest.mark.parametrize(
    "charset", ["punycode", "idna", "utf-7", "undefined", "hex", "rot13", "unicode_escape", "utf-16", "no such one"]
)
@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=b0undary", "application/x-www-form-urlencoded"])
def test_a_form_is_utf8_whatever_codec_it_names(attacked: Attacked, charset: str, kind: str):
    content = form([part("text", b"a-" + b"9" * (MEBIBYTE - 10))])
    headers = {"content-type": f"{kind}; charset={charset!r}".replace("'", '"')}
    cost = attacked.cost(lambda: attacked.client.post("/upload/run", content=content, headers=headers))

    assert cost.result.status_code == 415
    assert repr(charset) in cost.result.json()["detail"]
    assert "UTF-8" in cost.result.json()["detail"]
    cost.check(megabytes=30)


@pytest.mark.parametrize("charset", ["", "utf-8", "UTF-8", '"utf8"', "us-ascii"])
def test_what_browsers_and_scripts_send_is_read(attacked: Attacked, charset: str):
    answer = post(attacked, form([part("text", "\u20ac".encode())]), charset=charset)

    assert answer.json()["result"][3] == {"text": "\u20ac"}


def test_a_codec_in_a_part_is_not_used(attacked: Attacked):
    more = "Content-Type: text/plain; charset=punycode\r\n"

    assert post(attacked, form([part("text", b"a-9", more=more)])).json()["result"][3] == {"text": "a-9"}


# Each is made in its test: all together are 150 MB.
TOO_MUCH: dict[str, Callable[[], bytes]] = {
    "fields": lambda: form(part(f"f{number}", b"") for number in range(1_001)),
    "text in a field": lambda: form([part("text", b"x" * (MEBIBYTE + 1))]),
    "text in all fields": lambda: form(part(f"f{number}", b"x" * (MEBIBYTE - 1)) for number in range(17)),
    "headers": lambda: form([part("text", b"", more="".join(f"X-{n}: {'x' * 4_000}\r\n" for n in range(6)))]),
    "a header": lambda: form([part("text", b"", more="X: " + "x" * 20_000_000 + "\r\n")]),
    "files": lambda: form(part("files", b"", f"{n}.txt") for n in range(1_001)),
    "a preamble": lambda: b"x" * 20_000_000 + form([]),
    "names": lambda: form([part("x" * 20_000_000, b"")]),
}


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_a_multipart_form_with_too_much_is_refused(attacked: Attacked, kind: str):
    content = TOO_MUCH[kind]()
    cost = attacked.cost(lambda: post(attacked, content))

    assert cost.result.status_code in (400, 413)
    assert cost.result.json()["detail"]
    assert len(cost.result.content) < 1_000
    cost.check(megabytes=60)


@pytest.mark.parametrize("kind", ["a header", "a preamble", "names"])
def test_a_connection_that_the_server_will_close_is_not_used_again(attacked: Attacked, kind: str):
    """The answer comes before the end of a body that the server does not read to its end."""
    content = TOO_MUCH[kind]()
    for _ in range(4):
        assert post(attacked, content).headers["connection"] == "close"
        assert attacked.client.get("/healthz").status_code == 200


ENCODED: dict[str, tuple[Callable[[], bytes], int]] = {
    "separators alone": (lambda: b"&" * 20_000_000, 413),
    "empty fields": (lambda: b"=&" * 10_000_000, 413),
    "a large field": (lambda: b"text=" + b"%41" * 700_000, 413),
    "many large fields": (lambda: b"&".join(b"f%d=%s" % (n, b"x" * 1_000_000) for n in range(20)), 413),
    "escapes": (lambda: b"&".join(b"f%d=%s" % (n, b"%41" * 340_000) for n in range(5)), 200),
    "plus signs": (lambda: b"&".join(b"f%d=%s" % (n, b"+" * 1_000_000) for n in range(5)), 200),
    "no UTF-8": (lambda: b"text=%ff%fe", 200),
}


@pytest.mark.parametrize("kind", ENCODED)
def test_a_urlencoded_form_leaves_the_loop_free(attacked: Attacked, kind: str):
    make, status = ENCODED[kind]
    content = make()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    cost = attacked.cost(lambda: attacked.client.post("/upload/run", content=content, headers=headers))

    assert cost.result.status_code == status
    cost.check(megabytes=250)


def test_json_in_fields_leaves_the_loop_free(attacked: Attacked):
    content = form(part(f"f{number}", b"[" + b"[]," * 300_000 + b"[]]") for number in range(4))
    cost = attacked.cost(lambda: post(attacked, content))

    assert cost.result.status_code == 200
    cost.check(megabytes=400)


@pytest.mark.parametrize(("count", "size"), [(30, MEBIBYTE - 1), (1_000, 5_000), (2, 12 * MEBIBYTE)])
def test_files_are_on_disk_together_if_they_are_large_together(attacked: Attacked, count: int, size: int):
    quiet = post(attacked, form([part("files", b"x", "a")])).json()["result"][2]

    def send() -> httpx.Response:
        # The wrapper reads them all, so only half of them are for it.
        return post(
            attacked, form(part("files" if n == 0 else "others", b"x" * size, f"{n}.txt") for n in range(count))
        )

    cost = attacked.cost(send)

    assert cost.result.json()["result"][:2] == [size, ["0.txt"]]
    assert cost.result.json()["result"][2] <= quiet + 5  # descriptors
    cost.check(megabytes=size // MEBIBYTE + 12)
    eventually(lambda: not [path for path in Path(tempfile.gettempdir()).glob("tmp*") if path.stat().st_size == size])


def test_each_file_on_disk_is_whole_and_read_by_itself(attacked: Attacked):
    files = {f"{n}.bin": random.Random(n).randbytes(n * 50_000) for n in range(12)}
    answer = post(attacked, form(part("files", content, name) for name, content in files.items()))

    assert answer.json()["result"][:2] == [sum(map(len, files.values())), list(files)]


CUT = form([part("numbers", b"[1]"), part("files", b"x" * 100, "a.txt")])


@pytest.mark.parametrize("length", [0, 1, len(BOUNDARY) + 2, 60, 120, len(CUT) - 30, len(CUT) - 5, len(CUT) - 3])
def test_a_form_that_is_cut_off_is_400_and_runs_nothing(attacked: Attacked, length: int):
    answer = post(attacked, CUT[:length])

    assert answer.status_code == 400
    assert "not a valid form" in answer.json()["detail"]


def test_an_empty_form_may_begin_with_empty_lines(attacked: Attacked):
    cost = attacked.cost(lambda: post(attacked, b"\r\n" * 10_000_000 + form([])))

    assert cost.result.json()["result"][:2] == [0, []]
    cost.check(megabytes=30)


@pytest.mark.parametrize("boundary", ["x", "boundary=", f"boundary={'x' * 1_000}", 'boundary="'])
def test_a_boundary_that_is_none_is_400(attacked: Attacked, boundary: str):
    headers = {"content-type": f"multipart/form-data; {boundary}"}

    assert attacked.client.post("/upload/run", content=form([]), headers=headers).status_code == 400
