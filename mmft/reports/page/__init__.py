"""Self-contained HTML pages: their style and parts, and the report of a run."""
