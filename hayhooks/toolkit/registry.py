"""What is served in this process, for code that asks for another wrapper by name."""

from collections.abc import Mapping
from typing import Any

from hayhooks.current_app import current_app


class Registry:
    """The wrappers that the running application serves at the moment; empty where none runs.

    What ``get`` gives is of the revision that serves now: ask again instead of keeping it.
    """

    def get(self, name: str) -> Any | None:
        """The wrapper of the deployment *name*; ``None`` if that is not served."""
        deployment = self._deployments().get(name)
        return None if deployment is None else deployment.wrapper

    def get_names(self) -> list[str]:
        """The names that are served, sorted."""
        return list(self._deployments())

    def _deployments(self) -> Mapping[str, Any]:
        app = current_app()
        deployments: Mapping[str, Any] = {} if app is None else app.switch.live.snapshot.deployments
        return deployments


registry = Registry()
