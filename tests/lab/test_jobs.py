# SPDX-License-Identifier: Apache-2.0
"""The distribution of jobs to outer machines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.jobs import JOBS, Job, jobs_with, pytest_job, shares

jobs = st.lists(st.builds(Job, st.text("ab", max_size=3), st.just("true"), st.floats(1, 900)))


@given(jobs, st.integers(1, 5))
def test_every_job_runs_once_and_no_machine_is_idle(some: list[Job], machines: int) -> None:
    lanes = shares(some, machines)
    assert sorted(map(id, some)) == sorted(id(job) for lane in lanes for job in lane)
    assert len(lanes) == max(1, min(machines, len(some)))
    assert all(lanes) or not some


@given(jobs, st.integers(1, 5))
def test_loads_differ_by_at_most_one_job(some: list[Job], machines: int) -> None:
    lanes = shares(some, machines)
    sums = [sum(job.seconds for job in lane) for lane in lanes]
    longest = max((job.seconds for job in some), default=0)
    assert max(sums) - min(sums) <= longest + 1e-6


def test_the_jobs_fill_two_machines_evenly() -> None:
    assert [[job.name for job in lane] for lane in shares(JOBS, 2)] == [
        ["contract", "main-job", "firecracker-main-job", "firecracker-floods", "cgroups"],
        ["firecracker", "firecracker-frozen", "network", "firecracker-kills", "four-at-once"],
    ]


def test_a_program_of_the_host_adds_its_jobs() -> None:
    assert jobs_with(None) == JOBS
    more = jobs_with(Path("program"))[len(JOBS) :]
    assert [job.name for job in more if "cloud" not in f"{job.tests}{job.variables}"] == []
    assert len({job.name for job in (*JOBS, *more)}) == len(JOBS) + len(more)


def test_a_pytest_job_writes_its_report_to_the_report_directory() -> None:
    job = pytest_job("some", "tests/x -k 'a and b'", 5, "qemu")
    assert "--junit-xml=/lab/report/some.xml" in job.tests
    assert job.tests[-3:] == ("tests/x", "-k", "a and b")
    assert (job.report, job.variables) == ("some.xml", {"WAGGLE_HYPERVISOR": "qemu"})


@pytest.mark.parametrize("job", jobs_with(Path("program")), ids=lambda job: job.name)
def test_a_job_names_tests_that_exist(job: Job) -> None:
    words = job.tests
    places = [Path(__file__).parents[2] / word for word in words if word.startswith("tests/")]
    assert [str(place) for place in places if not place.exists()] == []
    files = [file for place in places for file in place.rglob("test_*.py")]
    files += [place for place in places if place.is_file()]
    text = "\n".join(f"{file}\n{file.read_text('utf-8')}" for file in files)
    chosen = words[words.index("-k") + 1] if "-k" in words else ""
    names = set(re.findall(r"\w+", chosen)) - {"and", "not", "or"}
    assert files
    assert [name for name in names if name not in text] == []
