"""From what was measured to what it means: functions from the past to findings."""
