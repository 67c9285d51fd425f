# SPDX-License-Identifier: Apache-2.0
"""The host's ends of every guest's channels, whatever its hypervisor."""
