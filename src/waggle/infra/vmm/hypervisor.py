# SPDX-License-Identifier: Apache-2.0
"""Boot machines with a VMM that has an API: the common part of the adapters' hypervisors.

Starts one guarded VMM per machine (`starter`). The operator brings its program, and keeps those
that made frozen machines (`binaries`): a state is locked to one program. An adapter's own says what
its machines are.
"""

from __future__ import annotations

import contextlib
import os
from abc import abstractmethod
from collections.abc import Callable, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, Generic, TypeVar, cast

from waggle.domain.errors import FrozenMachineUnusable, SetupIncomplete
from waggle.domain.machine import FrozenState, MachineSpec, Resources
from waggle.infra.guest.boot import until_booted
from waggle.infra.guest.console import Console
from waggle.infra.guest.frozen import FrozenFiles, Origin, reopened
from waggle.infra.shared.confined import Enclose
from waggle.infra.shared.processor import host_cpu
from waggle.infra.vmm.binaries import Binary
from waggle.infra.vmm.machine import Program, VmmMachine
from waggle.infra.vmm.process import GuardedProcess, Start
from waggle.infra.vmm.standby import Standby
from waggle.infra.vmm.version import TITLES, Version, Vmm
from waggle.infra.vmm.wires import open_wires
from waggle.tasks import stage

Find = Callable[[Vmm, str, str], Binary]
"""Returns the program with a digest and a version; see `vmm.binaries.BinaryStore.find`."""
Newest = Callable[[Vmm], Binary]
"""Returns the newest program that is here now; see `vmm.binaries.BinaryStore.newest`."""
Made = TypeVar("Made", bound=VmmMachine)
_PARTS: Final = {"cpu": "processor", "machine": "kind of machine"}
_SPARE_MIB = 64
"""What fits in a machine's /run besides its memory."""


