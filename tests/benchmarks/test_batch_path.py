"""Claims about the benchmark of a batch on its way: what it compares, step by step."""

from benchmarks._batch_path import STEPS, measured


def test_by_the_ring_a_batch_costs_next_to_nothing_to_stack(tmp_path):
    found = measured(tmp_path, videos=6, batch=3, rounds=1)
    ms = found["cpu_ms_a_video"]
    assert {way: tuple(of) for way, of in ms.items()} == {"now": STEPS, "plain": STEPS}
    assert 10 * ms["now"]["stack"] < ms["plain"]["stack"]
    assert not list(tmp_path.iterdir()), "what was written is removed"
