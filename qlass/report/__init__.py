"""The report: one self-contained HTML page, and the same numbers as JSON, CSV and Markdown."""

from qlass.report.build import build_report
from qlass.report.inputs import EnvInputs, ReportInputs, ReportSettings

__all__ = ["EnvInputs", "ReportInputs", "ReportSettings", "build_report"]
