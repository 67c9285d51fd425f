# SPDX-License-Identifier: Apache-2.0
"""The whole lab: libkrun for real, in an emulated machine; failures inside are named here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from lab.check import judge, lab_store, look
from lab.display import Display
from lab.jobs import jobs_with, program
from lab.session import Wish, run

from waggle.config import load
from waggle.config.places import Places
from waggle.domain.errors import WaggleError


@pytest.mark.lab
@pytest.mark.vm
@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.timeout(3900)
async def test_libkrun_boots_and_passes_in_the_outer_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load()
    verdict = judge(look())
    if verdict.needless:
        pytest.skip(f"THE LAB IS NOT NEEDED: {verdict.needless}")
    if verdict.obstacles:
        pytest.skip("LIBKRUN WAS NOT TESTED, the lab cannot run: " + "; ".join(verdict.obstacles))
    if verdict.mends:
        pytest.fail("the lab cannot run: " + "; ".join(verdict.mends))
    store = lab_store(Places.of(settings).cache)
    given = program()
    jobs = jobs_with(given)
    with capsys.disabled():
        sys.stderr.write("\n")
        display = Display(sys.stderr)  # only here: stderr is another file before
        try:
            result = await run(
                settings, store, Wish(jobs, tmp_path, cloud_hypervisor=given), display
            )
            failed = [job for job in jobs if result.codes.get(job.name) != 0]
            if failed and not result.broke:
                # Nested emulation sometimes stalls for seconds, so only what fails again in a new
                # outer machine counts.
                display.say(f"FAILED ONCE, and tried again:\n{result.story}")
                result = await run(
                    settings, store, Wish(failed, tmp_path, cloud_hypervisor=given), display
                )
        except WaggleError as error:
            pytest.fail(f"the lab could not be made: {error.message} {error.hint or ''}")
    if result.broke:
        pytest.skip(f"LIBKRUN WAS NOT TESTED TO THE END, QEMU broke down:\n{result.story}")
    assert result.good, f"inside the outer machine:\n{result.story}"
