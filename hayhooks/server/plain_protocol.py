"""The plain HTTP protocol: uvicorn's h11 protocol with a graceful close."""

from uvicorn.protocols.http.h11_impl import H11Protocol

from hayhooks.server.protocol import NO_SCOPE, GracefulClose


class PlainHttpProtocol(GracefulClose, H11Protocol):
    """uvicorn's h11 protocol, which limits request heads and ignores unknown upgrades."""

    def end_keep_alive(self) -> None:
        """Close the connection after the current response, and say so in its headers."""
        if self.cycle.keep_alive:
            self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]
        super().end_keep_alive()

    def on_response_complete(self) -> None:
        """Start a pipelined request, or wait for the next one."""
        self.scope = self.cycle.scope = NO_SCOPE
        self.outside_request.run(super().on_response_complete)
