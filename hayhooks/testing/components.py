"""A Haystack component for tests and examples."""

from haystack import component


@component
class Hello:
    """Return a greeting."""

    @component.output_types(output=str)
    def run(self, word: str = "world") -> dict[str, str]:
        """Greet *word*."""
        return {"output": f"Hello, {word}!"}
