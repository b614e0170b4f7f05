"""A run folder: claimed, written, resumed, read back.

Knows files and identities, not how results are made or shown. Imports `config`, `evidence` and what
lies below them.
"""
