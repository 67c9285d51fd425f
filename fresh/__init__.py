# SPDX-License-Identifier: Apache-2.0
"""The README's commands, tried on machines that nobody prepared: `./task fresh`."""
