# SPDX-License-Identifier: Apache-2.0
"""What a new environment is to have from the start: files and packages. For tools that make one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from waggle.domain.access import Owner
from waggle.domain.errors import InvalidArgument
from waggle.domain.files.filesystem import check_content, parse_path
from waggle.domain.network import NetworkPolicy
from waggle.domain.programs.job import JobView
from waggle.domain.programs.runtime import encoded
from waggle.mcp.context import Services
from waggle.mcp.errors import clean
from waggle.mcp.results.progress import Phases

MAX_FILES = 20


@dataclass(frozen=True, slots=True)
class Furniture:
    """Files by path, and packages as they were asked for. Make it with `furniture`."""

    files: Mapping[str, bytes]
    packages: str | Sequence[str]

    async def bring(
        self, services: Services, environment_id: str, phases: Phases, *, owner: Owner
    ) -> JobView | None:
        """Write the files, then install; how the installer ended, if there was something for it.

        Raises FileRefused, NotFound, NotRunning, GuestLost or TooManyJobs.
        """
        for path, data in self.files.items():
            await phases.say(f"writing {clean(path, 60)}")
            await services.filesystem.write(environment_id, path, data, owner=owner)
        if not self.packages:
            return None
        job = await services.execution.install(environment_id, self.packages, owner=owner)
        return await phases.attend(job, "installing")


def furniture(
    files: Mapping[str, str], packages: str | Sequence[str] | None, network: NetworkPolicy
) -> Furniture:
    """Checked as far as can be without the environment. Raises InvalidArgument or TooLarge."""
    if len(files) > MAX_FILES:
        raise InvalidArgument(
            f"At most {MAX_FILES} files can be written.",
            hint="Write the others with write_file; upload_files takes many at once.",
        )
    if packages and network is NetworkPolicy.NONE:
        raise InvalidArgument(
            "Packages cannot be installed without a network.",
            hint="Give network 'public', or an image with the packages.",
        )
    contents = {
        parse_path(path): check_content(encoded(text, "A file's content"))
        for path, text in files.items()
    }
    return Furniture(contents, packages or ())
