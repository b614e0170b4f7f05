"""Known vulnerabilities of what is installed here, by pip-audit.

One that `.ci/advisories.md` does not explain fails. Where PyPI's advisories cannot be reached, so
that nothing can be said of any package, this says so and passes.
"""

import json
import re
import subprocess  # nosec B404
import sys
from pathlib import Path
from typing import NamedTuple

EXPLAINED = Path(__file__).parent / "advisories.md"
COMMAND = ("-m", "pip_audit", "--progress-spinner", "off", "--skip-editable", "--format", "json")
UNREACHED = re.compile(r"ConnectionError|ConnectTimeout|ReadTimeout|ServiceError|HTTPError")


class Verdict(NamedTuple):
    """Exit code, and what to print."""

    code: int
    lines: list[str]


def explained(text: str) -> set[str]:
    """Advisories that the file names, each as the first thing of an item."""
    return set(re.findall(r"^\* `([A-Z]+-[\w-]+)`", text, re.MULTILINE))


def judge(output: str, errors: str, known: set[str]) -> Verdict:
    """What a run of pip-audit means."""
    try:
        packages = json.loads(output)["dependencies"]
    except ValueError:
        last = (errors.strip().splitlines() or ["it said nothing"])[-1]
        if UNREACHED.search(errors):
            return _unreached(last)
        return Verdict(1, [f"pip-audit failed: {last}"])
    audited = [package for package in packages if "skip_reason" not in package]
    if not audited:
        return _unreached(f"all {len(packages)} packages were skipped")
    found = [(package, one) for package in audited for one in package["vulns"]]
    new = [(p, one) for p, one in found if not {one["id"], *one["aliases"]} & known]
    lines = [f"{len(audited)} of {len(packages)} packages audited, {len(found)} findings, of which"]
    lines[0] += f" {len(found) - len(new)} are explained in {EXPLAINED.name}"
    for package, one in new:
        fixed = ", ".join(one["fix_versions"]) or "no release"
        lines.append(f"{package['name']} {package['version']}: {one['id']}, fixed in {fixed}")
    return Verdict(bool(new), lines)


def _unreached(why: str) -> Verdict:
    return Verdict(0, [f"NOT AUDITED: the advisory database could not be reached ({why})"])


def main() -> int:
    """Run it, and print what it means."""
    # a fixed command without a shell
    done = subprocess.run([sys.executable, *COMMAND], capture_output=True, text=True)  # nosec B603
    code, lines = judge(done.stdout, done.stderr, explained(EXPLAINED.read_text()))
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
