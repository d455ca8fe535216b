"""The table of tested versions: made from reports of tests, and the same as the one that `sefe doctor` reads."""

import re

import versions

from sefe_plugin.hosts.llamafactory.tested import TESTED


REPORT = """<testsuites><testsuite>
<testcase classname="tests.hosts.test_hook" name="test_a"/>
<testcase classname="tests.hosts.test_hook" name="test_b"><failure message="assert 1 == 2&#10;  and more"/></testcase>
<testcase classname="tests.hosts.test_keys" name="test_c"><skipped/></testcase>
<testcase classname="tests.methods.reglora.test_model" name="test_d"><error message="no module"/></testcase>
<testcase classname="" name="tests.hosts.test_carry"><error message="collection failure"/></testcase>
</testsuite></testsuites>"""


def test_outcome_counts_what_ran_and_keeps_the_first_line_of_a_failure(tmp_path):
    (tmp_path / "report.xml").write_text(REPORT)
    found = versions.outcome(tmp_path / "report.xml")
    assert found["groups"]["start-up hook"] == {"passed": 1, "run": 2}
    assert found["groups"]["recipe keys"] == {"passed": 0, "run": 0}
    assert found["groups"]["RegLoRA in PEFT"] == {"passed": 0, "run": 1}
    assert found["failures"] == {
        "hosts/test_hook.py::test_b": "assert 1 == 2",
        "methods/reglora/test_model.py::test_d": "no module",
        "hosts/test_carry.py::tests.hosts.test_carry": "collection failure",
    }


def test_page_shows_versions_counts_and_failures():
    groups = {"start-up hook": {"passed": 1, "run": 2}}
    whole = {"date": "2026-01-02", "python": "3.11.7", "versions": {"torch": "2.4.0"}, "groups": groups}
    page = versions.page({"oldest": whole | {"failures": {"a::b": "no"}}, "next": whole | {"failures": {}}})
    assert "| torch | 2.4.0 | 2.4.0 |" in page
    assert "| start-up hook | 1 of 2 | 1 of 2 |" in page
    assert "| recipe keys | - | - |" in page
    assert "What failed with **oldest**:\n\n- `a::b`: no\n" in page
    assert "**next**:\n\n" not in page


def test_tests_that_are_named_exist():
    for file, (_, names) in versions.TESTS.items():
        text = (versions.ROOT / "tests" / file).read_text()
        assert all(re.search(rf"^def {name}\(", text, re.MULTILINE) for name in names or ()), file


def test_the_page_is_what_the_doctor_reads():
    text = versions.PAGE.read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    oldest = 1 + rows[0].index("oldest")
    found = {row[0]: row[oldest] for row in rows if row[0] in TESTED and row[0] not in ("bitsandbytes", "deepspeed")}
    assert found == {package: TESTED[package][0] for package in found}
    assert len(found) == len(TESTED) - 2
    assert all(f"{package} {newest}" in text for package, (_, newest) in TESTED.items())
