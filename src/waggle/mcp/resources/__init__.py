# SPDX-License-Identifier: Apache-2.0
"""Resources of the protocol: environments, the output of programs, files and archives.

`handlers` adds the handlers of this package to the SDK's low-level server. Only `waggle.mcp.uris`
knows how URIs are formed.
"""
