"""Claims about cutting shards into jobs: each shard once, ten minutes a job, and enough jobs for all devices."""

import json
import random

import pytest

from pipeline.config import parse_params
from pipeline.config.costs import START_SECONDS, cut, makespan, seconds_a_sample
from pipeline.config.params import Compute

DINO = {"backbone": "dinov3", "weights": {"random": 0}, "sampling": {"frames": 8}, "preprocess": {"resize": [32, 32]}}


def test_every_wanted_shard_is_in_one_job_and_no_job_reaches_over_another():
    rng = random.Random(0)
    for _ in range(300):
        shards = sorted(rng.sample(range(200), rng.randrange(1, 120)))
        wanted = sorted(rng.sample(shards, rng.randrange(1, len(shards) + 1)))
        jobs = cut(wanted, shards, rng.choice([0.1, 7.0, 300.0, 2000.0]), Compute(jobs=rng.randrange(1, 20)))
        made = [shard for first, last in jobs for shard in shards if first <= shard <= last]
        assert made == wanted


@pytest.mark.parametrize(
    ("shards", "seconds", "jobs", "found"),
    [
        (863, 256 * 0.0059, 8, 8),  # 22 minutes: on all devices
        (863, 256 * 0.0059, 100, 21),  # but no job of less than a minute
        (863, 60.0, 8, 87),  # 14 hours: jobs of ten minutes
        (863, 900.0, 8, 863),  # a shard of 15 minutes is a job
        (5, 10.0, 8, 1),  # what is done in a minute is not cut
    ],
)
def test_a_job_has_ten_minutes_of_work_or_there_are_as_many_as_can_run(shards, seconds, jobs, found):
    made = cut(range(shards), range(shards), seconds, Compute(jobs=jobs))
    sizes = [last - first + 1 for first, last in made]
    assert len(made) == pytest.approx(found, rel=0.02) and max(sizes) - min(sizes) <= 1


def test_decoding_costs_nothing_beside_a_longer_forward_and_what_params_say_wins():
    features = parse_params({"features": {"dino": DINO}}).features
    cpu, gpu = Compute(device="cpu"), Compute(device="cuda", decode_workers=2)
    assert seconds_a_sample(features, cpu) == 3.4
    assert seconds_a_sample(features, gpu) == pytest.approx(0.071 / 2)
    assert seconds_a_sample(features, cpu.model_copy(update={"seconds_a_sample": {"dino": 0.5}})) == 0.5


def test_how_shards_are_cut_is_in_no_part_that_a_job_sees_and_names_declared_features():
    document = {"features": {"dino": DINO}, "compute": {"jobs": 3, "seconds_a_sample": {"dino": 0.5}}}
    part = json.loads(parse_params(document).part(features=("dino",)))
    assert not {"jobs", "job_minutes", "seconds_a_sample"} & part["compute"].keys()
    document["compute"]["seconds_a_sample"] = {"dinno": 0.5}
    with pytest.raises(ValueError, match=r"compute\.seconds_a_sample names 'dinno'"):
        parse_params(document)


def test_jobs_of_one_length_take_as_many_rounds_as_devices_need():
    assert makespan([90.0] * 9, 8) == 2 * (90 + START_SECONDS) and makespan([], 2) == 0


@pytest.mark.parametrize("key", ["seconds_a_sample.dino", "job_minutes"])
def test_costs_that_no_sum_holds_are_refused_by_their_key(key):
    compute = {"seconds_a_sample": {"dino": 1e308}} if "dino" in key else {"job_minutes": 1e308}
    with pytest.raises(ValueError, match=rf"compute\.{key}"):
        parse_params({"features": {"dino": DINO}, "compute": compute})
