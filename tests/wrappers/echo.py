from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, text: str = "") -> str:
        return ANSWER + text

    def run_chat_completion(self, model, messages, body):
        return ANSWER
