"""The report of a run: one data object from ledger and records, and its forms (HTML page, Markdown, CSV, JSON)."""
