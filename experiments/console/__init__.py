"""How every command reads its line, speaks, and ends."""
