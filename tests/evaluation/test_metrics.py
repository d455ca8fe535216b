import pytest
from hypothesis import given
from hypothesis import strategies as st

from sefe_plugin.evaluation.metrics import (
    backward_transfer,
    backward_transfer_of_earlier,
    forgetting,
    mean_average_accuracy,
    mean_final_accuracy,
    mean_finetune_accuracy,
    num_scored_tasks,
    split_forgetting,
)


METRICS = (mean_finetune_accuracy, mean_final_accuracy, mean_average_accuracy, backward_transfer, forgetting)
THREE = [[80.0, None, None], [60.0, 90.0, None], [50.0, 70.0, 40.0]]
# Sums of at most 64 percentages in double precision.
ROUNDING = 1e-9

# SEFE's table on CoIN: final accuracies of the eight tasks, then MFT, MFN, MAA and BWT.
PUBLISHED = {
    "FFT": [2.95, 36.38, 52.35, 46.40, 33.90, 0.00, 61.65, 50.00, 65.87, 35.45, 36.73, -30.42],
    "LoRA": [54.05, 44.63, 41.25, 47.55, 20.80, 0.85, 59.30, 64.30, 70.21, 41.59, 39.53, -28.62],
    "O-LoRA": [75.40, 52.89, 71.85, 47.30, 37.35, 7.10, 61.85, 61.20, 69.30, 51.87, 49.56, -17.43],
    "LoTA": [67.30, 41.51, 8.25, 37.15, 42.25, 0.10, 47.95, 56.15, 54.72, 37.58, 50.46, -17.14],
    "FFT+ASD": [74.50, 50.12, 65.40, 54.35, 45.50, 0.00, 64.40, 68.50, 68.28, 52.85, 57.18, -15.44],
    "LoRA+ASD": [74.45, 49.70, 39.30, 52.00, 50.45, 7.05, 62.25, 47.80, 68.13, 47.88, 59.71, -20.26],
    "OLoRA+ASD": [75.20, 55.36, 67.50, 54.70, 52.90, 15.40, 64.45, 35.05, 65.59, 52.57, 61.63, -13.02],
    "LoTA+ASD": [76.90, 42.65, 15.85, 40.25, 45.10, 0.30, 54.35, 54.00, 56.99, 41.18, 56.28, -15.82],
    "SEFE": [75.35, 58.66, 83.10, 54.25, 48.85, 16.75, 65.35, 66.25, 69.02, 58.57, 63.04, -10.45],
}

percent = st.floats(0, 100)


@st.composite
def full_matrices(draw):
    size = draw(st.integers(1, 8))
    return [draw(st.lists(percent, min_size=size, max_size=size)) for _ in range(size)]


def test_three_tasks_by_hand():
    assert mean_finetune_accuracy(THREE) == (80 + 90 + 40) / 3
    assert mean_final_accuracy(THREE) == pytest.approx((50 + 70 + 40) / 3, abs=ROUNDING)
    assert mean_average_accuracy(THREE) == pytest.approx((80 + (60 + 90) / 2 + (50 + 70 + 40) / 3) / 3, abs=ROUNDING)
    assert backward_transfer(THREE) == pytest.approx((-30 - 20 + 0) / 3, abs=ROUNDING)
    assert forgetting(THREE) == (30 + 20) / 2


def test_forgetting_counts_from_the_best_and_never_from_the_last_row():
    # The first task peaks in the middle row; the second improves at the end, which is negative forgetting.
    assert forgetting([[80, None, None], [95, 50, None], [90, 60, 40]]) == ((95 - 90) + (50 - 60)) / 2


def test_scores_of_tasks_not_learned_yet_do_not_matter():
    zero_shot = [[80.0, 99.0, 1.0], [60.0, 90.0, 77.0], THREE[2]]
    assert [metric(zero_shot) for metric in METRICS] == [metric(THREE) for metric in METRICS]


@pytest.mark.parametrize("row", PUBLISHED)
def test_published_rows(row):
    *final, mft, mfn, _, bwt = PUBLISHED[row]
    # Only the mean of the diagonal is published: any with that mean will do that ends in the last score.
    learned = (8 * mft - final[7]) / 7
    matrix = [[learned if i == j else None for j in range(8)] for i in range(7)] + [final]
    # Every published number is rounded to 0.01, i.e. wrong by up to 0.005; BWT is the difference of two of them.
    assert mean_final_accuracy(matrix) == pytest.approx(mfn, abs=0.0051)
    assert backward_transfer(matrix) == pytest.approx(bwt, abs=0.0101)


