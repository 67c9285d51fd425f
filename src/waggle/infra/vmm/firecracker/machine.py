# SPDX-License-Identifier: Apache-2.0
"""Models of Firecracker's API for kernel, processors and memory, named as in its OpenAPI document.

A `Version` in a field's metadata is the first one that has it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from waggle.infra.vmm.fields import MAX_LIST, Arguments, Bits, Body, Path, Small

CpuTemplate = Literal["C3", "T2", "T2S", "T2CL", "T2A", "V1N1", "None"]
"""Deprecated."""
Number = Annotated[str, Field(max_length=64, pattern=r"^0(x[0-9a-fA-F]+|b[01]+)$")]
"""A number as text, hexadecimal or binary. The document has decimal ones, which are refused."""
Capability = Annotated[str, Field(max_length=16, pattern=r"^!?[0-9]+$")]
"""The number of a capability of KVM; with `!` it is not demanded."""
HugePages = Literal["None", "Transparent", "2M"]
"""`Transparent` begins with 1.17."""
Processors = Annotated[int, Field(ge=1, le=32)]


class BootSource(Body):
    """What is started. Paths are those that Firecracker sees."""

    boot_args: Arguments | None = None
    initrd_path: Path | None = None
    kernel_image_path: Path


class MachineConfiguration(Body):
    """Processors and memory. `track_dirty_pages` is needed for snapshots of the kind Diff."""

    cpu_template: CpuTemplate | None = None
    smt: bool | None = None
    mem_size_mib: Small
    track_dirty_pages: bool | None = None
    vcpu_count: Processors
    huge_pages: HugePages | None = None


class PartialMachineConfiguration(Body):
    """A subset of MachineConfiguration, which the document names for this, too."""

    cpu_template: CpuTemplate | None = None
    smt: bool | None = None
    mem_size_mib: Small | None = None
    track_dirty_pages: bool | None = None
    vcpu_count: Processors | None = None
    huge_pages: HugePages | None = None


class CpuidRegisterModifier(Body):
    """Bits of a register of CPUID."""

    model_config = ConfigDict(populate_by_name=True)

    register_: Annotated[Literal["eax", "ebx", "ecx", "edx"], Field(alias="register")]
    bitmap: Bits


class CpuidLeafModifier(Body):
    """Registers of a leaf of CPUID (x86_64)."""

    leaf: Number
    subleaf: Number
    flags: Small
    modifiers: Annotated[list[CpuidRegisterModifier], Field(max_length=MAX_LIST)]


class MsrModifier(Body):
    """Bits of a model specific register (x86_64)."""

    addr: Number
    bitmap: Bits


class ArmRegisterModifier(Body):
    """Bits of a register (aarch64)."""

    addr: Number
    bitmap: Bits


class VcpuFeatures(Body):
    """Bits of `kvm_vcpu_init.features` (aarch64)."""

    index: Small
    bitmap: Bits


class CpuConfig(Body):
    """What processors offer the guest, as changes to what they offer the host."""

    kvm_capabilities: Annotated[list[Capability], Field(max_length=MAX_LIST)] | None = None
    cpuid_modifiers: Annotated[list[CpuidLeafModifier], Field(max_length=MAX_LIST)] | None = None
    msr_modifiers: Annotated[list[MsrModifier], Field(max_length=MAX_LIST)] | None = None
    reg_modifiers: Annotated[list[ArmRegisterModifier], Field(max_length=MAX_LIST)] | None = None
    vcpu_features: Annotated[list[VcpuFeatures], Field(max_length=MAX_LIST)] | None = None
