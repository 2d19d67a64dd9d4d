import subprocess
import sys

import pytest

import hayhooks


@pytest.mark.parametrize("name", hayhooks.__all__)
def test_every_public_name_can_be_imported(name: str):
    assert getattr(hayhooks, name) is not None


def test_the_list_of_names_is_that_of_their_homes():
    assert set(hayhooks.__all__) == {*hayhooks._HOMES, "__version__"}


def test_log_is_a_loguru_logger_however_it_is_imported():
    assert hayhooks.log.bind().opt() is not None
    assert type(hayhooks.log).__module__ == "loguru._logger"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'nothing'"):
        hayhooks.nothing  # noqa: B018 - the access is what is tested


def test_importing_the_package_or_the_base_class_imports_nothing_heavy():
    code = (
        "import sys; from hayhooks import BasePipelineWrapper\n"
        "sys.exit(str({'haystack', 'starlette', 'pydantic', 'uvicorn'} & set(sys.modules) or 0) != '0')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
