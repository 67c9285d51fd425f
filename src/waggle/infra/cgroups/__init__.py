# SPDX-License-Identifier: Apache-2.0
"""A control group (cgroup v2) of its own for each machine, where this system has them for us."""
