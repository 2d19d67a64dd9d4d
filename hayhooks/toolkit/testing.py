"""A component to try a pipeline with."""

from haystack import component


@component
class Hello:
    """Greets."""

    @component.output_types(output=str)
    def run(self, word: str = "world") -> dict[str, str]:
        """Greet *word*."""
        return {"output": f"Hello, {word}!"}
