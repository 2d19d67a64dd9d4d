"""What to do about an import that failed: never the installation of somebody else's package."""

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import haystack.components.agents  # it needs what the tests hide
import haystack.components.generators.chat  # noqa: F401
import pytest

from hayhooks.kernel.failure import failure_of
from hayhooks.kernel.state import Revision
from tests.live_server import ECHO, LiveServer, eventually, replace

INTEGRATION = "from haystack_integrations."
OWN = "if `{0}` is your own, put it beside the wrapper, or add its directory to HAYHOOKS_ADDITIONAL_PYTHON_PATH"
UNKNOWN = "install the package that provides `{0}`; " + OWN

# The import, and its hint. What is installed here is raised as if it was not.
IMPORTS = {
    # The user's own.
    "import components.zotero": UNKNOWN.format("components"),
    "from src.agents import make": UNKNOWN.format("src"),
    "import common": UNKNOWN.format("common"),
    "from nobodys_utils.text import clean": UNKNOWN.format("nobodys_utils"),
    "import nothing_of_this_name": UNKNOWN.format("nothing_of_this_name"),
    # Of this package.
    "from hayhooks.server.pipelines.nothing import streaming_generator": (
        "here it is `from hayhooks import streaming_generator`"
    ),
    "from hayhooks import create_status_event": (
        "here it is `from hayhooks.toolkit.events import create_status_event`"
    ),
    "from hayhooks import OpenWebUIEvent": "here it is `from hayhooks.open_webui import OpenWebUIEvent`",
    "from hayhooks.server.routers.deploy import router": (
        "this hayhooks has no hayhooks.server.routers: docs/migration.md lists what there is"
    ),
    "import hayhooks.nothing": "this hayhooks has no hayhooks.nothing: docs/migration.md lists what there is",
    "from hayhooks.wrapper import nothing": "hayhooks.wrapper has no nothing: docs/migration.md lists what there is",
    # Of FastAPI.
    "from fastapi import UploadFile, HTTPException": (
        "FastAPI is not needed: `from starlette.datastructures import UploadFile; "
        "from starlette.exceptions import HTTPException`"
    ),
    "from fastapi.responses import JSONResponse": "`from starlette.responses import JSONResponse`",
    "from fastapi import APIRouter": "pip install fastapi",
    # Of Haystack 2 and 1.
    "from haystack import AsyncPipeline": (
        "Haystack 3 has no AsyncPipeline: use haystack.Pipeline, which has run_async, run_async_generator and stream"
    ),
    "import haystack; haystack.AsyncPipeline()": "Haystack 3 has no AsyncPipeline: use haystack.Pipeline",
    "from haystack.core.pipeline.async_pipeline import AsyncPipeline": "Haystack 3 has no AsyncPipeline: use",
    "from haystack.components.generators import OpenAIGenerator": (
        "Haystack 3 has no OpenAIGenerator: use haystack.components.generators.chat.OpenAIChatGenerator"
    ),
    "from haystack.components.generators.openai import OpenAIGenerator": "Haystack 3 has no OpenAIGenerator: use",
    "import haystack.components.generators as g; g.AzureOpenAIGenerator()": "Haystack 3 has no AzureOpenAIGenerator",
    "from haystack.components.generators import (\n    HuggingFaceLocalGenerator,\n)": (
        "Haystack 3 has no HuggingFaceLocalGenerator: pip install transformers-haystack, and "
        f"{INTEGRATION}components.generators.transformers import TransformersChatGenerator"
    ),
    "from haystack.components.tools import ToolInvoker": (
        "Haystack 3 has no ToolInvoker: use haystack.components.agents.Agent"
    ),
    "from haystack.components.embedders import SentenceTransformersTextEmbedder": (
        "Haystack 3 has no SentenceTransformersTextEmbedder: pip install sentence-transformers-haystack, and "
        f"{INTEGRATION}components.embedders.sentence_transformers import SentenceTransformersTextEmbedder"
    ),
    "from haystack.components.rankers import TransformersSimilarityRanker": (
        "Haystack 3 has no TransformersSimilarityRanker: use SentenceTransformersSimilarityRanker"
    ),
    "from haystack.components.websearch import SerperDevWebSearch": "pip install serperdev-haystack",
    "from haystack.components.readers import ExtractiveReader": "import TransformersExtractiveReader",
    "from haystack.components.converters import TikaDocumentConverter": "pip install tika-haystack",
    "from haystack.human_in_the_loop import AlwaysAskPolicy": "use haystack.hooks.human_in_the_loop",
    "from haystack.nodes import PromptNode": "has no haystack.nodes: see https://docs.haystack.deepset.ai/docs/migration",
    "from haystack.components.agents import Nothing": "has no haystack.components.agents Nothing: see https://",
    # Integrations of Haystack.
    f"{INTEGRATION}components.generators.anthropic import AnthropicChatGenerator": "pip install anthropic-haystack",
    f"{INTEGRATION}document_stores.qdrant import QdrantDocumentStore": "pip install qdrant-haystack",
    f"{INTEGRATION}components.generators.google_genai import X": "pip install google-genai-haystack",
    f"{INTEGRATION}components.converters.unstructured import X": "pip install unstructured-fileconverter-haystack",
    f"{INTEGRATION}components.generators.of_nobody import X": (
        "pip install the integration (see https://haystack.deepset.ai/integrations)"
    ),
    "import haystack_experimental": "pip install haystack-experimental",
    # The standard library, of this and earlier versions of Python.
    "import json.nothing": "",
    "import os.nothing": "",
    "import imp, nothing": "",
    "import asyncore": "",
    "import telnetlib": "",
    # What is installed, without the module.
    "import numpy.nothing": "numpy 2",
    "import openai.nothing": "openai",
    "import loguru.nothing": "is installed, without loguru.nothing",
    # Distributions with another name.
    "import yaml": "pip install pyyaml",
    "import PIL.Image": "pip install pillow",
    "import cv2": "pip install opencv-python",
    "from sklearn.svm import SVC": "pip install scikit-learn",
    "import google.generativeai as genai": "pip install google-generativeai",
    "from google import genai": "pip install google-genai",
    "from google.cloud import storage": "pip install google-cloud-storage",
    "import bs4": "pip install beautifulsoup4",
    "from dotenv import load_dotenv": "pip install python-dotenv",
    "import fitz": "pip install pymupdf",
    "import docx": "pip install python-docx",
    "from azure.identity import DefaultAzureCredential": "pip install azure-identity",
    "from azure.storage.blob import BlobClient": "pip install azure-storage-blob",
    "import jwt": "pip install pyjwt",
    "from dateutil import parser": "pip install python-dateutil",
    "import weaviate": "pip install weaviate-client",
    # Of the same name.
    "import pandas as pd": "pip install pandas",
    "import torch": "pip install torch",
    "import sentence_transformers": "pip install sentence-transformers",
    "from llama_index.core import x": "pip install llama-index",
}


