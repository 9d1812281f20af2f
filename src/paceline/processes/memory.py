"""What the allocator does with memory that was freed, where that can be said (glibc).

By default it gives large blocks back to the system and asks for them again, and the system clears
each page on its way: of parsing a body of a megabyte that was more than half. Called by processes
that handle large bodies again and again, at their start.
"""

import ctypes

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


def keep_freed(most_bytes: int) -> bool:
    """Keeps up to so many bytes for the next. False where this allocator has no such setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, most_bytes)) and bool(
        mallopt(M_TRIM_THRESHOLD, most_bytes)
    )