class VmmHypervisor(Generic[Made]):
    """A hypervisor. The `newest` program boots machines; `find` has those of frozen ones.

    `jailed` uses the jailer that came with a program, which needs root. `enclose` limits the
    resources of the VMM with a given process number; see `infra.shared.confined`. `io_mib` is MiB a
    second of a scratch disk in each direction, 0 for no limit.
    """

    vmm: ClassVar[Vmm]
    machine: ClassVar[type[VmmMachine]]
    """Of its machines: `Made`, which a class variable cannot name."""
    has_initrd: ClassVar[bool] = False
    noise: ClassVar[str] = ""
    """Messages of the VMM with these words are not kept, see `guest.console`."""

    def __init__(
        self,
        newest: Newest,
        find: Find,
        *,
        jailed: bool,
        enclose: Callable[[Resources, int], Callable[[], None]] | None = None,
        io_mib: int = 0,
    ) -> None:
        self._newest = newest
        self._find = find
        self._jailed = jailed
        self._enclose = enclose
        self._io_mib = io_mib
        self.standby = Standby()

    @abstractmethod
    def _kind(self) -> str:
        """Return a digest that changes with the machine's hardware: other state would not fit."""

    @abstractmethod
    def _arguments(self, *, boots: bool) -> tuple[str, ...]:
        """Return the command line of a VMM that `boots` a machine, or else makes a copy."""

    def _texts(self, resources: Resources, version: Version) -> dict[str, str]:
        """Return the files that a VMM that boots a machine reads at its root, by name."""
        return {}

    async def boot(self, spec: MachineSpec) -> Made:
        """Boot a machine; see `domain.machine.Hypervisor.boot`.

        Raises BootFailed, PortTaken, or SetupIncomplete when the VMM cannot be started.
        """
        with self._preparing_the_next():
            machine = self._start(spec, self._newest(self.vmm))
            await until_booted(machine, spec.boot_timeout)
        return machine

    @contextlib.contextmanager
    def _preparing_the_next(self) -> Generator[None]:
        """Have a guard wait for the next machine, some time after this one has come up or not."""
        try:
            yield
        finally:
            self.standby.follow()

    def fingerprint(self, frozen: FrozenState | None = None) -> Mapping[str, str]:
        """See `domain.machine.FreezingHypervisor.fingerprint`."""
        made_by = frozen.vmm if frozen else _name(self._newest(self.vmm))
        version, _, digest = made_by.partition(" ")
        return {"vmm": digest, "version": version, **self._hardware()}

    def _hardware(self) -> dict[str, str]:
        return {"machine": self._kind(), "cpu": host_cpu()}

    def lock(self, fingerprint: Mapping[str, str]) -> str | None:
        """See `domain.machine.FreezingHypervisor.lock`. The newest program may be unusable."""
        theirs = dict(fingerprint)
        digest, version = theirs.pop("vmm", ""), theirs.pop("version", "")
        try:
            self._find(self.vmm, digest, version)
        except SetupIncomplete as error:
            said = f"{error.message} {error.hint or ''}".strip().rstrip(".")
            return f"{TITLES[self.vmm]}. {said}"
        ours = self._hardware()
        differs = {k for k in {**ours, **theirs} if ours.get(k) != theirs.get(k)}
        return next((_PARTS.get(name, name) for name in sorted(differs)), None)

    def load(
        self, directory: Path, fingerprint: Mapping[str, str], *, alone: bool = False
    ) -> FrozenFiles:
        """See `domain.machine.FreezingHypervisor.load`. Memory is mapped privately in any case."""
        return FrozenFiles.load(directory, self._maker(fingerprint))

    def _maker(self, fingerprint: Mapping[str, str]) -> str:
        """Return the program of a frozen machine. Raises SetupIncomplete if it is not here.

        The program says which version it is: an imported fingerprint may say nothing.
        """
        version, digest = fingerprint.get("version", ""), fingerprint.get("vmm", "")
        return _name(self._find(self.vmm, digest, version))

    async def resume(self, spec: MachineSpec, frozen: FrozenState, *, alone: bool = False) -> Made:
        """See `domain.machine.FreezingHypervisor.resume`.

        Raises FrozenMachineUnusable when its memory does not fit the machine.
        """
        version, _, digest = frozen.vmm.partition(" ")
        binary = self._find(self.vmm, digest, version)
        if os.fstat(frozen.ram).st_size != spec.resources.memory_mib << 20:
            raise FrozenMachineUnusable("Its memory has another size than the machine.")
        with self._preparing_the_next():
            with stage("process"):
                machine = self._start(spec, binary, frozen)
            with stage("state"):
                await until_booted(machine, spec.boot_timeout)
        return machine

    def _start(self, spec: MachineSpec, binary: Binary, frozen: FrozenState | None = None) -> Made:
        """Open everything, start the VMM, and close what only the VMM needs."""
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
            console = Console(spec.console_log, self.noise)
            undo.callback(console.close)
            wires, inherited = open_wires(spec, undo, theirs, initrd=self.has_initrd)
            origin = None
            if frozen is not None:
                origin = Origin(frozen.ram, frozen.state)
                undo.callback(origin.close)
            memory = reopened(frozen.ram) if frozen else os.open(os.devnull, os.O_RDONLY)
            theirs.callback(os.close, memory)
            start = Start(
                program=binary.path,
                arguments=self._arguments(boots=frozen is None),
                texts=self._texts(spec.resources, binary.version) if frozen is None else {},
                jailer=binary.jailer if self._jailed and spec.uid is not None else None,
                id=spec.id,
                files=inherited.files,
                directory=spec.console_log.parent,
                run_mib=spec.resources.memory_mib + _SPARE_MIB,
                memory=memory,
                messages=inherited.messages,
                uid=spec.uid,
                background=spec.background,
                identity=binary.identity,
                jailer_identity=binary.jailer_identity,
            )
            enclose = self._enclose and partial(self._enclose, spec.resources)
            process = self._guarded(start, enclose)
            undo.pop_all()
            program = Program(_name(binary), binary.version)
            made = self.machine(spec, process, console, wires, program, origin, io_mib=self._io_mib)
            return cast("Made", made)

    def _guarded(self, start: Start, enclose: Enclose | None) -> GuardedProcess:
        """Start the VMM below the guard that waits, or else below a new one."""
        guard = None if start.background else self.standby.take()
        if guard is None:
            return GuardedProcess.launch(start, enclose)
        try:
            guard.begin(start, enclose)
        except BrokenPipeError:  # it has ended just now
            guard.abandon()
            return GuardedProcess.launch(start, enclose)
        except BaseException:
            guard.abandon()
            raise
        return guard


def _name(binary: Binary) -> str:
    """Return what a state is locked to: version and digest."""
    return f"{binary.version} {binary.digest}"
