"""Rows: where they come from, how they lie on ranks, how they move."""
