"""Reports on runs: each is one self-contained file; renderers are the entry points `bitnet_bench.reports`.

To add a part to the HTML report, put a `bitnet_bench.reports.sections.Section` into `ReportOptions(sections=...)`.
"""
