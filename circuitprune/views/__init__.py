"""What a person sees: the report, figures for papers, pages of Markdown, TensorBoard.

Reads what runs wrote and computes nothing. Imports `runs` and what lies below it.
"""
