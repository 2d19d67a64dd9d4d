"""ASGI around a request, from the middleware to the wrapper's method and back."""
