"""Environment file: where it is, and the variables that it sets."""

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dotenv import dotenv_values

ENV_FILE_VARIABLE = "HAYHOOKS_ENV_FILE"
ENCODING = "utf-8-sig"  # some editors begin the file with a byte order mark

_ENV_FILE = ".env"


def env_file() -> Path | None:
    """Return the environment file: that of ``HAYHOOKS_ENV_FILE``, else the nearest ``.env``; None if there is none.

    The nearest is looked for from the working directory upwards. Above it, files are passed over that cannot be read,
    or that belong to others: whoever can write to /tmp does not set the environment of what runs in a directory there.
    FileNotFoundError: the variable names no file.
    """
    if (name := os.environ.get(ENV_FILE_VARIABLE)) is not None:
        if name and not Path(name).is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return Path(name) if name else None
    here = Path.cwd()
    owners = {0, os.geteuid(), here.stat().st_uid}
    for directory in (here, *here.parents):
        file = directory / _ENV_FILE
        with suppress(OSError):
            ours = directory == here or (file.stat().st_uid in owners and os.access(file, os.R_OK))
            if ours and file.is_file():
                return file
    return None


def env_file_values() -> dict[str, str | None]:
    """Return the variables that the environment file sets; raise OSError or UnicodeDecodeError."""
    file = env_file()
    return {} if file is None else dotenv_values(file, encoding=ENCODING)


def env_file_names() -> set[str]:
    """Return the names that the environment file sets; raise OSError or UnicodeDecodeError."""
    return set(env_file_values())


def upper_names(names: Iterable[str]) -> set[str]:
    """Return *names* in upper case, as settings match them."""
    return {name.upper() for name in names}
