"""What is worth waking somebody for, who is told, and again: rules, burn rates, the life of an
alert. Pure but for the channels, which send, and `desk.py`, which writes."""
