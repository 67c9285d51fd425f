# SPDX-License-Identifier: Apache-2.0
"""The self-confinement of a process before it becomes a VMM: namespaces, a small root, seccomp.

Used inside the processes that `infra.krun` and `infra.qemu` start, never by the server itself.
Every import costs every boot: only `_cffi_backend` and built-in or cheap modules are allowed.
"""
