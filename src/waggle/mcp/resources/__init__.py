# SPDX-License-Identifier: Apache-2.0
"""Resources: environments, what programs printed and files, as the protocol serves them.

`handlers` puts the handlers of this package into the SDK's low-level server. Each file has one
noun; `uris` is the one place that knows names.
"""
