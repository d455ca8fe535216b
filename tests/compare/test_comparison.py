"""The statistics of several arms, against plain arithmetic; their text, data and pictures."""

import doctest
import json
import math

import matplotlib.image
import pytest

from sefe_plugin.compare import comparison
from sefe_plugin.compare.comparison import RESULTS, VALUES, compare, run_values, t_interval, with_further
from sefe_plugin.compare.report import (
    BEGIN,
    END,
    check_markers,
    format_comparison,
    write_between_markers,
    write_comparison,
)
from sefe_plugin.evaluation.report_data import FURTHER, build_report


#: 0.975 quantiles of Student's distribution with 1, 2, 4 and 9 degrees of freedom, from printed tables.
T_975 = {1: 12.7062, 2: 4.30265, 4: 2.77645, 9: 2.26216}

TASKS = ["A", "B", "C"]

#: Two environments that the runs of a table were made in.
VERSIONS = [{"torch": "2.11.0", "peft": "0.18.1"}, {"torch": "2.10.0", "peft": "0.18.1"}]


def report(shift):
    """A run of three tasks whose later accuracies move with `shift`."""
    accuracy = [[80, None, None], [60 + shift, 90, None], [50 + 2 * shift, 70 + shift, 40 + shift]]
    formats = [[100, None, None], [90, 95, None], [60 + 3 * shift, 100, 80]]
    return build_report(TASKS, accuracy, formats) | {"update": 2e-4 + 1e-5 * shift}


#: Arm -> the shift of each of three seeds.
SHIFTS = {"plain": (0, 1, 2), "better": (4, 7, 5)}


@pytest.fixture
def compared():
    return compare({arm: {100 + i: report(shift) for i, shift in enumerate(shifts)} for arm, shifts in SHIFTS.items()})


def mean(values):
    return sum(values) / len(values)


def deviation(values):
    return math.sqrt(sum((value - mean(values)) ** 2 for value in values) / (len(values) - 1))


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_t_interval(count):
    values = [1.5, -2.0, 4.0, 0.5, 3.0, 2.5, -1.0, 6.0, 0.0, 1.0][:count]
    half = T_975[count - 1] * deviation(values) / math.sqrt(count)
    # the printed quantiles have six digits, and half the interval is 22 at most
    assert t_interval(values) == pytest.approx((mean(values), mean(values) - half, mean(values) + half), abs=2e-4)


def test_one_value_has_no_interval():
    assert t_interval([3.0]) == (3.0, None, None)


def test_doctests():
    assert doctest.testmod(comparison) == (0, 1)


def test_values_of_a_run():
    values = run_values(report(1))
    assert set(values) == set(VALUES)
    assert values["mft"] == pytest.approx((80 + 90 + 41) / 3)
    assert values["mfn"] == pytest.approx((52 + 71 + 41) / 3)
    assert values["format"] == pytest.approx((63 + 100 + 80) / 3)
    assert values["mean_format"] == pytest.approx((100 + (90 + 95) / 2 + (63 + 100 + 80) / 3) / 3)
    assert values["update"] == pytest.approx(2.1)
    # task A: format 100 to 63, content 0.8 to 52 / 63; task B: 95 to 100, 90 / 95 to 0.71
    superficial = 37 * (0.8 + 52 / 63) / 2 - 5 * (90 / 95 + 0.71) / 2
    assert values["superficial"] == pytest.approx(superficial / 3)
    assert values["superficial"] + values["essential"] == pytest.approx(-values["bwt"])


def test_means_and_deviations_over_seeds(compared):
    assert (compared["tasks"], compared["seeds"]) == (TASKS, [100, 101, 102])
    for arm, shifts in SHIFTS.items():
        finals = [mean([50 + 2 * s, 70 + s, 40 + s]) for s in shifts]
        summary = compared["arms"][arm]
        assert summary["mfn"] == pytest.approx({"mean": mean(finals), "sd": deviation(finals)})
        lasts = [50 + 2 * s for s in shifts]
        assert summary["tasks"]["A"]["accuracy"] == pytest.approx({"mean": mean(lasts), "sd": deviation(lasts)})
        assert summary["tasks"]["A"]["drop"] == pytest.approx(80 - mean(lasts))
        parts = summary["tasks"]["A"]
        assert parts["superficial"] + parts["essential"] == pytest.approx(parts["drop"])
        for shift, run in zip(shifts, compared["runs"][arm], strict=True):
            stages = [80, (150 + shift) / 2, (160 + 4 * shift) / 3]
            assert run["after_each_task"] == pytest.approx(stages)
            assert run["maa"] == pytest.approx(mean(stages))


def test_differences_are_paired_by_seed(compared):
    (pair,) = compared["differences"]
    assert (pair["arm"], pair["minus"]) == ("better", "plain")
    each = [4 * (b - a) / 3 for a, b in zip(SHIFTS["plain"], SHIFTS["better"], strict=True)]
    assert pair["mfn"]["each"] == pytest.approx(each)
    half = T_975[2] * deviation(each) / math.sqrt(3)
    interval = [pair["mfn"][key] for key in ("mean", "low", "high")]
    assert interval == pytest.approx([mean(each), mean(each) - half, mean(each) + half], rel=1e-5)


