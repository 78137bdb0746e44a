"""What is kept: objects in a bucket, a directory or memory, and the log that is made of them."""
