"""The API for wrapper authors: messages, streaming, events, YAML pipelines. It works without a server."""
