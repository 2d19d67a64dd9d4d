"""The OpenAI API: chat completions, responses, files and models."""
