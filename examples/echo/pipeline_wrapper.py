"""The smallest wrapper: copy this folder and begin."""

from hayhooks import BasePipelineWrapper, get_last_user_message


class PipelineWrapper(BasePipelineWrapper):
    """Says what it is told."""

    def setup(self) -> None:
        """Build here what all requests share: ``self.pipeline = Pipeline()``. An echo needs nothing."""

    def run_api(self, text: str) -> str:
        """Say it back.

        Args:
            text: what to say.
        """
        return text

    def run_chat_completion(self, model: str, messages: list[dict], body: dict) -> str:
        """Say back what the user said last."""
        return get_last_user_message(messages) or ""
