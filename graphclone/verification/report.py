"""The result of an examination: a table of checks, each with what was measured against what was allowed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from graphclone.errors import VerificationFailed


class Verdict(StrEnum):
    """NOT_APPLICABLE says that the check could not be made for this clone; it never counts as passed."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Check:
    """One question put to the clone. ``value`` and ``tolerance`` are in the check's own unit, or None."""

    name: str
    verdict: Verdict
    detail: str
    value: float | None = None
    tolerance: float | None = None

    @property
    def passed(self) -> bool:
        """True for PASSED alone."""
        return self.verdict is Verdict.PASSED

    @classmethod
    def of(cls, name: str, faults: Iterable[str], good: str) -> Check:
        """Passed with ``good`` where there is no fault; otherwise failed, counting them and quoting the first ones."""
        found = list(faults)
        if not found:
            return cls(name, Verdict.PASSED, good, 0.0, 0.0)
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        return cls(name, Verdict.FAILED, "; ".join(found[:3]) + more, float(len(found)), 0.0)

    @classmethod
    def measured(cls, name: str, value: float, tolerance: float, detail: str) -> Check:
        """Passed where ``value`` is a number not above ``tolerance`` (NaN fails)."""
        verdict = Verdict.PASSED if value <= tolerance else Verdict.FAILED
        return cls(name, verdict, detail, value, tolerance)

    @classmethod
    def skipped(cls, name: str, reason: str) -> Check:
        """Not applicable, for ``reason``."""
        return cls(name, Verdict.NOT_APPLICABLE, reason)


@dataclass(frozen=True)
class Report:
    """Every check made on one clone."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """True where no check failed and at least one passed."""
        return not self.failures and any(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.verdict is Verdict.FAILED)

    @property
    def summary(self) -> str:
        """A line: how many checks passed, and each that did not."""
        others = [f"{c.verdict}: {c.name} ({c.detail})" for c in self.checks if not c.passed]
        return "; ".join([f"{sum(c.passed for c in self.checks)} checks passed", *others])

    def raise_if_failed(self, what: str = "verification") -> None:
        """Raise VerificationFailed naming the failed checks."""
        if not self.passed:
            said = "; ".join(f"{check.name}: {check.detail}" for check in self.failures) or "no check could be made"
            raise VerificationFailed(f"the clone fails {what}: {said}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"passed": self.passed, "checks": [{**asdict(c), "verdict": str(c.verdict)} for c in self.checks]}
