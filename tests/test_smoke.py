def test_a_folder_is_served_changed_and_removed(server):
    server.serve("chat", answer="one ")
    assert server.run("chat", text="x") == "one x"

    server.serve("chat", answer="two ")
    assert server.run("chat", text="x") == "two x"

    server.remove("chat")
    server.eventually(lambda: server.client.post("/chat/run", json={}).status_code == 404)
