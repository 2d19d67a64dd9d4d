"""Compressed request bodies: unpacked within the limit of the unpacked size, else refused by name."""

import gzip
import json
import random
import zlib
from collections.abc import Callable

import httpx
import pytest
from backports import zstd

from tests.attacks.measuring import Attacked

# Some of it does not become smaller.
BODY = json.dumps({"numbers": [1, 2], "text": random.Random(1).randbytes(1_000).hex() + "x" * 198_000}).encode()


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACK: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip in upper case": ("GZip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "gzip in two members": ("gzip", lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:])),
    "deflate": ("deflate", zlib.compress),
    "deflate without a head": ("deflate", raw_deflate),
    "zstd": ("zstd", zstd.compress),
    "zstd in two frames": ("zstd", lambda data: zstd.compress(data[:1000]) + zstd.compress(data[1000:])),
    "identity": ("identity", bytes),
}


def post(attacked: Attacked, path: str, coding: str, content: bytes, kind: str = "application/json") -> httpx.Response:
    return attacked.client.post(path, content=content, headers={"content-encoding": coding, "content-type": kind})


@pytest.mark.parametrize("kind", PACK)
def test_a_packed_body_is_read_as_if_it_were_not(attacked: Attacked, kind: str):
    coding, pack = PACK[kind]
    chat = json.dumps({"model": "it", "messages": [{"role": "user", "content": "x" * 100_000}]}).encode()
    form = (
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + b"x" * 300_000 + b"\r\n--b--\r\n"
    )

    assert post(attacked, "/it/run", coding, pack(BODY)).json() == {"result": [2, 200_000]}
    assert post(attacked, "/v1/chat/completions", coding, pack(chat)).status_code == 200
    uploaded = post(attacked, "/upload/run", coding, pack(form), "multipart/form-data; boundary=b")
    assert uploaded.json()["result"][0] == 300_000
    encoded = post(attacked, "/upload/run", coding, pack(b"a=b"), "application/x-www-form-urlencoded")
    assert encoded.json()["result"][3] == {"a": "b"}


@pytest.mark.parametrize("coding", ["br", "compress", "gzip, gzip", "x" * 1_000, "aes128gcm"])
@pytest.mark.parametrize("path", ["/it/run", "/it/chat", "/upload/run", "/v1/files"])
def test_another_coding_is_415_and_names_those_that_are_accepted(attacked: Attacked, coding: str, path: str):
    answer = post(attacked, path, coding, b"x")

    if path == "/v1/files":  # that no wrapper here serves
        assert answer.status_code in (415, 501)
        return
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "gzip, deflate, zstd"
    assert "gzip, deflate, zstd" in answer.json()["detail"]
    assert len(answer.content) < 1_000


def test_two_headers_are_two_codings(attacked: Attacked):
    headers = [("content-encoding", "gzip"), ("content-encoding", "identity"), ("content-encoding", "zstd")]
    answer = attacked.client.post("/it/run", content=gzip.compress(BODY), headers=headers)

    assert (answer.status_code, "'gzip, zstd'" in answer.json()["detail"]) == (415, True)
    answer = attacked.client.post("/it/run", content=gzip.compress(BODY), headers=headers[:2])
    assert answer.json() == {"result": [2, 200_000]}


@pytest.mark.parametrize("path", ["/status", "/healthz", "/v1/models", "/docs"])
def test_a_request_without_a_body_may_name_any_coding(attacked: Attacked, path: str):
    assert attacked.client.get(path, headers={"content-encoding": "br"}).status_code == 200


@pytest.mark.parametrize("kind", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("cut", [1, 4, 20, 100])
def test_a_body_that_is_not_what_it_says_is_400(attacked: Attacked, kind: str, cut: int):
    coding, pack = PACK[kind]
    packed = pack(BODY)
    for content in (packed[:-cut], b"nothing of it", packed[:cut] + b"\xff" * 50, packed + b"\x00more"):
        answer = post(attacked, "/it/run", coding, content)
        assert answer.status_code == 400
        assert f"not valid {coding}" in answer.json()["detail"]


@pytest.mark.parametrize("kind", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("path", ["/it/run", "/it/chat", "/upload/run"])
def test_a_bomb_is_413_at_the_limit_of_what_it_unpacks_to(attacked: Attacked, kind: str, path: str):
    coding, pack = PACK[kind]
    bomb = pack(b" " * 35_000_000)
    cost = attacked.cost(lambda: post(attacked, path, coding, bomb))

    assert cost.result.status_code == 413
    assert "HAYHOOKS_MAX_BODY_SIZE" in cost.result.json()["detail"]
    cost.check(megabytes=100)


def test_frames_without_content_cost_no_more_than_their_bytes(attacked: Attacked):
    empty = gzip.compress(b"") * 30_000
    cost = attacked.cost(lambda: post(attacked, "/it/run", "gzip", empty + gzip.compress(BODY)))

    assert cost.result.status_code == 200
    cost.check(megabytes=30)


@pytest.mark.parametrize("kind", ["gzip", "deflate", "deflate without a head", "zstd"])
def test_a_body_may_arrive_byte_by_byte(attacked: Attacked, kind: str):
    coding, pack = PACK[kind]
    packed = pack(b'{"numbers": [1, 2, 3]}')
    parts = (packed[index : index + 1] for index in range(len(packed)))
    answer = attacked.client.post("/it/run", content=parts, headers={"content-encoding": coding})

    assert answer.json() == {"result": [3, 0]}


@pytest.mark.parametrize("kind", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("size", [65_534, 65_535, 65_536, 65_537, 131_072, 4_096])
def test_no_byte_is_lost_at_the_end_of_a_block(attacked: Attacked, kind: str, size: int):
    coding, pack = PACK[kind]
    for text in ("x" * size, random.Random(size).randbytes(size // 2).hex()):
        body = json.dumps({"text": text[: size - len('{"text": ""}')]}).encode()
        answer = post(attacked, "/it/run", coding, pack(body))
        assert answer.json() == {"result": [0, len(body) - len('{"text": ""}')]}


def test_a_window_that_would_take_much_memory_is_refused(attacked: Attacked):
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: 27,
        zstd.CompressionParameter.enable_long_distance_matching: 1,
    }
    compressor = zstd.ZstdCompressor(options=options)
    packed = compressor.compress(BODY) + compressor.flush()
    cost = attacked.cost(lambda: post(attacked, "/it/run", "zstd", packed))

    assert cost.result.status_code == 400
    cost.check(megabytes=30)


def test_an_empty_body_needs_no_frame(attacked: Attacked):
    assert post(attacked, "/it/run", "gzip", b"").json() == {"result": [0, 0]}
