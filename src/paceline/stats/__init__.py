"""The arithmetic of judging, pure: no I/O, no clock. Called by recording and by all who judge."""
