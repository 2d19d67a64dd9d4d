"""The console: a page for browsers, and what it shows, for other programs too."""
