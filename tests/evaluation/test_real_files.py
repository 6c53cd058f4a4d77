"""The sets of real judgments load as they are."""

import pytest

from judges import load_scorer
from judges.evaluation.benchmarks import load_benchmark
from judges.evaluation.metrics.accuracy import accuracy_numbers

PAIRS = {
    "hh_bt_val": 678,
    "rewardbench_rebuilt": 2383,
    "llmbar": 734,
    "judgebench_gpt": 350,
    "rm_bench": 2394,
    "human_pairs": 333,
    "hhh_alignment": 221,
    "evalbiasbench": 80,
    "gsm8k_pairs": 731,
}


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_is_read_and_scored(shared_data, name):
    items = load_benchmark(str(shared_data / f"{name}.jsonl")).items
    assert len(items) == PAIRS[name] == len({item.id for item in items})
    with load_scorer("length") as scorer:
        found = accuracy_numbers(items, {card.id: card for card in scorer.score(items)})[0]
    longer = sum(len(i.responses[0]) > len(i.responses[1]) for i in items)
    equal = sum(len(i.responses[0]) == len(i.responses[1]) for i in items)
    assert found.value == pytest.approx((longer + equal / 2) / len(items)) and found.left_out == 0


def test_transcripts_become_messages(shared_data):
    items = load_benchmark(str(shared_data / "hh_bt_val.jsonl")).items
    several = [i for i in items if len(i.messages) > 1]
    assert len(several) > 100
    assert all(i.messages[-1]["role"] == "user" for i in several)


def test_a_subset_is_kept_by_name(shared_data):
    assert len(load_benchmark(f"{shared_data / 'llmbar.jsonl'}@natural").items) == 100
