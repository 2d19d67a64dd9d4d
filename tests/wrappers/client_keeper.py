"""OpenAI's Files in memory."""

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.files = {}

    def run_file_upload(self, filename, content_type, content, purpose):
        id = f"file-{len(self.files) + 1}"
        self.files[id] = ({"id": id, "filename": filename, "bytes": len(content), "purpose": purpose}, content)
        return self.files[id][0]

    def run_file_list(self):
        return [{"object": "file", "created_at": 1, "status": "processed", **file} for file, _ in self.files.values()]

    def run_file_retrieve(self, file_id):
        file = self.files.get(file_id)
        return file and {"object": "file", "created_at": 1, "status": "processed", **file[0]}

    def run_file_content(self, file_id):
        file = self.files.get(file_id)
        return file and file[1]

    def run_file_delete(self, file_id):
        return self.files.pop(file_id, None) is not None
