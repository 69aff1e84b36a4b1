"""Text in and out: tokenizer, chat templates, parsers of what models write. No torch."""
