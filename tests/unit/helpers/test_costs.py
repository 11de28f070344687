"""The table of test costs is written, read, and compared with a run on another machine."""

from pathlib import Path

from helpers.costs import MOST, Cost, growth, read_run, read_table, slowdown, write_table

BEFORE = {
    "unit/a.py": Cost(10, 20.0, 0),
    "line/b.py": Cost(3, 80.0, 1),
    "kills/c.py": Cost(2, 20.0, 4),
}


def scaled(by: float) -> dict[str, Cost]:
    return {name: Cost(c.tests, c.seconds * by, c.clusters) for name, c in BEFORE.items()}


def test_a_table_is_read_as_it_was_written() -> None:
    text = write_table(BEFORE, "2 cores of something")
    assert read_table(text) == BEFORE
    assert text.index("line/b.py") < text.index("kills/c.py") < text.index("unit/a.py")
    assert "| **all** | 15 | 120.0 | 5 |" in text


def test_junit_files_are_summed_up_by_file(tmp_path: Path) -> None:
    (tmp_path / "test.xml").write_text(
        '<testsuites><testsuite><testcase classname="tests.unit.a" name="test_x" time="1.5">'
        '<properties><property name="clusters" value="2"/></properties></testcase>'
        '<testcase classname="tests.unit.a" name="test_y" time="0.5"/>'
        '<testcase classname="" name="tests.browser.skipped" time="0.0"/>'
        '<testcase classname="tests.line.b" name="test_z" time="3"/></testsuite></testsuites>'
    )
    assert read_run(tmp_path / "test.xml") == {
        "unit/a.py": Cost(2, 2.0, 2),
        "line/b.py": Cost(1, 3.0, 0),
    }


def test_a_slower_machine_is_no_growth() -> None:
    assert slowdown(scaled(3), BEFORE) == 3
    assert growth([scaled(3)], BEFORE)[0] == 1


def test_a_faster_machine_hides_no_growth() -> None:
    assert slowdown(scaled(0.5), BEFORE) == 1
    assert growth([scaled(0.5) | {"new.py": Cost(1, 100.0, 0)}], BEFORE)[0] > MOST


def test_new_files_and_files_that_grew_are_growth_on_a_slow_machine_too() -> None:
    times, lines = growth([scaled(3) | {"new.py": Cost(1, 120.0, 0)}], BEFORE)
    assert times > MOST
    assert lines == ["new.py: +40 s"]
    times, lines = growth([scaled(3) | {"kills/c.py": Cost(2, 180.0, 4)}], BEFORE)
    assert times > MOST
    assert lines == ["kills/c.py: +40 s"]


def test_other_work_on_the_machine_during_one_run_is_no_growth() -> None:
    fast = {f"unit/{n}.py": Cost(1, 2.0, 0) for n in range(30)}
    slow = {f"kills/{n}.py": Cost(1, 100.0, 1) for n in range(10)}
    loaded = {name: Cost(1, 2 * cost.seconds, 1) for name, cost in slow.items()}
    assert growth([fast, loaded], fast | slow)[0] == 1
    grown = loaded | {"kills/0.py": Cost(1, 1_000.0, 1)}
    assert growth([fast, grown], fast | slow)[0] > MOST
