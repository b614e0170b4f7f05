"""Pages of Markdown: a run's summary, its evidence, and studies of several runs."""
