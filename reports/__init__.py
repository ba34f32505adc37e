"""Reports over runs: results in, one self-contained file out; found through the entry points `bitnet_bench.reports`.

To add a part to the HTML report put a `bitnet_bench.reports.sections.Section` into `ReportOptions(sections=...)`.
"""
