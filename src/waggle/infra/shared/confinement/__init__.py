# SPDX-License-Identifier: Apache-2.0
"""What a process does to itself before it becomes a machine: namespaces, a small root, seccomp.

Used inside the processes that `infra.krun` and `infra.qemu` start, never by the server itself. Each
import costs every boot: nothing but `_cffi_backend` and built-in or cheap modules.
"""
