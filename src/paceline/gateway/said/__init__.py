"""What was said in LLM calls, kept where the settings ask for it: hidden in part, bounded, for a
while. Off by default."""
