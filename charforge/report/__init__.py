"""The report: report.json (its schema is in docs/report.md), report.html (one file, no network), and the terminal table."""
