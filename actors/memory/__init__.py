"""What an agent remembers beyond one run: threads and whose they are, working memory, and what is shown of it."""
