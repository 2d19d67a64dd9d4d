"""Import names: tables of modules and names that wrappers import, and of what provides them."""

import re
import sys

_MOVED = """
AzureOCRDocumentConverter azure-form-recognizer-haystack components.converters.azure_form_recognizer
DatadogTracer datadog-haystack tracing.datadog
DocumentLanguageClassifier langdetect-haystack components.classifiers.langdetect
ExtractiveReader transformers-haystack components.readers.transformers TransformersExtractiveReader
HuggingFaceAPIChatGenerator huggingface-api-haystack components.generators.huggingface_api
HuggingFaceAPIDocumentEmbedder huggingface-api-haystack components.embedders.huggingface_api
HuggingFaceAPIGenerator huggingface-api-haystack components.generators.huggingface_api HuggingFaceAPIChatGenerator
HuggingFaceAPITextEmbedder huggingface-api-haystack components.embedders.huggingface_api
HuggingFaceLocalChatGenerator transformers-haystack components.generators.transformers TransformersChatGenerator
HuggingFaceLocalGenerator transformers-haystack components.generators.transformers TransformersChatGenerator
HuggingFaceTEIRanker huggingface-api-haystack components.rankers.huggingface_api
LocalWhisperTranscriber whisper-haystack components.audio.whisper
NamedEntityExtractor transformers-haystack components.extractors.transformers TransformersNamedEntityExtractor
OpenAPIConnector openapi-haystack components.connectors.openapi
OpenAPIServiceConnector openapi-haystack components.connectors.openapi
OpenAPIServiceToFunctions openapi-haystack components.converters.openapi
OpenTelemetryTracer opentelemetry-haystack tracing.opentelemetry
RemoteWhisperTranscriber whisper-haystack components.audio.whisper
SearchApiWebSearch searchapi-haystack components.websearch.searchapi
SentenceTransformersDiversityRanker sentence-transformers-haystack components.rankers.sentence_transformers
SentenceTransformersDocumentEmbedder sentence-transformers-haystack components.embedders.sentence_transformers
SentenceTransformersDocumentImageEmbedder sentence-transformers-haystack components.embedders.sentence_transformers
SentenceTransformersSimilarityRanker sentence-transformers-haystack components.rankers.sentence_transformers
SentenceTransformersSparseDocumentEmbedder sentence-transformers-haystack components.embedders.sentence_transformers
SentenceTransformersSparseTextEmbedder sentence-transformers-haystack components.embedders.sentence_transformers
SentenceTransformersTextEmbedder sentence-transformers-haystack components.embedders.sentence_transformers
SerperDevWebSearch serperdev-haystack components.websearch.serperdev
TextLanguageRouter langdetect-haystack components.routers.langdetect
TikaDocumentConverter tika-haystack components.converters.tika
TransformersTextRouter transformers-haystack components.routers.transformers
TransformersZeroShotDocumentClassifier transformers-haystack components.classifiers.transformers
TransformersZeroShotTextRouter transformers-haystack components.routers.transformers
"""

# Parts of Haystack 2 that are in an integration of Haystack 3: its distribution, module and name there.
MOVED = {
    name: (distribution, f"haystack_integrations.{module}", new_name[0] if new_name else name)
    for name, distribution, module, *new_name in (row.split() for row in _MOVED.split("\n") if row)
}

# Parts of Haystack 2 that another part of Haystack 3 replaces.
REPLACED = {
    "AgentBreakpoint": "the spans of an Agent, see haystack.tracing (it cannot be paused)",
    "AgentSnapshot": "the spans of an Agent, see haystack.tracing (it cannot be paused)",
    "AlwaysAskPolicy": "haystack.hooks.human_in_the_loop",
    "AskOncePolicy": "haystack.hooks.human_in_the_loop",
    "AsyncPipeline": "haystack.Pipeline, which has run_async, run_async_generator and stream",
    "AzureOpenAIGenerator": "haystack.components.generators.chat.AzureOpenAIChatGenerator, which takes a str too",
    "BlockingConfirmationStrategy": "haystack.hooks.human_in_the_loop",
    "DALLEImageGenerator": "haystack.components.generators.OpenAIImageGenerator",
    "NeverAskPolicy": "haystack.hooks.human_in_the_loop",
    "OpenAIGenerator": "haystack.components.generators.chat.OpenAIChatGenerator, which takes a str too",
    "RichConsoleUI": "haystack.hooks.human_in_the_loop",
    "SimpleConsoleUI": "haystack.hooks.human_in_the_loop",
    "ToolBreakpoint": "the spans of an Agent, see haystack.tracing (it cannot be paused)",
    "ToolInvoker": "haystack.components.agents.Agent, which runs its tools itself",
    "TransformersSimilarityRanker": "SentenceTransformersSimilarityRanker of sentence-transformers-haystack",
    "auto_enable_tracing": "haystack.tracing.enable_tracing",
}

