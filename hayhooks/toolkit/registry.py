"""Lookup of served wrappers by name, for wrappers that call each other."""

from typing import Any

from hayhooks.current_app import current_app


class Registry:
    """The wrappers that the running application serves; empty outside a server."""

    def get(self, name: str) -> Any | None:
        """Return the wrapper of the deployment *name*, or None; call it for each use, as revisions change."""
        app = current_app()
        deployment = None if app is None else app.switch.live.snapshot.deployments.get(name)
        return None if deployment is None else deployment.wrapper

    def get_names(self) -> list[str]:
        """Return the served names, sorted."""
        app = current_app()
        return [] if app is None else list(app.switch.live.snapshot.deployments)


registry = Registry()
