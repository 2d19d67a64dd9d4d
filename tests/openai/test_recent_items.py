"""Items that clients may refer to, within a number of bytes."""

from hayhooks.openai.recent_items import RecentItems


def reference(id_: object) -> dict[str, object]:
    return {"type": "item_reference", "id": id_}


def test_a_reference_becomes_the_item_and_other_items_stay():
    items = RecentItems(max_bytes=1_000)
    items.keep([{"id": "msg_1", "type": "message", "content": ["x"]}])
    user = {"role": "user", "content": "y"}

    assert items.resolve([reference("msg_1"), user]) == [{"id": "msg_1", "type": "message", "content": ["x"]}, user]
    ids: list[object] = ["other", None, 7, [], {}]
    odd = [reference(id_) for id_ in ids]
    assert items.resolve(odd) == odd


def test_what_a_wrapper_changes_is_its_own_copy():
    items = RecentItems(max_bytes=1_000)
    items.keep([{"id": "msg_1", "content": ["x"]}])
    items.resolve([reference("msg_1")])[0]["content"].clear()

    assert items.resolve([reference("msg_1")]) == [{"id": "msg_1", "content": ["x"]}]


def test_the_oldest_items_are_forgotten_first():
    items = RecentItems(max_bytes=100)
    for number in range(1_000):
        items.keep([{"id": f"msg_{number}", "text": "x" * 10}])
    known = [number for number in range(1_000) if items.resolve([reference(f"msg_{number}")])[0].get("text")]

    assert known == [998, 999]
    items.keep([{"id": "large", "text": "x" * 1_000}])
    assert items.resolve([reference("large"), reference("msg_999")]) == [reference("large"), reference("msg_999")]
