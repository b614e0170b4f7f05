"""What a run found, as one HTML file: `data` reads the run, `page` writes it."""

from circuitprune.views.report.data import report_data
from circuitprune.views.report.page import report_page, write_report

__all__ = ["report_data", "report_page", "write_report"]
