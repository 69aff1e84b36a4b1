"""What providers speak: pure encoders of requests and readers of streams, one file a format."""