def test_every_pair_of_arms_is_compared_once():
    arms = {arm: {1: report(shift)} for arm, shift in (("a", 0), ("b", 1), ("c", 2))}
    pairs = [(pair["arm"], pair["minus"]) for pair in compare(arms)["differences"]]
    assert pairs == [("b", "a"), ("c", "a"), ("c", "b")]


def test_every_arm_is_compared_with_one():
    arms = {arm: {1: report(shift)} for arm, shift in (("a", 0), ("b", 1), ("c", 2))}
    differences = compare(arms, against="b")["differences"]
    assert [(pair["arm"], pair["minus"]) for pair in differences] == [("a", "b"), ("c", "b")]
    assert [pair["mfn"]["mean"] for pair in differences] == pytest.approx([-4 / 3, 4 / 3])


def test_runs_without_adapters_have_no_update(tmp_path):
    arms = {arm: {seed: report(seed) for seed in (1, 2)} for arm in ("plain", "better")}
    arms["full"] = {seed: report(seed) | {"update": None} for seed in (1, 2)}
    compared = compare(arms)
    assert compared["arms"]["full"]["update"] == {"mean": None, "sd": None}
    assert compared["arms"]["plain"]["update"]["mean"] == pytest.approx(2.15)
    for pair in compared["differences"]:
        assert (pair["update"]["mean"] is None) == (pair["arm"] == "full")
        assert pair["mfn"]["mean"] == pytest.approx(0)
    table = {"command": "x", "versions": VERSIONS, "orders": {"coin": compared}}
    write_comparison(tmp_path, table)
    row = next(line for line in format_comparison(table).splitlines() if line.startswith("| full "))
    assert row.split("|")[-2].strip() == "-"


def test_forward_transfer_and_retention_have_columns_where_a_run_has_them(tmp_path, compared):
    """A run without them has a dash; where no run has them, no column stands for them."""
    zero_shot = {"accuracy": [5.0, 10.0, 14.0], "format": [50.0] * 3}
    full = [[80.0, 12.0, 20.0], [60.0, 90.0, 30.0], [50.0, 70.0, 40.0]]

    def with_all(gain):
        kept = {"sets": ["general"], "accuracy_matrix": [[80.0], [70.0], [60.0], [30.0 + gain]]}
        given = {"zero_shot": zero_shot, "single_task": [80.0, 84.0, 46.0], "retention": kept}
        kept["format_matrix"] = [[90.0]] * 4
        return build_report(TASKS, full, [[100.0] * 3] * 3, **given) | {"update": None}

    arms = {name: {seed: with_all(gain + seed) for seed in (1, 2)} for name, gain in (("a", 0), ("b", 5))}
    found = compare(arms)
    assert found["arms"]["a"]["fwd_unseen"] == {"mean": 10.0, "sd": 0.0}
    assert found["arms"]["a"]["fwd_learning"]["mean"] == 1.0
    assert found["arms"]["b"]["retention"]["mean"] == 36.5
    assert found["arms"]["b"]["retention_lost"]["mean"] == 43.5
    assert found["differences"][0]["retention"]["each"] == [5.0, 5.0]
    mixed = compare({**arms, "plain": {seed: report(seed) for seed in (1, 2)}})
    assert mixed["arms"]["plain"]["retention"] == {"mean": None, "sd": None}
    texts = {
        name: format_comparison({"command": "x", "versions": VERSIONS, "orders": {"coin": content}})
        for name, content in (("found", found), ("mixed", mixed), ("plain", compared))
    }
    head = "| Update | FWD unseen"
    assert [head in " ".join(text.split()) for text in texts.values()] == [True, True, False]
    row = next(line for line in texts["mixed"].splitlines() if line.startswith("| plain"))
    assert [cell.strip() for cell in row.split("|")][-6:-1] == ["-"] * 5
    assert "retention" not in compared["arms"]["plain"]
    assert list(with_further(RESULTS, found))[len(RESULTS) :] == list(FURTHER)


def test_what_cannot_be_compared_is_refused():
    unfinished = build_report(TASKS, [[80, None, None]], [[100, None, None]])
    other = build_report(["A", "B"], [[80, None], [60, 90]], [[100, None], [90, 95]])
    for odd in ({1: unfinished}, {1: other}, {2: report(0)}):
        with pytest.raises(ValueError, match="odd, seed"):
            compare({"plain": {1: report(0)}, "odd": odd})


def test_files(tmp_path, compared):
    table = {
        "command": "sefe minicoin table",
        "versions": VERSIONS,
        "orders": {"coin": compared, "reversed": compared},
    }
    write_comparison(tmp_path, table)
    names = {f"{kind}_{order}.png" for kind in ("differences", "accuracy") for order in ("coin", "reversed")}
    assert {path.name for path in tmp_path.iterdir()} == names | {"table.md", "table.json"}
    for name in names:
        assert matplotlib.image.imread(tmp_path / name).std() > 0.01
    stored = json.loads((tmp_path / "table.json").read_text())
    assert stored["orders"]["coin"] == json.loads(json.dumps(compared))
    text = (tmp_path / "table.md").read_text()
    for name in names:
        assert f"({name})" in text


