"""The OpenAPI document of what is served, and the pages that show it."""
