# SPDX-License-Identifier: Apache-2.0
"""The host's ends of what every guest speaks, whatever its hypervisor: console and agent."""