def test_the_table_is_long_enough():
    assert len(IMPORTS) >= 60


def failure(path: Path, files: frozenset[str] = frozenset()) -> str:
    """Run the module at *path* and return the hint of its failure."""
    spec = spec_from_file_location("wrapper_of_a_test", path, loader=SourceFileLoader("wrapper_of_a_test", str(path)))
    assert spec is not None
    assert spec.loader is not None
    revision = Revision("chat", path.parent, "", dict.fromkeys(files))  # type: ignore[arg-type]  # the names are what counts
    try:
        spec.loader.exec_module(module_from_spec(spec))
    except Exception as error:
        return failure_of(revision, error).hint
    raise AssertionError(f"{path.read_text()} does not fail")


@pytest.mark.parametrize("statement", IMPORTS)
def test_an_import_that_fails_has_the_hint_of_its_kind(statement: str, root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(root)
    replace(root / "pyproject.toml", "")  # nothing above it is looked at
    hidden = {"yaml", "fastapi", "PIL", "dotenv", "jwt", "dateutil", "google", "azure"}
    monkeypatch.setattr(sys, "meta_path", [_Hidden(hidden), *sys.meta_path])
    for name in list(sys.modules):
        if name.partition(".")[0] in hidden:
            monkeypatch.delitem(sys.modules, name)
    replace(root / "chat/pipeline_wrapper.py", statement)

    hint = failure(root / "chat/pipeline_wrapper.py")

    assert IMPORTS[statement] in hint
    assert bool(hint) == bool(IMPORTS[statement])
    assert "pip install hayhooks" not in hint
    if not IMPORTS[statement].startswith("pip install"):
        assert not hint.startswith("pip install")


def test_a_namespace_package_that_is_there_lacks_a_distribution(root: Path):
    replace(root / "chat/pipeline_wrapper.py", "import google.protobuf\nfrom google import genai")

    assert failure(root / "chat/pipeline_wrapper.py") == "pip install google-genai"


class _Hidden:
    """Hides installed packages."""

    def __init__(self, tops: set[str]) -> None:
        self._tops = tops

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self._tops:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("file", "statement", "directory"),
    [
        ("shared/common.py", "import common", "shared"),
        ("components/zotero/__init__.py", "import components.zotero", "."),
        ("src/agents/make.py", "from src.agents import make", "."),
        ("src/agents/make.py", "from agents.make import x", "src"),
        ("pipelines/helpers.py", "import helpers", "pipelines"),
        ("pipelines/chat/lib/tools_of_chat.py", "import tools_of_chat", "pipelines/chat/lib"),
    ],
)
def test_a_module_of_the_users_own_is_found_near_the_wrapper(tmp_path: Path, file: str, statement: str, directory: str):
    replace(tmp_path / "pyproject.toml", "")
    replace(tmp_path / file, "x = 1")
    replace(tmp_path / "pipelines/chat/pipeline_wrapper.py", statement)
    top = statement.split()[1].partition(".")[0]

    hint = failure(tmp_path / "pipelines/chat/pipeline_wrapper.py", frozenset({"requirements.txt"}))

    assert hint == f"add {tmp_path / directory} to HAYHOOKS_ADDITIONAL_PYTHON_PATH: `{top}` is there"


