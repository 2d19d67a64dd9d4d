"""Logs, access log, metrics and traces."""
