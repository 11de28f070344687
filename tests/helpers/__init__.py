"""Parts that tests share. None of these files holds a test."""
