# SPDX-License-Identifier: Apache-2.0
"""Packages of the guest agent and of the server, for Debian and RPM systems: `./task packages`."""
