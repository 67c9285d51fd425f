# SPDX-License-Identifier: Apache-2.0
"""The functions of libkrun that waggle declares, and the versions that have them.

The source of `_abi.py`, which the runner imports without cffi's parser; after a change here run
`python -m waggle.infra.krun.declarations`. A test compares the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from waggle.infra.shared.confinement.declarations import generate

# libkrun returns 0 or a non-negative id on success, -errno on failure, and reads every string
# before it returns. A context id of 0 is valid. Only `initramfs` is passed as NULL, which libkrun
# checks for. `krun_start_enter` returns only when the machine could not be built; otherwise the
# process ends with the guest.
LIBKRUN: Final = """
int32_t krun_init_log(int target_fd, uint32_t level, uint32_t style, uint32_t options);
int32_t krun_create_ctx(void);
int32_t krun_set_vm_config(uint32_t ctx, uint8_t cpus, uint32_t mib);
int32_t krun_set_kernel(uint32_t ctx, const char *kernel, uint32_t format,
                        const char *initramfs, const char *command_line);
int32_t krun_add_disk2(uint32_t ctx, const char *id, const char *path, uint32_t format,
                       bool read_only);
int32_t krun_add_disk3(uint32_t ctx, const char *id, const char *path, uint32_t format,
                       bool read_only, bool direct_io, uint32_t sync_mode);
int32_t krun_disable_implicit_init(uint32_t ctx);
int32_t krun_disable_implicit_vsock(uint32_t ctx);
int32_t krun_add_vsock(uint32_t ctx, uint32_t tsi_features);
int32_t krun_add_vsock_port2(uint32_t ctx, uint32_t port, const char *path, bool listen);
int32_t krun_set_console_output(uint32_t ctx, const char *path);
int32_t krun_add_virtio_console_multiport(uint32_t ctx);
int32_t krun_add_console_port_inout(uint32_t ctx, uint32_t console, const char *name,
                                    int input_fd, int output_fd);
int32_t krun_get_max_vcpus(void);
int32_t krun_start_enter(uint32_t ctx);
"""

# 1.17 is the first version with everything that is required. `krun_add_disk3` and
# `krun_disable_implicit_init` are used where they exist: without a virtio-fs root there is no
# implicit init anyway. 2.x has no implicit devices, and lacks the calls that turn them off.
SINCE: Final = {
    "krun_create_ctx": "1.0",
    "krun_set_vm_config": "1.0",
    "krun_set_console_output": "1.0",
    "krun_start_enter": "1.0",
    "krun_add_disk2": "1.10",
    "krun_init_log": "1.13",
    "krun_set_kernel": "1.17",
    "krun_add_vsock_port2": "1.17",
    "krun_get_max_vcpus": "1.17",
    "krun_add_virtio_console_multiport": "1.17",
    "krun_add_console_port_inout": "1.17",
    "krun_disable_implicit_vsock": "1.17",
    "krun_add_vsock": "1.17",
    "krun_add_disk3": "1.17",
    "krun_disable_implicit_init": "1.19",
}
"""A version that has the function: the first one, where the release notes name it."""

OPTIONAL: Final = frozenset({"krun_add_disk3", "krun_disable_implicit_init"})
GONE_IN_2: Final = frozenset({"krun_set_console_output", "krun_disable_implicit_vsock"})


if __name__ == "__main__":
    module = "waggle.infra.krun.declarations"
    Path(__file__).with_name("_abi.py").write_text(generate(LIBKRUN, module), "utf-8")
