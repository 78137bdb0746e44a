"""What a stream and its catalog do, as plain synchronous code: no I/O, no clock of its own."""
