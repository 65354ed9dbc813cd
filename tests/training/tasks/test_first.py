"""The first batches of many."""

from qkv.training.tasks.first import VALIDATED, First


def test_the_first_are_given_and_no_more_than_there_are():
    batches = list(range(30))
    first = First(batches, 3)
    assert [first[number] for number in range(len(first))] == [0, 1, 2]
    assert len(First(batches)) == VALIDATED and len(First(batches[:4])) == 4
    assert len(First([])) == 0
