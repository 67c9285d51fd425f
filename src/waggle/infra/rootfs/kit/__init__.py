# SPDX-License-Identifier: Apache-2.0
"""The guest kit: what runs inside every machine, beside the image and without touching it."""
