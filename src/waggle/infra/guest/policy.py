# SPDX-License-Identifier: Apache-2.0
"""What a server allows the agents in its guests: what it asks them for itself, and nothing else.

A machine gets this with its identity (`infra.rootfs.machine_disks`). PID 1 keeps it where no file
of the guest can replace it, and the agent must find a request allowed by this and by the kit's own
policy. So whoever else reaches the channel reads no file by it, and runs no program.
"""

from __future__ import annotations

import json
from typing import Final

SERVER_POLICY: Final = json.dumps(
    {
        "methods": {
            "allow": [
                *("ping", "get_agent_info", "get_system_info", "get_network_info"),
                *("get_disk_usage", "get_metrics", "get_users"),
                *("sync_filesystems", "shutdown", "reboot"),
            ]
        },
        "read": {"allow": []},
        "write": {"allow": []},
        "exec": None,
        "users": ["root"],
        "limits": {"requests": 8, "processes": 1, "timeout_seconds": 60},
        "audit": ["port"],
    }
).encode()
