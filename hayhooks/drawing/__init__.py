"""Drawings of pipelines and agents: as Mermaid text and as SVG, made in this process.

Haystack's own ``draw`` is not used: it asks a remote service, and does not escape names.
"""
