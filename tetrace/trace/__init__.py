"""Recordings as values: schema, trace, and how they are kept on disk."""