def test_a_file_beside_the_wrapper_with_about_that_name_is_meant(root: Path):
    replace(root / "chat/pipeline_wrapper.py", "from helpr import x")

    hint = failure(root / "chat/pipeline_wrapper.py", frozenset({"helper.py", "pipeline_wrapper.py"}))
    assert hint == "did you mean `helper`, which is beside the wrapper?"


@pytest.mark.parametrize(
    ("statement", "again"),
    [("from ..common import x", "from common import x"), ("from .. import common", "import common")],
)
def test_what_is_above_the_wrapper_is_not_in_its_package(
    shared_server: LiveServer, tmp_path: Path, statement: str, again: str
):
    replace(shared_server.root / "common.py", "x = 1")
    shared_server.write("beyond", f"{statement}\n" + ECHO)
    error = eventually(lambda: shared_server.state("beyond")["error"], "a failure")

    assert (
        f"hint: a wrapper's package ends at its folder: add {shared_server.root} to HAYHOOKS_ADDITIONAL_PYTHON_PATH, "
        f"and `{again}`\n"
    ) in error


def test_nothing_above_the_project_is_looked_at(tmp_path: Path):
    replace(tmp_path / "common_of_others.py", "x = 1")
    replace(tmp_path / "project/pyproject.toml", "")
    replace(tmp_path / "project/pipelines/chat/pipeline_wrapper.py", "import common_of_others")

    assert failure(tmp_path / "project/pipelines/chat/pipeline_wrapper.py") == UNKNOWN.format("common_of_others")


def test_what_is_installed_later_is_known(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    installed = tmp_path / "site-packages"
    installed.mkdir()
    monkeypatch.syspath_prepend(str(installed))
    wrapper = root / "chat/pipeline_wrapper.py"
    replace(wrapper, "import zebrastripe")
    assert failure(wrapper) == UNKNOWN.format("zebrastripe")

    replace(installed / "zebrastripes-1.dist-info/METADATA", "Name: zebrastripes\nVersion: 1\n")
    replace(installed / "zebrastripes-1.dist-info/top_level.txt", "zebrastripes\n")

    assert failure(wrapper) == "did you mean `zebrastripes`?"


def test_the_folders_requirements_come_first_for_what_is_not_near(root: Path):
    wrapper = root / "chat/pipeline_wrapper.py"
    for statement, rest in (("import sklearn", ""), ("import of_nobody", "; " + OWN.format("of_nobody"))):
        replace(wrapper, statement)
        hint = failure(wrapper, frozenset({"requirements.txt"}))
        assert hint == f"pip install -r {root}/chat/requirements.txt{rest}"


@pytest.mark.parametrize(
    ("type_", "hint"),
    [
        ("haystack.components.generators.openai.OpenAIGenerator", "Haystack 3 has no OpenAIGenerator: use haystack."),
        (
            "haystack.components.embedders.SentenceTransformersTextEmbedder",
            "Haystack 3 has no SentenceTransformersTextEmbedder: pip install sentence-transformers-haystack",
        ),
        (
            "haystack_integrations.components.generators.anthropic.chat.chat_generator.AnthropicChatGenerator",
            "pip install anthropic-haystack",
        ),
    ],
)
def test_a_component_of_a_yaml_has_the_hint_too(shared_server: LiveServer, type_: str, hint: str):
    yaml = f"components:\n  part:\n    type: {type_}\n    init_parameters: {{}}\n"
    loads = f"from haystack import Pipeline\nPipeline.loads({yaml!r})\n" + ECHO
    replace(shared_server.root / "of_yaml.yml", yaml)
    shared_server.write("loads", loads)

    for name in ("of_yaml", "loads"):
        error = eventually(lambda name=name: shared_server.state(name)["error"], f"a failure of {name}")  # type: ignore[misc]
        assert f"hint: {hint}" in error


def test_what_replaces_a_part_of_haystack_2_is_there():
    """The table names only what Haystack has."""
    for statement in (
        "from haystack.components.generators.chat import AzureOpenAIChatGenerator, OpenAIChatGenerator",
        "from haystack.components.generators import OpenAIImageGenerator",
        "from haystack.hooks.human_in_the_loop import AlwaysAskPolicy, BlockingConfirmationStrategy, RichConsoleUI",
        "from haystack.components.agents import Agent",
        "from haystack.tracing import enable_tracing",
        "from haystack import Pipeline; Pipeline.run_async, Pipeline.run_async_generator, Pipeline.stream",
    ):
        exec(statement, {})
