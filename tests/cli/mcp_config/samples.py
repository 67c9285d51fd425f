# SPDX-License-Identifier: Apache-2.0
"""Files of clients' settings that an entry is merged into."""

from __future__ import annotations

JSON = {
    "nothing": "",
    "empty": "{}",
    "empty section": '{"mcpServers": {}}\n',
    "other keys": '{\n    "theme": "dark"\n}\n',
    "other servers": '{\n\t"mcpServers": {\n\t\t"a": {"command": "x"}\n\t},\n\t"z": [1, 2.50]\n}\n',
    "ours": '{"a": 1, "mcpServers": {"waggle": {"command": "old", "env": {"X": "1"}}, "b": {}}}',
    "comments": (
        '// settings\n{\n  // mine\n  "a": "//no comment", /* "mcpServers": {} */\n'
        '  "mcpServers": {\n    // the first\n    "one": {"command": "x",},\n  },\n}\n// end\n'
    ),
    "one comment": "{\n  // nothing yet\n}\n",
    "carriage returns": '{\r\n  "mcpServers": {\r\n    "a": {}\r\n  }\r\n}\r\n',
    "strange names": '{"\\u006dcpServers": {"a\\"b{": {}}, "{": "}", "number": 1e3, "t": true}',
}
