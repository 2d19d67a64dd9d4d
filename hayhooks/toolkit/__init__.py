"""What authors of wrappers import: reading messages, streaming pipelines. No server is needed to use it."""