_INTEGRATIONS = """
amazon_bedrock amazon_sagemaker anthropic astra azure_ai_search azure_form_recognizer chroma cohere datadog deepeval
docling elasticsearch faiss fastembed firecrawl github google_ai google_genai google_vertex huggingface_api jina
langdetect langfuse llama_cpp llama_stack mcp meta_llama milvus mistral mongodb_atlas nvidia ollama openapi openrouter
opensearch opentelemetry optimum pgvector pinecone qdrant ragas searchapi sentence_transformers serperdev snowflake
spacy stackit tavily tika togetherai transformers valkey vllm watsonx weave weaviate whisper
"""

# Integrations, by the last part of haystack_integrations.*.NAME.
INTEGRATIONS = {name: f"{name.replace('_', '-')}-haystack" for name in _INTEGRATIONS.split()} | {
    "unstructured": "unstructured-fileconverter-haystack",
}

_SAME_NAME = """
aiofiles aiohttp anthropic asyncpg azure.ai.inference azure.cosmos azure.identity azure.search.documents
azure.storage.blob boto3 celery chromadb cohere datasets ddtrace diskcache docling duckdb elasticsearch fastapi
fastembed feedparser flask google.cloud.aiplatform google.cloud.bigquery google.cloud.storage google.genai
google.generativeai gradio groq haystack_experimental html2text httpx jinja2 jsonschema langchain langchain_community
langchain_core langchain_openai langdetect langfuse litellm llama_index loguru lxml markdown markdownify matplotlib
mdit_plain mistralai mlflow motor networkx nltk numpy ollama openai openpyxl orjson pandas pdfplumber peewee pgvector
pinecone plotly polars psutil psycopg pyarrow pydantic pydantic_settings pymongo pypdf pytesseract qdrant_client ragas
redis regex reportlab requests rich scipy seaborn sentence_transformers sentencepiece sentry_sdk slack_sdk spacy
sqlalchemy sqlmodel streamlit tabulate tenacity tiktoken tokenizers torch tqdm trafilatura transformers typer
unidecode unstructured websockets wikipedia xgboost xmltodict yfinance
"""

_OTHER_NAME = """
Crypto pycryptodome
PIL pillow
attr attrs
bs4 beautifulsoup4
cv2 opencv-python
dateutil python-dateutil
discord discord.py
docx python-docx
dotenv python-dotenv
faiss faiss-cpu
fitz pymupdf
git gitpython
google.protobuf protobuf
googleapiclient google-api-python-client
grpc grpcio
jose python-jose
jwt pyjwt
llama_cpp llama-cpp-python
magic python-magic
markdown_it markdown-it-py
multipart python-multipart
nacl pynacl
opensearchpy opensearch-py
pdfminer pdfminer.six
pptx python-pptx
psycopg2 psycopg2-binary
skimage scikit-image
sklearn scikit-learn
slugify python-slugify
telegram python-telegram-bot
weaviate weaviate-client
whisper openai-whisper
yaml pyyaml
"""

# Modules whose distribution is known; a dotted one is a part of a namespace package.
DISTRIBUTIONS = {name: re.sub(r"[_.]", "-", name) for name in _SAME_NAME.split()} | dict(
    row.split() for row in _OTHER_NAME.split("\n") if row
)

_FORMERLY_PYTHONS = """
aifc asynchat asyncore audioop binhex cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap msilib nis nntplib
ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib
"""

# Modules of the standard library, those of earlier versions too.
STANDARD_LIBRARY = sys.stdlib_module_names.union(_FORMERLY_PYTHONS.split())

# What wrappers of FastAPI's users import from it, and that Starlette has.
STARLETTE = {
    "BackgroundTasks": "starlette.background",
    "FileResponse": "starlette.responses",
    "HTMLResponse": "starlette.responses",
    "HTTPException": "starlette.exceptions",
    "JSONResponse": "starlette.responses",
    "PlainTextResponse": "starlette.responses",
    "RedirectResponse": "starlette.responses",
    "Request": "starlette.requests",
    "Response": "starlette.responses",
    "StreamingResponse": "starlette.responses",
    "UploadFile": "starlette.datastructures",
    "status": "starlette",
}

# Names that are often used without their import.
OFTEN_FORGOTTEN = STARLETTE | {
    "Annotated": "typing",
    "Any": "typing",
    "AsyncGenerator": "collections.abc",
    "AsyncIterator": "collections.abc",
    "BaseModel": "pydantic",
    "Callable": "collections.abc",
    "Field": "pydantic",
    "Generator": "collections.abc",
    "Iterator": "collections.abc",
    "Literal": "typing",
    "Optional": "typing",
    "Path": "pathlib",
    "Union": "typing",
    "component": "haystack",
    "dataclass": "dataclasses",
    "datetime": "datetime",
    "tool": "haystack.tools",
}
