"""Chat completions, Responses and Files."""

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.kept = {}

    def run_chat_completion(self, model, messages, body):
        """Talk."""
        yield "Hello"
        yield f" {len(messages)}"

    async def run_response_async(self, model, input_items, body):
        return "Hello"

    def run_file_upload(self, content, filename, purpose):
        file_id = f"file-{len(self.kept)}"
        self.kept[file_id] = {"id": file_id, "filename": filename, "bytes": len(content), "purpose": purpose}
        return self.kept[file_id]

    def run_file_list(self):
        return list(self.kept.values())

    def run_file_retrieve(self, file_id):
        return self.kept.get(file_id)

    def run_file_content(self, file_id):
        return "content" if file_id in self.kept else None

    def run_file_delete(self, file_id):
        return self.kept.pop(file_id, None) is not None
