"""Plug-ins that serve other protocols, each behind its extra."""
