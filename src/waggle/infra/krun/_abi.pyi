# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

class Pointer: ...

# Functions are looked up at first use; `FFI.error` when the library lacks one.
class Library:
    def __getattr__(self, name: str) -> Callable[..., int]: ...

class FFI:
    NULL: Pointer
    error: type[Exception]
    def dlopen(self, path: str) -> Library: ...

ffi: FFI
