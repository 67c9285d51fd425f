# SPDX-License-Identifier: Apache-2.0
"""The guest kit: programs that run in every machine beside the image and do not change it."""
