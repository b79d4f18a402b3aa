"""Long runs with many clients: `python -m tests.load NAME [options]`; the last line is one JSON object."""
