"""Circuits that are known: published for GPT-2, or built by hand."""
