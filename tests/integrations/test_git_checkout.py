"""A pipelines directory that is a checkout of a repository."""

import re
import subprocess
from pathlib import Path

import pytest

from hayhooks.errors import StartError
from hayhooks.integrations.git_checkout import GitCheckout, parts_of


class Repository:
    """A repository with one commit on `main`, which has the folder `pipelines`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.git("init", "--quiet", "--initial-branch", "main")
        self.commit("pipelines/version", "1")

    def git(self, *arguments: str) -> None:
        name = ["-c", "user.name=tests", "-c", "user.email=tests@example.com"]
        subprocess.run(["git", *name, *arguments], cwd=self.path, check=True, capture_output=True)

    def commit(self, path: str, content: str) -> None:
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "change")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def checkout(repository: Repository, rest: str = "") -> GitCheckout:
    made = GitCheckout.of(f"git+file://{repository.path}{rest}")
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("source", "url", "ref", "folder"),
    [
        ("git+https://host/team/it.git", "https://host/team/it.git", "HEAD", ""),
        ("git+https://host/it.git@v1.2", "https://host/it.git", "v1.2", ""),
        ("git+https://host/it.git@feature/x#a/b", "https://host/it.git", "feature/x", "a/b"),
        ("git+https://user:p%40ss@host:8443/it.git@main", "https://user:p%40ss@host:8443/it.git", "main", ""),
        ("git+ssh://git@host/it.git", "ssh://git@host/it.git", "HEAD", ""),
        ("git+ssh://git@host:22/it.git@main#dir", "ssh://git@host:22/it.git", "main", "dir"),
        ("git+git@host:team/it.git", "git@host:team/it.git", "HEAD", ""),
        ("git+git@host:team/it.git@feature/x#dir", "git@host:team/it.git", "feature/x", "dir"),
        ("git+/srv/it@main", "/srv/it", "main", ""),
    ],
)
def test_address_branch_and_folder_are_told_apart(source: str, url: str, ref: str, folder: str) -> None:
    assert parts_of(source) == (url, ref, folder)


@pytest.mark.parametrize("source", ["git+", "git+@main", "git+#folder"])
def test_an_address_without_url_is_refused(source: str) -> None:
    with pytest.raises(StartError, match="written as git"):
        GitCheckout.of(source)


def test_a_path_is_no_checkout() -> None:
    assert GitCheckout.of("/srv/git+pipelines") is None


def test_a_branch_with_a_slash_is_checked_out(repository: Repository) -> None:
    repository.git("checkout", "--quiet", "-b", "feature/x")
    repository.commit("pipelines/version", "2")
    assert (checkout(repository, "@feature/x#pipelines").folder / "version").read_text() == "2"


def test_another_branch_that_ends_like_it_is_not_taken_for_it(repository: Repository) -> None:
    repository.git("branch", "feature/main")
    made = checkout(repository, "@main#pipelines")
    repository.commit("pipelines/version", "2")
    made.update()
    assert (made.folder / "version").read_text() == "2"


@pytest.mark.parametrize("ref", ["v1", "v2"])
def test_a_tag_is_checked_out_and_followed(repository: Repository, ref: str) -> None:
    kind = ["--annotate", "--message", "tag"] if ref == "v1" else []
    repository.git("tag", *kind, ref)
    made = checkout(repository, f"@{ref}#pipelines")
    repository.commit("pipelines/version", "2")
    made.update()
    assert (made.folder / "version").read_text() == "1"
    repository.git("tag", "--force", *kind, ref)
    made.update()
    assert (made.folder / "version").read_text() == "2"


def test_a_forced_push_is_followed(repository: Repository) -> None:
    made = checkout(repository, "@main#pipelines")
    (repository.path / "pipelines" / "version").write_text("2")
    repository.git("commit", "--quiet", "--all", "--amend", "--message", "another")
    made.update()
    assert (made.folder / "version").read_text() == "2"


def test_a_branch_may_go_back_to_an_earlier_commit(repository: Repository) -> None:
    made = checkout(repository, "@main#pipelines")
    for version in "212":
        if version == "2":
            repository.commit("pipelines/version", "2")
        else:
            repository.git("reset", "--quiet", "--hard", "HEAD^")
        made.update()
        assert (made.folder / "version").read_text() == version


def test_what_was_checked_out_stays_while_branch_folder_or_repository_are_gone(repository: Repository) -> None:
    made = checkout(repository, "@main#pipelines")

    def fails(message: str) -> None:
        with pytest.raises(StartError, match=message):
            made.update()
        assert (made.folder / "version").read_text() == "1"

    repository.git("mv", "pipelines", "renamed")
    repository.git("commit", "--quiet", "--message", "rename")
    fails("has no folder 'pipelines' at 'main'")
    repository.git("branch", "--move", "main", "other")
    fails("has no branch or tag 'main'")
    moved = repository.path.rename(repository.path.with_name("moved"))
    fails("git ls-remote failed")
    moved.rename(repository.path)
    repository.git("branch", "--move", "other", "main")
    repository.git("mv", "renamed", "pipelines")
    repository.commit("pipelines/version", "2")
    made.update()
    assert (made.folder / "version").read_text() == "2"


@pytest.mark.parametrize("rest", ["@gone", "@main#gone", "@--upload-pack=false", "@-x"])
def test_a_branch_or_folder_that_does_not_exist_is_named(repository: Repository, rest: str) -> None:
    with pytest.raises(StartError, match=r"has no (branch or tag|folder) ") as raised:
        checkout(repository, rest)
    assert re.split("[@#]", rest)[-1] in str(raised.value)


def test_values_are_no_options_of_git(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="ls-remote"):
        GitCheckout.of(f"git+--upload-pack=touch {tmp_path}/ran")
    assert not (tmp_path / "ran").exists()


def test_credentials_are_not_told(repository: Repository) -> None:
    for url in (f"file://user:secret@{repository.path}@gone", "https://user:secret@127.0.0.1:9/x@main"):
        with pytest.raises(StartError) as raised:
            GitCheckout.of(f"git+{url}")
        assert "secret" not in str(raised.value)
