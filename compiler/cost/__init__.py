"""What models and hardware are like, and what a plan costs on them: bytes and seconds. No torch, no network."""
