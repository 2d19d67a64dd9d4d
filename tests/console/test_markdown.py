"""``/console/markdown``: what comes from pipelines is never HTML of its own."""

import pytest

from hayhooks.console.markdown import render
from tests.live_server import LiveServer


def test_markdown_becomes_html(server: LiveServer):
    answer = server.client.post("/console/markdown", json={"text": "**a** ~~b~~\n\n```py\n1 < 2\n```"})

    expected = '<p><strong>a</strong> <s>b</s></p>\n<pre><code class="language-py">1 &lt; 2\n</code></pre>\n'
    assert answer.json() == {"html": expected}


def test_a_link_opens_in_a_window_of_its_own():
    for url in ("https://example.com/?a=1", "HTTP://example.com", "mailto:a@example.com"):
        assert f'<a href="{url}" target="_blank" rel="noopener noreferrer">' in render(f"* **[a]({url})**"), url


@pytest.mark.parametrize("url", ["status", "#here", "/docs", "//elsewhere.example", "ftp://x", "data:text/html,x"])
def test_a_link_to_anything_but_a_page_is_text(url: str):
    assert "<a" not in render(f"[x]({url}) <{url}>\n\n[y]\n\n[y]: {url}")


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a <img src=x onerror=alert(1)>",
        "![x](https://elsewhere.example/x.png)",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt&colon;alert(1))",
        "[x](data:text/html;base64,AAAA)",
        "<javascript:alert(1)>",
        "[x]: javascript:alert(1)\n\n[x]",
        "| a |\n|:-:|\n| b |",
        '```"onmouseover=alert(1)\nx\n```',
    ],
)
def test_no_script_image_or_style_gets_through(text: str):
    html = render(text)

    for forbidden in ("<script", "<img", 'href="javascript', 'href="data', "style=", '"onmouseover'):
        assert forbidden not in html.lower()


@pytest.mark.parametrize(("body", "status"), [({}, 400), ({"text": 1}, 400), ([], 400), ({"text": "x" * 100_001}, 413)])
def test_another_body_is_refused(server: LiveServer, body: object, status: int):
    answer = server.client.post("/console/markdown", json=body)

    assert answer.status_code == status
    assert "text" in answer.json()["detail"]
