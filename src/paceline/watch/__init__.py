"""What happened, what it means, and who is told: history, analysis, alerts, reports."""
