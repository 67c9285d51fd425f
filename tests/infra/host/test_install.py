# SPDX-License-Identifier: Apache-2.0
"""Installing system packages: the plan for every system, and its execution."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pytest

from waggle.domain.errors import SetupIncomplete
from waggle.infra.host.install import (
    carry_out,
    detect_manager,
    detect_privilege,
    instructions,
    make_plan,
)
from waggle.infra.host.requirements import PACKAGES, Manager

QEMU, EROFS = PACKAGES[0], PACKAGES[1]
MMDEBSTRAP = next(package for package in PACKAGES if package.name == "mmdebstrap")


class Executed:
    """A runner that records commands and returns the given codes, then 0."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)
        self.commands: list[str] = []

    async def __call__(self, argv: Sequence[str]) -> int:
        self.commands.append(" ".join(argv))
        return self.codes.pop(0) if self.codes else 0


class TestPlan:
    def test_nothing_missing_needs_no_steps(self) -> None:
        plan = make_plan((), "apt", "root")
        assert plan.done
        assert plan.steps == ()

    def test_apt_as_root_updates_once_and_installs_without_recommends(self) -> None:
        plan = make_plan((QEMU, EROFS), "apt", "root")
        update, install = (step.command for step in plan.steps)
        assert plan.can_act
        assert update.endswith(" update")
        assert install.startswith("env DEBIAN_FRONTEND=noninteractive apt-get ")
        assert install.endswith(" install -y --no-install-recommends erofs-utils qemu-system-x86")
        assert "runs the virtual machines" in plan.steps[1].reason

    def test_apt_as_a_user_goes_through_sudo(self) -> None:
        plan = make_plan((QEMU,), "apt", "sudo")
        assert plan.can_act
        assert all(step.argv[0] == "sudo" for step in plan.steps)

    def test_without_sudo_the_commands_are_only_printed(self) -> None:
        plan = make_plan((QEMU,), "apt", "none")
        assert not plan.can_act
        assert "sudo env DEBIAN_FRONTEND=noninteractive apt-get" in instructions(plan)

    @pytest.mark.parametrize(
        "manager,expected",
        [
            ("dnf", "sudo dnf install -y erofs-utils qemu-system-x86-core"),
            ("pacman", "sudo pacman -S --needed erofs-utils qemu-system-x86"),
            ("brew", "brew install erofs-utils qemu"),
        ],
    )
    def test_elsewhere_the_exact_command_is_printed(self, manager: Manager, expected: str) -> None:
        plan = make_plan((QEMU, EROFS), manager, "sudo")
        assert [step.command for step in plan.steps] == [expected]
        assert not plan.can_act
        assert expected in instructions(plan)

    def test_a_package_the_system_lacks_is_installed_another_way(self) -> None:
        plan = make_plan((QEMU, MMDEBSTRAP), "pacman", "sudo")
        first, *detour = (step.command for step in plan.steps)
        assert first == (
            "sudo pacman -S --needed apt debian-archive-keyring debootstrap perl qemu-system-x86"
        )
        assert detour[0].startswith("sudo sh -c 'debootstrap --download-only ")
        assert all(command in instructions(plan) for command in (first, *detour))
        assert plan.unknown == ()
        assert not plan.can_act

    @pytest.mark.parametrize("manager", ["apt", "dnf", "pacman"])
    def test_on_linux_the_commands_are_complete(self, manager: Manager) -> None:
        plan = make_plan(PACKAGES, manager, "root")
        assert plan.unknown == ()
        for step in plan.steps:
            shell = step.argv[-1] if step.argv[:2] == ("sh", "-c") else step.command
            subprocess.run(["sh", "-n", "-c", shell], check=True)

    def test_a_package_without_a_known_way_is_named(self) -> None:
        plan = make_plan((QEMU, MMDEBSTRAP), "brew", "root")
        assert plan.unknown == (MMDEBSTRAP,)
        assert "Install mmdebstrap" in instructions(plan)

    def test_on_an_unknown_system_everything_is_named(self) -> None:
        plan = make_plan((QEMU,), None, "root")
        assert plan.steps == ()
        assert "Install QEMU (runs the virtual machines)" in instructions(plan)


@pytest.mark.anyio
class TestCarryOut:
    async def test_announces_every_command_and_runs_it(self) -> None:
        announced: list[str] = []
        executed = Executed()
        await carry_out(make_plan((QEMU,), "apt", "root"), announced.append, executed)
        assert len(executed.commands) == 2
        assert all(
            command in text for command, text in zip(executed.commands, announced, strict=True)
        )

    async def test_a_failed_update_does_not_stop_the_install(self) -> None:
        executed = Executed(100)
        await carry_out(make_plan((QEMU,), "apt", "root"), lambda _: None, executed)
        assert len(executed.commands) == 2

    async def test_a_failed_install_is_an_error_with_the_command(self) -> None:
        plan = make_plan((QEMU,), "apt", "root")
        with pytest.raises(SetupIncomplete, match=r"install .*qemu-system-x86 ended with code 100"):
            await carry_out(plan, lambda _: None, Executed(0, 100))

    async def test_without_permission_it_only_explains(self) -> None:
        executed = Executed()
        with pytest.raises(SetupIncomplete, match="dnf install -y qemu-system-x86-core"):
            await carry_out(make_plan((QEMU,), "dnf", "root"), lambda _: None, executed)
        assert executed.commands == []

    async def test_an_empty_plan_runs_nothing(self) -> None:
        executed = Executed()
        await carry_out(make_plan((), None, "none"), lambda _: None, executed)
        assert executed.commands == []


@pytest.mark.parametrize(
    "os_release,manager",
    [
        ('ID=debian\nVERSION_ID="12"\n', "apt"),
        ("ID=ubuntu\nID_LIKE=debian\n", "apt"),
        ("ID=linuxmint\nID_LIKE='ubuntu debian'\n", "apt"),
        ("ID=fedora\n", "dnf"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "dnf"),
        ("ID=arch\n", "pacman"),
        ("ID=manjaro\nID_LIKE=arch\n", "pacman"),
        ("ID=nixos\n", None),
        ("", None),
    ],
)
def test_the_package_manager_follows_from_os_release(os_release: str, manager: str | None) -> None:
    assert detect_manager(os_release, "linux") == manager


def test_a_mac_has_homebrew() -> None:
    assert detect_manager("", "darwin") == "brew"


@pytest.mark.anyio
async def test_root_needs_no_sudo() -> None:
    assert await detect_privilege(is_root=True, interactive=False) == "root"
