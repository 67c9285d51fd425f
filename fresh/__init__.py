# SPDX-License-Identifier: Apache-2.0
"""The README's commands, run on machines without preparation: `./task fresh`."""
