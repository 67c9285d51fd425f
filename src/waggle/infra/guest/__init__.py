# SPDX-License-Identifier: Apache-2.0
"""The host's ends of the channels of every guest, whatever its hypervisor: console and agent."""