@pytest.mark.parametrize(
    ("count", "mft", "mfn", "published"),
    [(6, 75.87, 69.66, -7.45), (5, 65.01, 58.51, -8.13), (5, 66.89, 62.92, -4.97), (5, 64.98, 53.00, -14.97)],
    ids=["UCIT DISCO", "DCL SEFE", "DCL SEFE replay", "DCL LoRA"],
)
def test_mcitlib_divides_by_one_task_less(count, mft, mfn, published):
    learned = (count * mft - mfn) / (count - 1)  # any matrix with these means will do
    matrix = [[learned if i == j else None for j in range(count)] for i in range(count - 1)] + [[mfn] * count]
    assert mean_finetune_accuracy(matrix) == pytest.approx(mft, abs=ROUNDING)
    assert backward_transfer_of_earlier(matrix) == pytest.approx(published, abs=0.0131)
    assert backward_transfer(matrix) == pytest.approx(mfn - mft, abs=ROUNDING)


def test_the_two_denominators_of_bwt():
    assert backward_transfer_of_earlier(THREE) == pytest.approx(3 / 2 * backward_transfer(THREE), abs=ROUNDING)
    assert backward_transfer_of_earlier([[50.0]]) is None
    # the second task has no scores: one earlier task is left of two
    unscored = [[80.0, None, None], [60.0, None, None], [50.0, None, 40.0]]
    assert backward_transfer_of_earlier(unscored, unscored=[1]) == -30.0
    assert backward_transfer(unscored, unscored=[1]) == -15.0


@given(full_matrices())
def test_identities(matrix):
    size = len(matrix)
    assert num_scored_tasks(matrix) == size
    assert backward_transfer(matrix) == pytest.approx(
        mean_final_accuracy(matrix) - mean_finetune_accuracy(matrix), abs=ROUNDING
    )
    if size == 1:
        assert forgetting(matrix) is None
    else:
        # The best row is at least the row just after learning.
        assert forgetting(matrix) >= -backward_transfer(matrix) * size / (size - 1) - ROUNDING
    constant = [[42.0] * size for _ in range(size)]
    assert mean_average_accuracy(constant) == mean_final_accuracy(constant) == 42


@given(full_matrices(), st.data())
def test_an_unfinished_sequence_is_the_sequence_of_its_first_tasks(matrix, data):
    size = len(matrix)
    done = data.draw(st.integers(0, size))
    unfinished = matrix[:done] + [[None] * size for _ in range(size - done)]
    shorter = [row[:done] for row in matrix[:done]]
    assert num_scored_tasks(unfinished) == num_scored_tasks(matrix[:done]) == done
    assert [metric(unfinished) for metric in METRICS] == [metric(shorter) for metric in METRICS]
    if done == 0:
        assert [metric(unfinished) for metric in METRICS] == [None] * 5


def test_a_missing_entry_empties_only_the_metrics_that_need_it():
    only_final = [[None] * 3, [None] * 3, THREE[2]]
    assert [metric(only_final) is None for metric in METRICS] == [True, False, True, True, True]
    hole = [THREE[0], [None, 90.0, None], THREE[2]]
    assert [metric(hole) is None for metric in METRICS] == [False, False, True, False, True]


@pytest.mark.parametrize(
    ("first", "last", "superficial", "essential"),
    [
        ((80, 100), (40, 50), 40, 0),  # half of the formats are gone, the rest is as right as before
        ((80, 100), (40, 100), 0, 40),  # all formats kept
        ((80, 100), (0, 0), 80, 0),  # no format left: nothing is known of the content
        ((0, 0), (30, 60), -30, 0),  # formats found later
        ((0, 0), (0, 0), 0, 0),
        ((80, 80), (30, 40), 35, 15),  # (80-40)*(1+0.75)/2 and (1-0.75)*(80+40)/2
        ((50, 50), (50, 100), -37.5, 37.5),  # formats gained, content lost
    ],
)
def test_splits_by_hand(first, last, superficial, essential):
    loss = split_forgetting([[first[0], None], [last[0], 60]], [[first[1], None], [last[1], 60]])[0]
    assert loss == pytest.approx((first[0] - last[0], superficial, essential), abs=ROUNDING)


@given(st.lists(st.tuples(percent, st.floats(0, 1)), min_size=2, max_size=2))
def test_the_two_parts_add_up_to_the_drop(ends):
    (format0, content0), (format1, content1) = ends
    accuracy = [[format0 * content0, None], [format1 * content1, 50]]
    drop, superficial, essential = split_forgetting(accuracy, [[format0, None], [format1, 50]])[0]
    # f * (a / f) can differ from a by the rounding of one division and one product.
    assert superficial + essential == pytest.approx(drop, abs=ROUNDING)
    assert drop == accuracy[0][0] - accuracy[1][0]


def test_tasks_without_scores_have_no_split():
    unfinished = [THREE[0], THREE[1], [None] * 3]
    losses = split_forgetting(unfinished, unfinished)
    assert [loss and loss.drop for loss in losses] == [20, 0, None]
    assert split_forgetting(THREE, [[None] * 3] * 3) == [None] * 3
    assert split_forgetting([[None] * 2] * 2, [[None] * 2] * 2) == [None] * 2
