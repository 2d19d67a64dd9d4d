"""Extras: optional SDKs, imported when the first request needs them."""

import asyncio
import importlib
from concurrent.futures import Future
from functools import partial
from types import ModuleType

from starlette.exceptions import HTTPException

from hayhooks.kernel.threads import DaemonThreadPool


class Extra:
    """The extra *name* of this package, which *title* needs: *module* imports its SDK.

    The import takes seconds. The first ``load`` runs it in a thread; other requests are served meanwhile.
    """

    def __init__(self, name: str, title: str, module: str) -> None:
        self.missing = f'{title} needs an extra: pip install "hayhooks[{name}]"'
        self._module = module
        self._threads = DaemonThreadPool(f"import {name}", limit=1)
        self._imported: Future[ModuleType] | None = None

    async def load(self) -> ModuleType:
        """Return the module; raise a 501 if its SDK is not installed, or is not of a version that it can use."""
        if self._imported is None:
            importlib.invalidate_caches()  # it may have been installed since
            self._imported = self._threads.call(partial(importlib.import_module, self._module))
        imported = self._imported
        if imported.done() and imported.exception() is None:
            return imported.result()
        try:
            return await asyncio.shield(asyncio.wrap_future(imported))
        except ImportError as error:
            if self._imported is imported:
                self._imported = None
            reason = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
            raise HTTPException(501, self.missing + reason) from None