def test_one_arm_alone_has_no_differences(tmp_path):
    write_comparison(
        tmp_path, {"command": "x", "versions": VERSIONS, "orders": {"coin": compare({"plain": {1: report(0)}})}}
    )
    assert {path.name for path in tmp_path.iterdir()} == {"accuracy_coin.png", "table.md", "table.json"}
    assert "differences_coin.png" not in (tmp_path / "table.md").read_text()


def test_text(compared):
    text = format_comparison(
        {"command": "sefe minicoin table --seeds 100", "versions": VERSIONS, "orders": {"coin": compared}}
    )
    assert (
        "Made by `sefe minicoin table --seeds 100` with torch 2.11.0, peft 0.18.1; torch 2.10.0, peft 0.18.1.\n"
        in text
    )
    assert "### Order coin, seeds 100, 101, 102" in text
    row = next(line for line in text.splitlines() if line.startswith("| better "))
    finals = [(160 + 4 * shift) / 3 for shift in SHIFTS["better"]]
    assert f"{mean(finals):.1f} ± {deviation(finals):.1f}" in row
    assert "| better - plain |" in text
    assert ".png" not in text
    one = compare({"plain": {1: report(0)}})
    alone = format_comparison({"command": "x", "versions": VERSIONS, "orders": {"coin": one}})
    assert "±" not in alone.split("###")[1]
    assert "Differences" not in alone


def test_a_table_takes_the_place_of_the_one_before(tmp_path):
    file = tmp_path / "README.md"
    file.write_text(f"# Head\n\n{BEGIN}\nold\n{END}\n\nTail\n")
    for text in ("new", "newer\n"):
        write_between_markers(file, text)
        assert file.read_text() == f"# Head\n\n{BEGIN}\n\n{text.strip()}\n\n{END}\n\nTail\n"


@pytest.mark.parametrize("content", [None, "", BEGIN, f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n"])
def test_without_markers_nothing_is_written(tmp_path, content):
    file = tmp_path / "README.md"
    if content is not None:
        file.write_text(content)
    for write in (check_markers, lambda file: write_between_markers(file, "x")):
        with pytest.raises(ValueError, match="must hold, once each and in this order"):
            write(file)
    assert content is None or file.read_text() == content


def test_no_two_of_many_arms_look_alike():
    from sefe_plugin.compare.figures import draw_stages

    runs = {f"arm {i}": [{"after_each_task": [i, i + 1, i + 2]}] for i in range(20)}
    lines = draw_stages(TASKS, runs).axes[0].lines
    assert [line.get_label() for line in lines] == list(runs)
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 20


def test_tasks_without_scores_do_not_count():
    def partly(shift, *unscored):
        whole = report(shift)
        matrices = [
            [[None if task in unscored else value for task, value in zip(TASKS, row, strict=True)] for row in matrix]
            for matrix in (whole["accuracy_matrix"], whole["format_matrix"])
        ]
        return build_report(TASKS, *matrices, unscored=unscored)

    values = comparison.results(partly(0, "B"))
    expected = {"mft": 60, "mfn": 45, "maa": (80 + 60 + 45) / 3, "bwt": -15, "format": 70}
    assert {key: values[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    assert values["mean_format"] == pytest.approx((100 + 90 + 70) / 3, abs=1e-12)
    assert values["superficial"] + values["essential"] == pytest.approx(15, abs=1e-12)
    arms = {arm: {1: partly(shift, "A"), 2: partly(shift + 1, "A")} for arm, shift in (("x", 0), ("y", 3))}
    found = compare(arms, measure=comparison.results)
    assert found["unscored"] == ["A"]
    assert found["runs"]["x"][0]["after_each_task"] == [None, 90, 55]
    assert found["arms"]["x"]["tasks"]["A"]["accuracy"] == {"mean": None, "sd": None}
    # and nothing at all where nobody scores anything
    arms = {arm: {1: partly(0, *TASKS), 2: partly(1, *TASKS)} for arm in "xy"}
    found = compare(arms, measure=comparison.results)
    assert set(found["arms"]["x"]) - {"tasks"} == set(RESULTS)
    assert all(found["arms"]["x"][key]["mean"] is None for key in RESULTS)
    from sefe_plugin.compare.figures import draw_costs, draw_differences, draw_stages

    draw_stages(TASKS, found["runs"]).canvas.draw()
    draw_differences(found["differences"], "mfn", "MFN").canvas.draw()
    costs = {"training": 1.0, "memory": 1.0, "left": 1.0}
    runs = {arm: [{**run, **costs} for run in of_arm] for arm, of_arm in found["runs"].items()}
    figure = draw_costs(runs, "x")
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["not recorded"] * 3
