"""The front door: processes that answer HTTP, the control API and the page."""
