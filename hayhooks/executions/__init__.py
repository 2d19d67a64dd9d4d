"""Executions: work that outlives its request, kept in a database. Nothing here knows HTTP."""
