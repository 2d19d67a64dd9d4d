"""Names in the pipelines directory, as a look at it gives them, without what the server needs to load them."""

from pathlib import Path

from hayhooks.kernel.discovery import WRAPPER_FILE, YAML_SUFFIXES


def names_in(root: Path) -> dict[str, str]:
    """The names of what lies in *root* as a deployment, and what it is: ``folder``, ``link`` or ``yaml``.

    This is a look for people, and for completion; whether it can be served only the server tells.

    Raises:
        OSError: it cannot be read.
    """
    found = {}
    for path in sorted(root.iterdir()):
        if path.name.startswith((".", "_")):
            continue
        if path.suffix in YAML_SUFFIXES and not path.is_dir():
            found[path.stem] = "yaml"
        elif (path / WRAPPER_FILE).is_file():
            found[path.name] = "link" if path.is_symlink() else "folder"
    return found
