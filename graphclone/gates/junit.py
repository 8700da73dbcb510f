"""A report as JUnit XML, which every CI system reads: one test suite a clone, one case a gate."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from graphclone.verification import Report, Verdict

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd]")  # XML 1.0 has no way to say them


def junit(report: Report, name: str) -> str:
    """The document. What was not applicable is a skipped case."""
    skipped = sum(check.verdict is Verdict.NOT_APPLICABLE for check in report.checks)
    counts = {"tests": str(len(report.checks)), "failures": str(len(report.failures)), "skipped": str(skipped)}
    top = ET.Element("testsuites", counts)
    suite = ET.SubElement(top, "testsuite", {"name": _said(name), "errors": "0", **counts})
    for check in report.checks:
        case = ET.SubElement(suite, "testcase", {"classname": "graphclone.check", "name": _said(check.name)})
        if check.verdict is Verdict.FAILED:
            ET.SubElement(case, "failure", {"message": _said(check.detail)})
        elif check.verdict is Verdict.NOT_APPLICABLE:
            ET.SubElement(case, "skipped", {"message": _said(check.detail)})
        else:
            ET.SubElement(case, "system-out").text = _said(check.detail)
    ET.indent(top)
    return ET.tostring(top, encoding="unicode", xml_declaration=True) + "\n"


def _said(text: str) -> str:
    return _UNPRINTABLE.sub("?", text)
