"""Circuits that were published for GPT-2, as data, to score others against."""
