"""From OpenAI's dialect into Anthropic's and back: requests, answers, streams, errors. Pure."""
